"""The processes attached to a coordinator: their pipes, their snapshot slots, and what they have not read yet.

- A client's request pipe reports its end when the last process that holds it is gone, however it went. A child that
  was forked without Python's knowledge holds it, too: so the process itself is watched, where the system can
  (``Processes``). The client's slots are free at the first of these moments, and nothing else of it is kept.
- The coordinator never waits for a client: answers that do not fit a pipe are kept, up to a bound, and a client that
  lets them grow beyond it is dropped. It finds out at its next commit and attaches anew.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select

from shoal.shm.limits import MAX_CLIENT_BACKLOG_BYTES, PIPE_BYTES
from shoal.shm.memory import snapshots
from shoal.shm.memory.snapshots import SnapshotPage
from shoal.shm.wire import handshake
from shoal.shm.wire.frames import FrameBuffer

_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)


class Client:
    """One attached process."""

    __slots__ = (
        "answer_fd",
        "backlog",
        "buffer",
        "client_id",
        "comes_back",
        "database_id",
        "last_group",
        "page",
        "pid",
        "request_fd",
        "was_back",
    )

    def __init__(self, client_id: int, pid: int, request_fd: int, answer_fd: int, page: SnapshotPage) -> None:
        self.client_id = client_id
        self.pid = pid
        self.request_fd = request_fd
        self.answer_fd = answer_fd
        self.page = page
        self.database_id = client_id  # of the open database it belongs to, if that has several clients
        self.buffer = FrameBuffer()
        self.backlog = b""
        # For ``gathering``: the last group it was in, whether it had been in one of the two before that, and how often
        # of late it came when it was waited for.
        self.last_group = -2
        self.was_back = False
        self.comes_back = 0

    def send(self, data: bytes) -> bool:
        """Write an answer, or keep what does not fit; False if the client must be dropped."""
        if self.backlog:
            self.backlog += data
            return len(self.backlog) <= MAX_CLIENT_BACKLOG_BYTES
        try:
            written = os.write(self.answer_fd, data)
        except BlockingIOError:
            written = 0
        except BrokenPipeError:
            return False
        if written < len(data):
            self.backlog = data[written:]
        return True

    def flush(self) -> bool:
        """Write what was kept; False if the client must be dropped."""
        data, self.backlog = self.backlog, b""
        return not data or self.send(data)

    def close(self) -> None:
        """Close the coordinator's ends of its pipes."""
        os.close(self.request_fd)
        os.close(self.answer_fd)


class Processes:
    """The clients' processes, each watched by one descriptor (pidfd) in the server's epoll."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._watched: dict[int, tuple[int, set[Client]]] = {}  # by pid
        self._pids: dict[int, int] = {}  # by descriptor

    def watch(self, client: Client, pid: int) -> None:
        """Take note of a client of process ``pid``; of an unknown process (0), or where none can be watched, nothing.

        OSError if there is no descriptor for it.
        """
        if pid in self._watched:
            self._watched[pid][1].add(client)
        elif pid and hasattr(os, "pidfd_open"):
            try:
                fd = os.pidfd_open(pid)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    raise
                return  # not known to this kernel, or not allowed here: the end of the pipe has to tell
            try:
                self._epoll.register(fd, select.EPOLLIN)
            except OSError:
                os.close(fd)
                raise
            self._watched[pid] = fd, {client}
            self._pids[fd] = pid

    def forget(self, client: Client) -> None:
        """A client is gone; with the last one of a process nobody watches it any more."""
        for pid, (fd, clients) in self._watched.items():
            if client in clients:
                clients.remove(client)
                if not clients:
                    self._epoll.unregister(fd)
                    os.close(fd)
                    del self._watched[pid], self._pids[fd]
                return

    def ended(self, fd: int) -> list[Client]:
        """The clients of the process whose end ``fd`` reports; none if it is another descriptor."""
        pid = self._pids.get(fd)
        return [] if pid is None else list(self._watched[pid][1])


def welcome_client(
    hello: handshake.Hello, segment_fd: int, durability: str, generation: int, store_id: bytes
) -> tuple[Client, handshake.Welcome]:
    """Pipes and slots for a new client; its descriptors in the welcome are the caller's to send and close."""
    opened: list[int] = []
    try:
        request_read, request_write = os.pipe()
        opened += (request_read, request_write)
        answer_read, answer_write = os.pipe()
        opened += (answer_read, answer_write)
        slots = snapshots.new_page()
        opened.append(slots)
        page = SnapshotPage(slots)
    except OSError:
        for fd in opened:
            os.close(fd)
        raise
    for fd in (request_read, answer_write):
        os.set_blocking(fd, False)
        _enlarge(fd)
    client = Client(hello.client_id, hello.pid, request_read, answer_write, page)
    client.database_id = hello.database_id or hello.client_id
    return client, handshake.Welcome(durability, generation, store_id, segment_fd, slots, request_write, answer_read)


def _enlarge(fd: int) -> None:
    """Ask for a larger pipe. The kernel's limit per user may refuse: a smaller pipe only means more pieces."""
    if _F_SETPIPE_SZ is None:
        return
    try:
        fcntl.fcntl(fd, _F_SETPIPE_SZ, PIPE_BYTES)
    except PermissionError:
        return
