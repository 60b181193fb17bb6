"""Descriptors, pipes and those who wait for them. Pipes deliver in pieces, and report the end of the other side.

A descriptor belongs to one process, which is given the lowest of its own that are free, as a kernel does: a number that
is used after its close means something else. When a process ends they are closed, whatever it still tries.
"""

from __future__ import annotations

import errno
import heapq
import os
import select
from typing import Any

from tests.simulation.world.scheduler import Process, Scheduler

_FIRST_FD = 1_000_000


class Pipe:
    """Bytes on their way."""

    __slots__ = ("capacity", "data", "readers", "writers")

    def __init__(self, capacity: int) -> None:
        self.data = bytearray()
        self.capacity = capacity
        self.readers = 1
        self.writers = 1


class End:
    """One end of a pipe as one process has it."""

    __slots__ = ("blocking", "is_reader", "owner", "pipe")

    def __init__(self, pipe: Pipe, is_reader: bool, owner: Process) -> None:
        self.pipe = pipe
        self.is_reader = is_reader
        self.owner = owner
        self.blocking = True

    def ready(self) -> bool:
        """Whether a read, or a write, would return at once."""
        pipe = self.pipe
        if self.is_reader:
            return bool(pipe.data) or not pipe.writers
        return len(pipe.data) < pipe.capacity or not pipe.readers

    def closed(self) -> None:
        """Its process has let go of it."""
        if self.is_reader:
            self.pipe.readers -= 1
        else:
            self.pipe.writers -= 1


class Thing:
    """A descriptor of something else: a segment, a page of slots, a listener, a visitor."""

    __slots__ = ("content", "owner")

    def __init__(self, content: Any, owner: Process) -> None:
        self.content = content
        self.owner = owner

    def ready(self) -> bool:
        """Whether there is something to read."""
        return bool(self.content.ready())

    def closed(self) -> None:
        """Nothing to be done: what it stands for lives on as long as someone has it."""


class Descriptors:
    """All descriptors of the machine, and the calls that take one."""

    def __init__(self, scheduler: Scheduler, pipe_bytes: int, cut_rate: float) -> None:
        self._scheduler = scheduler
        self._rng = scheduler.rng
        self._table: dict[int, Any] = {}
        self._free: dict[Process, list[int]] = {}
        self._next = _FIRST_FD
        self._pipe_bytes = pipe_bytes
        self._cut_rate = cut_rate

    def open(self, thing: Any) -> int:
        """A new descriptor."""
        free = self._free.get(thing.owner)
        if free:
            fd = heapq.heappop(free)
        else:
            fd = self._next = self._next + 1
        self._table[fd] = thing
        return fd

    def get(self, fd: int) -> Any:
        """What a descriptor stands for, None if it is closed."""
        return self._table.get(fd)

    def give(self, fd: int, owner: Process) -> int:
        """A descriptor of the same, for another process: what sending one over a socket does."""
        thing = self._table[fd]
        if isinstance(thing, Thing):
            return self.open(Thing(thing.content, owner))
        if thing.is_reader:
            thing.pipe.readers += 1
        else:
            thing.pipe.writers += 1
        return self.open(End(thing.pipe, thing.is_reader, owner))

    def pipe(self) -> tuple[int, int]:
        """os.pipe."""
        self._scheduler.step()
        assert self._scheduler.current is not None
        owner = self._scheduler.current.process
        pipe = Pipe(self._pipe_bytes)
        return self.open(End(pipe, True, owner)), self.open(End(pipe, False, owner))

    def close(self, fd: int) -> None:
        """os.close. No step: it is called when objects are dropped, too."""
        thing = self._table.pop(fd, None)
        if thing is not None:
            thing.closed()
            heapq.heappush(self._free.setdefault(thing.owner, []), fd)

    def close_all(self, process: Process) -> None:
        """What the kernel does at the end of a process."""
        for fd in [fd for fd, thing in self._table.items() if thing.owner is process]:
            self.close(fd)

    def set_blocking(self, fd: int, blocking: bool) -> None:
        """os.set_blocking."""
        self._table[fd].blocking = blocking

    def read(self, fd: int, n_bytes: int) -> bytes:
        """os.read: a part of what is there."""
        self._scheduler.step()
        end = self._end(fd)
        pipe = end.pipe
        if not pipe.data and pipe.writers:
            if not end.blocking:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            self._scheduler.wait(end.ready)
        data = bytes(pipe.data[: self._piece(min(n_bytes, len(pipe.data)))])
        del pipe.data[: len(data)]
        return data

    def write(self, fd: int, data: bytes) -> int:
        """os.write: a part of it, or what there is room for."""
        self._scheduler.step()
        end = self._end(fd)
        pipe = end.pipe
        if pipe.readers and len(pipe.data) >= pipe.capacity:
            if not end.blocking:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            self._scheduler.wait(end.ready)
        if not pipe.readers:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        n_bytes = self._piece(min(len(data), pipe.capacity - len(pipe.data)))
        pipe.data += bytes(data[:n_bytes])
        return n_bytes

    def _piece(self, n_bytes: int) -> int:
        if n_bytes > 1 and self._rng.random() < self._cut_rate:
            return self._rng.randint(1, n_bytes)
        return n_bytes

    def _end(self, fd: int) -> End:
        end = self._table.get(fd)
        if end is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        assert isinstance(end, End)
        return end


class Poll:
    """select.poll: a few descriptors, looked at or waited for."""

    def __init__(self, scheduler: Scheduler, descriptors: Descriptors) -> None:
        self._scheduler = scheduler
        self._descriptors = descriptors
        self._fds: dict[int, int] = {}

    def register(self, fd: int, mask: int = select.POLLIN) -> None:
        """Watch ``fd``."""
        self._fds[fd] = mask

    def unregister(self, fd: int) -> None:
        """No longer."""
        del self._fds[fd]

    def poll(self, timeout_ms: float | None = None) -> list[tuple[int, int]]:
        """Those that are ready, after ``timeout_ms`` at the latest."""
        if timeout_ms == 0:
            self._scheduler.step()
        else:
            self._scheduler.wait(self._any, float("inf") if timeout_ms is None else timeout_ms / 1000)
        return self._ready()

    def _watched(self, fd: int) -> Any:
        return self._descriptors.get(fd)

    def _any(self) -> bool:
        get = self._watched
        return any((thing := get(fd)) is not None and thing.ready() for fd in self._fds)

    def _ready(self) -> list[tuple[int, int]]:
        get = self._watched
        return [(fd, m) for fd, m in self._fds.items() if (thing := get(fd)) is not None and thing.ready()]


class Epoll(Poll):
    """select.epoll: the same with seconds, in any order. A descriptor that was closed is not watched any more."""

    def __init__(self, scheduler: Scheduler, descriptors: Descriptors) -> None:
        super().__init__(scheduler, descriptors)
        self._things: dict[int, Any] = {}

    def register(self, fd: int, mask: int = select.POLLIN) -> None:
        super().register(fd, mask)
        self._things[fd] = self._descriptors.get(fd)

    def _watched(self, fd: int) -> Any:
        thing = self._descriptors.get(fd)
        return thing if thing is self._things[fd] else None

    def poll(self, timeout_s: float | None = None) -> list[tuple[int, int]]:
        if timeout_s == 0:
            self._scheduler.step()
        else:
            self._scheduler.wait(self._any, float("inf") if timeout_s is None or timeout_s < 0 else timeout_s)
        ready = self._ready()
        if len(ready) > 1:
            self._scheduler.rng.shuffle(ready)
        return ready

    def unregister(self, fd: int) -> None:
        if not self._scheduler.current or not self._scheduler.current.process.alive:
            return
        del self._fds[fd]

    def close(self) -> None:
        """Nobody waits here any more."""
        self._fds.clear()
        self._things.clear()
