"""The processes attached to a coordinator: their pipes, their snapshot slots, and answers they have not read yet.

- A client's request pipe reports its end when the last process that holds it is gone, however it went. A child that
  was forked without Python's knowledge holds it, too, so the process itself is watched where the system can do that
  (``Processes``). At the first of these reports the client's slots are free, and nothing else of it is kept.
- The coordinator never waits for a client. Answers that do not fit its pipe are kept, up to a bound; beyond the bound
  the client is dropped. It notices at its next commit and attaches anew.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Container

from shoal.coordinator.commit.pipelining import Pipeline
from shoal.coordinator.host import THIS_MACHINE, Host
from shoal.shm.errors import ConfigurationError
from shoal.shm.files.store_files import StoreMeta
from shoal.shm.files.store_place import WorkingPlace
from shoal.shm.limits import MAX_CLIENT_BACKLOG_BYTES
from shoal.shm.memory.snapshots import SnapshotPage
from shoal.shm.wire import handshake
from shoal.shm.wire.answer import REFUSED, encode_answer, no_memory_answer
from shoal.shm.wire.frames import FrameBuffer, FrameError
from shoal.shm.wire.request import CommitSet, decode_request
from shoal.shm.wire.wire_errors import error_parts


class Client:
    """One attached process."""

    __slots__ = (
        "_host",
        "answer_fd",
        "backlog",
        "buffer",
        "client_id",
        "comes_back",
        "database_id",
        "depth",
        "in_loop",
        "last_group",
        "page",
        "pid",
        "pipeline",
        "request_fd",
        "waits",
        "was_back",
        "wrote_s",
    )

    def __init__(
        self,
        client_id: int,
        pid: int,
        request_fd: int,
        answer_fd: int,
        page: SnapshotPage,
        host: Host = THIS_MACHINE,
    ) -> None:
        self._host = host
        self.client_id = client_id
        self.pid = pid
        self.request_fd = request_fd
        self.answer_fd = answer_fd
        self.page = page
        self.database_id = client_id  # of the open database it belongs to, if that has several clients
        self.depth = 1  # how many commits it may have in flight
        self.pipeline: Pipeline | None = None  # if that is more than one
        self.buffer = FrameBuffer()
        self.backlog = b""
        # What the group-commit delay notes of it (``group_delay.GroupMember``).
        self.last_group = -2
        self.was_back = False
        self.comes_back = 0
        # What is noted of it at contended keys (``turns.Contender``).
        self.wrote_s: float | None = None
        self.in_loop = False
        self.waits = False

    def receive(self) -> bytes:
        """Some of what it has sent, empty at the end of its pipe; BlockingIOError if there is nothing now."""
        return self._host.read(self.request_fd, self.buffer.wanted_bytes)

    def requests(self, data: bytes, known: Container[str]) -> tuple[list[CommitSet], list[bytes], bool]:
        """The requests that ``data`` completes, answers to those there is no memory to decode, and whether to go on.

        If not: it sent nonsense, or there is no memory to put its message together. Whole requests before that are
        done, and the client is dropped. So is a pipelined one when there is no memory: it sends in order again.
        """
        requests: list[CommitSet] = []
        refused: list[bytes] = []
        try:
            for message in self.buffer.feed(data):
                try:
                    requests.append(decode_request(message, known))
                except MemoryError:
                    if self.pipeline is not None:
                        raise
                    refused.append(no_memory_answer(message))
        except (FrameError, MemoryError):
            return requests, refused, False
        return requests, refused, True

    def send(self, data: bytes) -> bool:
        """Write an answer, or keep what does not fit; False if the client must be dropped.

        If nobody reads, its process has ended, or given these pipes up. That shows at the end of the other pipe, too,
        and is handled there: what the process held ends then (``Server._reap``).
        """
        if self.backlog:
            self.backlog += data
            return len(self.backlog) <= MAX_CLIENT_BACKLOG_BYTES
        try:
            written = self._host.write(self.answer_fd, data)
        except BlockingIOError:
            written = 0
        except BrokenPipeError:
            return True
        if written < len(data):
            self.backlog = data[written:]
        return True

    def flush(self) -> bool:
        """Write what was kept; False if the client must be dropped."""
        data, self.backlog = self.backlog, b""
        return not data or self.send(data)

    def close(self) -> None:
        """Close the coordinator's ends of its pipes."""
        self._host.close(self.request_fd)
        self._host.close(self.answer_fd)


class Processes:
    """The clients' processes, each watched by one descriptor (pidfd) in the server's epoll."""

    def __init__(self, epoll: select.epoll, host: Host = THIS_MACHINE) -> None:
        self._epoll = epoll
        self._host = host
        self._watched: dict[int, tuple[int, set[Client]]] = {}  # by pid
        self._pids: dict[int, int] = {}  # by descriptor

    def begin(self, client: Client, pid: int, handed_out: tuple[int, ...]) -> None:
        """Listen to a new client and watch its process.

        If the kernel watches no more for this user (OSError), nothing is left of the client: its descriptors are
        closed, and those in ``handed_out``, which were to be sent to it.
        """
        try:
            self.watch(client, pid)
            self._epoll.register(client.request_fd, select.EPOLLIN)
        except OSError:
            self.forget(client)
            client.close()
            for fd in handed_out:
                self._host.close(fd)
            raise

    def watch(self, client: Client, pid: int) -> None:
        """Watch process ``pid`` of a client; OSError if there is no descriptor for that.

        Nothing is watched if the process is unknown (0), or where the system cannot do it.
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
        """A client is gone; after the last client of a process, the process is no longer watched."""
        for pid, (fd, clients) in self._watched.items():
            if client in clients:
                clients.remove(client)
                if not clients:
                    self._epoll.unregister(fd)
                    os.close(fd)
                    del self._watched[pid], self._pids[fd]
                return

    def ended(self, fd: int) -> list[Client]:
        """The clients of the process whose end ``fd`` reports; none if ``fd`` watches no process."""
        pid = self._pids.get(fd)
        return [] if pid is None else list(self._watched[pid][1])


def moved_answer(request: CommitSet, place: WorkingPlace) -> bytes:
    """The answer to a commit that comes after the directory was moved."""
    return encode_answer(request.commit_id, REFUSED, 0, error_parts(place.moved_error()))


def check_served_as_asked(hello: handshake.Hello, meta: StoreMeta) -> None:
    """ConfigurationError if the store is served in another way than a new client asks for."""
    if hello.durability not in (None, meta.durability):
        raise ConfigurationError(
            f"the store is being served with durability {meta.durability!r}, not {hello.durability!r}; "
            "open it without naming one, or when it is at rest"
        )
    if hello.max_bytes not in (None, meta.max_bytes):
        raise ConfigurationError(
            f"the store is being served with max_bytes {meta.max_bytes:,}, not {hello.max_bytes:,}; "
            "open it without naming one, or when it is at rest"
        )
    if hello.history_ms not in (None, meta.history_ms):
        raise ConfigurationError(
            f"the store is being served with history {meta.history_ms / 1000:g} s, not {hello.history_ms / 1000:g} s; "
            "open it without naming one, or when it is at rest"
        )


def welcome_client(
    hello: handshake.Hello, segment_fd: int, meta: StoreMeta, generation: int, host: Host
) -> tuple[Client, handshake.Welcome]:
    """Pipes and slots for a new client; its descriptors in the welcome are the caller's to send and close."""
    assert meta.store_id is not None
    opened: list[int] = []
    try:
        request_read, request_write = host.pipe()
        opened += (request_read, request_write)
        answer_read, answer_write = host.pipe()
        opened += (answer_read, answer_write)
        slots, page = host.new_slots()
    except OSError:
        for fd in opened:
            host.close(fd)
        raise
    for fd in (request_read, answer_write):
        host.set_blocking(fd, False)
        host.enlarge_pipe(fd)
    client = Client(hello.client_id, hello.pid, request_read, answer_write, page, host)
    client.database_id = hello.database_id or hello.client_id
    client.depth = hello.depth
    return client, handshake.Welcome(
        meta.durability, generation, meta.store_id, segment_fd, slots, request_write, answer_read
    )
