"""Descriptors, pipes, sockets and locks of the simulated machine. Everything is delivered in pieces.

Descriptors are numbered as a kernel does, the lowest free one first, so that a number that is used after its close
means something else.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from typing import Any

from .scheduler import Process, Scheduler, Waitable

READABLE, WRITABLE = 1, 4  # POLLIN and POLLOUT, EPOLLIN and EPOLLOUT
_HANG_UP = 16


def system_error(number: int, what: str = "") -> OSError:
    """The error a system call fails with."""
    return OSError(number, os.strerror(number), *((what,) if what else ()))


class Description(Waitable):
    """An open file description: what descriptors, of one process or several, refer to."""

    __slots__ = ("nonblocking", "references")

    def __init__(self) -> None:
        super().__init__()
        self.references = 0
        self.nonblocking = False

    def ready(self) -> int:
        """Which of READABLE and WRITABLE would not block."""
        return READABLE | WRITABLE

    def gone(self, kernel: Kernel) -> None:
        """The last descriptor was closed."""


class Pipe:
    """Bytes on their way, ``room`` at most."""

    def __init__(self, room: int) -> None:
        self.data = bytearray()
        self.room = room
        self.reader = PipeReader(self)
        self.writer = PipeWriter(self)


class PipeReader(Description):
    """The end that is read."""

    __slots__ = ("pipe",)

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self.pipe = pipe

    def ready(self) -> int:
        if self.pipe.data:
            return READABLE
        return 0 if self.pipe.writer.references else READABLE | _HANG_UP

    def gone(self, kernel: Kernel) -> None:
        kernel.notify(self.pipe.writer)


class PipeWriter(Description):
    """The end that is written."""

    __slots__ = ("pipe",)

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self.pipe = pipe

    def ready(self) -> int:
        if not self.pipe.reader.references:
            return WRITABLE | _HANG_UP
        return WRITABLE if len(self.pipe.data) < self.pipe.room else 0

    def gone(self, kernel: Kernel) -> None:
        kernel.notify(self.pipe.reader)


class Endpoint(Description):
    """One side of a connected socket; what it was sent waits in ``inbox``, with descriptions on their way."""

    __slots__ = ("inbox", "owner_uid", "peer", "reset", "was_closed")

    def __init__(self) -> None:
        super().__init__()
        self.inbox: deque[tuple[bytes, list[Description]]] = deque()
        self.peer: Endpoint = self
        self.reset = False
        self.was_closed = False

    def ready(self) -> int:
        heard = self.inbox or self.peer.was_closed or self.reset
        return WRITABLE | (READABLE if heard else 0)

    def gone(self, kernel: Kernel) -> None:
        self.was_closed = True
        self.peer.reset |= bool(self.inbox)
        for _, carried in self.inbox:
            for description in carried:
                kernel.release(description)
        self.inbox.clear()
        kernel.notify(self.peer)


class Listener(Description):
    """A bound socket and who has connected to it and was not accepted yet."""

    __slots__ = ("backlog", "queue")

    def __init__(self) -> None:
        super().__init__()
        self.backlog = 0
        self.queue: deque[Endpoint] = deque()

    def ready(self) -> int:
        return READABLE if self.queue else 0

    def gone(self, kernel: Kernel) -> None:
        for endpoint in self.queue:
            endpoint.peer.reset = True
            endpoint.gone(kernel)
        self.queue.clear()


class Kernel(Scheduler):
    """The scheduler, and what processes share beside the disk."""

    def __init__(self, seed: str, switch_share: float, step_ns: int, pipe_bytes: int, pieces: float) -> None:
        super().__init__(seed, switch_share, step_ns)
        self.pipe_bytes = pipe_bytes
        self._pieces = pieces  # share of reads and writes that are short
        self.locks: dict[str, Process] = {}
        self.on_bury = self._bury
        self.burial_is_slow = False

    # --- descriptors --------------------------------------------------------------------------------------------------

    @property
    def process(self) -> Process:
        """Whose system call this is."""
        assert self.current is not None
        return self.current.process

    def install(self, description: Description, process: Process | None = None) -> int:
        """A new descriptor of a process."""
        table = (process or self.process).descriptors
        fd = 3
        while fd in table:
            fd += 1
        table[fd] = description
        description.references += 1
        return fd

    def look_up(self, fd: int) -> Any:
        """What a descriptor refers to."""
        try:
            return self.process.descriptors[fd]
        except KeyError:
            raise system_error(errno.EBADF) from None

    def close(self, fd: int) -> None:
        """Close a descriptor of the current process."""
        if self.current is None or self._halted:
            return  # an object of a run that is over is deleted
        self.step()
        try:
            description = self.process.descriptors.pop(fd)
        except KeyError:
            raise system_error(errno.EBADF) from None
        self.release(description)

    def release(self, description: Description) -> None:
        """One reference less."""
        description.references -= 1
        if not description.references:
            description.gone(self)

    def _bury(self, process: Process) -> None:
        """Close what a dead process had open, in any order and, if so drawn, not all at once."""
        ends: list[Any] = [*process.descriptors.values(), *process.locks]
        self.rng.shuffle(ends)
        process.descriptors, process.locks = {}, []
        moment_ns = self.now_ns
        for end in ends:
            if self.burial_is_slow:
                moment_ns += int(self.random() * 300_000)
                self.at(moment_ns, self._let_go, end, process)
            else:
                self._let_go(end, process)

    def _let_go(self, end: Any, process: Process) -> None:
        if isinstance(end, str):
            self.unlock(end, process)
        else:
            self.release(end)

    # --- pipes --------------------------------------------------------------------------------------------------------

    def pipe(self) -> tuple[int, int]:
        """A new pipe's descriptors."""
        self.step()
        pipe = Pipe(self.pipe_bytes)
        return self.install(pipe.reader), self.install(pipe.writer)

    def _piece(self, most: int) -> int:
        return self.rng.randint(1, most) if most > 1 and self.random() < self._pieces else most

    def read_pipe(self, reader: PipeReader, most: int) -> bytes:
        """What there is, or a part of it; empty at the end."""
        pipe = reader.pipe
        while not pipe.data:
            if not pipe.writer.references:
                return b""
            if reader.nonblocking:
                raise system_error(errno.EAGAIN)
            self.wait([reader])
        count = self._piece(min(most, len(pipe.data)))
        data = bytes(pipe.data[:count])
        del pipe.data[:count]
        self.notify(pipe.writer)
        return data

    def write_pipe(self, writer: PipeWriter, data: bytes | memoryview) -> int:
        """Write what fits, or a part of it."""
        pipe = writer.pipe
        while True:
            if not pipe.reader.references:
                raise system_error(errno.EPIPE)
            room = pipe.room - len(pipe.data)
            if room > 0:
                break
            if writer.nonblocking:
                raise system_error(errno.EAGAIN)
            self.wait([writer])
        count = self._piece(min(room, len(data)))
        pipe.data += data[:count]
        self.notify(pipe.reader)
        return count

    # --- sockets ------------------------------------------------------------------------------------------------------

    def connect(self, listener: Listener | None) -> Endpoint:
        """A connection to whoever listens."""
        if listener is None or not listener.references:
            raise system_error(errno.ECONNREFUSED)
        if len(listener.queue) >= max(1, listener.backlog):
            raise system_error(errno.EAGAIN)
        ours, theirs = Endpoint(), Endpoint()
        ours.peer, theirs.peer = theirs, ours
        listener.queue.append(theirs)
        self.notify(listener)
        return ours

    def send(self, endpoint: Endpoint, data: bytes, carried: list[Description]) -> None:
        """Send all of it; the peer receives it in pieces."""
        if endpoint.peer.was_closed:
            raise system_error(errno.EPIPE)
        for description in carried:
            description.references += 1
        while data:
            count = self._piece(len(data))
            endpoint.peer.inbox.append((data[:count], carried))
            data, carried = data[count:], []
        self.notify(endpoint.peer)

    def receive(self, endpoint: Endpoint, most: int, until_ns: int | None) -> tuple[bytes, list[Description]]:
        """What has come; empty at the end."""
        while not endpoint.inbox:
            if endpoint.reset:
                endpoint.reset = False
                raise system_error(errno.ECONNRESET)
            if endpoint.peer.was_closed:
                return b"", []
            if endpoint.nonblocking:
                raise system_error(errno.EAGAIN)
            if until_ns is not None and self.now_ns >= until_ns:
                raise TimeoutError("timed out")
            self.wait([endpoint], until_ns)
        data, carried = endpoint.inbox.popleft()
        if len(data) > most:
            endpoint.inbox.appendleft((data[most:], []))
            data = data[:most]
        return data, carried

    # --- locks --------------------------------------------------------------------------------------------------------

    def lock(self, path: str) -> bool:
        """Take a lock that the kernel lets go of when its process ends; False if it is held."""
        if path in self.locks:
            return False
        self.locks[path] = self.process
        self.process.locks.append(path)
        return True

    def unlock(self, path: str, process: Process) -> None:
        """Let go of it."""
        if self.locks.get(path) is process:
            del self.locks[path]
        if path in process.locks:
            process.locks.remove(path)
