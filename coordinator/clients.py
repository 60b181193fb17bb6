"""The processes attached to a coordinator: their pipes, their snapshot slots, and what they have not read yet.

- A client's request pipe reports its end when the last process that holds it is gone, however it went. Its slots are
  free at that moment, and nothing else of it is kept.
- The coordinator never waits for a client: answers that do not fit a pipe are kept, up to a bound, and a client that
  lets them grow beyond it is dropped. It finds out at its next commit and attaches anew.
"""

from __future__ import annotations

import fcntl
import os

from shoal.shm import handshake, snapshots
from shoal.shm.frames import FrameBuffer
from shoal.shm.limits import MAX_CLIENT_BACKLOG_BYTES, PIPE_BYTES
from shoal.shm.snapshots import SnapshotPage

_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)


class Client:
    """One attached process."""

    __slots__ = (
        "answer_fd",
        "backlog",
        "buffer",
        "client_id",
        "comes_back",
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
    return client, handshake.Welcome(durability, generation, store_id, segment_fd, slots, request_write, answer_read)


def _enlarge(fd: int) -> None:
    """Ask for a larger pipe. The kernel's limit per user may refuse: a smaller pipe only means more pieces."""
    if _F_SETPIPE_SZ is None:
        return
    try:
        fcntl.fcntl(fd, _F_SETPIPE_SZ, PIPE_BYTES)
    except PermissionError:
        return
