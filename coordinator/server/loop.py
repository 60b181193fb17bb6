"""The commit loop's hands: what comes in through pipes goes to the engine, its answers go out.

One turn: wait, read every readable pipe once, submit what is whole, finish the group, answer. So whoever arrived
while the last group was being synced shares the next sync, and so do those who are about to (``gathering``). Between
groups, in slices: reclaim, expire, checkpoint.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable

from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.commit.group_delay import Group, GroupDelay
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.server.checks import Checks
from shoal.coordinator.server.clients import Client, Processes, welcome_client
from shoal.coordinator.server.control_socket import ControlSocket
from shoal.coordinator.server.maintenance import Maintenance
from shoal.shm import limits
from shoal.shm.errors import ConfigurationError
from shoal.shm.files.store_files import StoreMeta
from shoal.shm.files.store_place import WorkingPlace
from shoal.shm.host.waiting import Lookout
from shoal.shm.memory.layout import W_CLIENTS, W_GENERATION
from shoal.shm.wire import handshake
from shoal.shm.wire.answer import ANSWERED, REFUSED, encode_answer, no_memory_answer
from shoal.shm.wire.frames import FrameError
from shoal.shm.wire.request import CommitSet, decode_request
from shoal.shm.wire.wire_errors import error_parts

_PROCESSORS = os.cpu_count() or 1
_IDLE_WAIT_S = 0.5
_MAINTAIN_EVERY_S = limits.SWEEP_EVERY_MS / 1000


class Server:
    """Everything a coordinator does once it has recovered."""

    def __init__(
        self,
        engine: CommitEngine,
        writer: Writer,
        maintenance: Maintenance,
        checks: Checks,
        meta: StoreMeta,
        linger_s: float | None,
        wake_fd: int,
        place: WorkingPlace,
        keep_epoch: Callable[[float], None],
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._maintenance = maintenance
        self._meta = meta
        self._linger_s = linger_s
        self._wake_fd = wake_fd
        self._gathering = GroupDelay() if meta.durability == "strict" else None
        self._checks = checks
        self._place = place
        self._keep_epoch = keep_epoch
        self._clients: dict[int, Client] = {}  # by request descriptor
        self._answer_fds: dict[int, Client] = {}  # of those with a backlog
        self._epoll = select.epoll()
        self._processes = Processes(self._epoll)
        self._control: ControlSocket
        self._had_clients = False
        self._alone_since = time.monotonic()
        self._maintained_at = 0.0
        self._look_until_s = 0.0
        self._lookout = Lookout()
        self.stopping = False

    def pinned(self) -> list[int]:
        """Every version a client has pinned."""
        return [version for client in self._clients.values() for version in client.page.pinned()]

    def serve(self, control: ControlSocket) -> None:
        """Serve until told to stop, or until nobody has been there for ``linger_s``."""
        self._control = control
        for fd in (control.fileno(), self._wake_fd):
            self._epoll.register(fd, select.EPOLLIN)
        try:
            while not self.stopping and not self._deserted():
                self._turn()
        finally:
            for client in list(self._clients.values()):
                self._drop(client)
            self._epoll.close()

    def admit(self, hello: handshake.Hello, pid: int = 0) -> handshake.Welcome:
        """Take in a new client of the process ``pid``, 0 if that is unknown, or raise what it is told."""
        if self._place.was_moved():
            # Whoever came found the socket where the directory lies now: the next coordinator serves it there.
            self.stopping = True
            raise OSError(errno.ESTALE, "the directory was moved")
        if hello.store_id not in (None, self._meta.store_id):
            raise self._place.moved_error()
        if hello.durability is not None and hello.durability != self._meta.durability:
            raise ConfigurationError(
                f"the store is being served with durability {self._meta.durability!r}, not {hello.durability!r}; "
                "open it without naming one, or when it is at rest"
            )
        if hello.max_bytes is not None and hello.max_bytes != self._meta.max_bytes:
            raise ConfigurationError(
                f"the store is being served with max_bytes {self._meta.max_bytes:,}, not {hello.max_bytes:,}; "
                "open it without naming one, or when it is at rest"
            )
        segment_fd = self._writer.segment.read_only_fd()
        try:
            assert self._meta.store_id is not None
            client, welcome = welcome_client(
                *(hello, segment_fd, self._meta.durability),
                *(self._writer.segment.words[W_GENERATION], self._meta.store_id),
            )
        except OSError:  # out of descriptors: this visitor is turned away, those inside go on
            os.close(segment_fd)
            raise
        try:
            self._processes.watch(client, pid)
            self._epoll.register(client.request_fd, select.EPOLLIN)
        except OSError:  # the kernel watches no more for this user: likewise
            self._processes.forget(client)
            client.close()
            for fd in welcome.descriptors:
                os.close(fd)
            raise
        self._clients[client.request_fd] = client
        self._had_clients = True
        self._count_clients()
        return welcome

    def _count_clients(self) -> None:
        """Tell how many databases are open; one may have several clients."""
        self._writer.segment.words[W_CLIENTS] = len({client.database_id for client in self._clients.values()})

    def _turn(self) -> None:
        group = Group()
        events = self._epoll.poll(0)
        if not events and not self._maintenance.busy:
            events = self._wait()
        for fd, event in events:
            client = self._clients.get(fd)
            if client is not None:
                self._read(client, group)
            elif fd in self._answer_fds:
                self._flush(self._answer_fds[fd])
            else:
                self._door(fd, event)
        gathering = self._gathering if group.requests else None
        if gathering is not None:
            self._gather(gathering, group)
        answers = group.answers
        if group.requests:
            for client in group.asking:
                client.page.note_work(1)
            answers += zip(group.asking, self._submit_together(group.requests), strict=True)
            for client in group.asking:
                client.page.note_work(0)
        finishing_s = time.monotonic()
        self._engine.finish_group()
        for client, answer in answers:
            if self._clients.get(client.request_fd) is client:  # and not one who got its descriptor in the same turn
                self._send(client, answer)
        now_s = time.monotonic()
        if gathering is not None:
            gathering.finished(now_s - finishing_s)
        if answers:
            crowded = len(self._clients) > _PROCESSORS
            self._look_until_s = now_s + (limits.CROWDED_REQUEST_SPIN_S if crowded else limits.REQUEST_SPIN_S)
        self._maintenance.after_turn(now_s)
        if now_s - self._maintained_at >= _MAINTAIN_EVERY_S:
            self._maintained_at = now_s
            self._maintain(now_s)

    def _submit_together(self, requests: list[tuple[int, CommitSet]]) -> list[bytes]:
        if self._was_moved():
            return [self._refuse_moved(request) for _, request in requests]
        return self._engine.submit_together(requests)

    def _was_moved(self) -> bool:
        """Whether the directory was moved: then nothing is committed any more, and this coordinator ends in order.

        Asked after a commit has been read and before it is submitted: one that was sent after a move is never done.
        """
        moved = self._place.was_moved()
        if moved:
            self.stopping = True
        return moved

    def _refuse_moved(self, request: CommitSet) -> bytes:
        return encode_answer(request.commit_id, REFUSED, 0, error_parts(self._place.moved_error()))

    def _gather(self, gathering: GroupDelay, group: Group) -> None:
        """Wait for clients that are about to commit, and take in every client that comes meanwhile."""
        expected = gathering.begin(group.asking)
        until_s = time.monotonic() + gathering.patience_s
        while expected and (left_s := until_s - time.monotonic()) > 0:
            came = [self._clients.get(fd) for fd, _ in self._lookout.look(self._epoll.poll, left_s)]
            fresh = [client for client in came if client is not None and client not in group.asking]
            if not fresh:  # the time is over, the machine is busy, or something else waits for this turn's end
                break
            for client in fresh:
                expected.discard(client)
                self._read(client, group)
        gathering.end(group.asking, expected)

    def _wait(self) -> list[tuple[int, int]]:
        """Wait for something to happen; after a request look for the next one before sleeping.

        With a processor left for a client, the first looks do not offer this one: the client needs no more than that.
        """
        poll = self._epoll.poll
        look_s = self._look_until_s - time.monotonic()
        if look_s > 0:
            keep_s = 0.0 if len(self._clients) >= _PROCESSORS else limits.KEEP_PROCESSOR_S
            events = self._lookout.look(poll, look_s, keep_s)
            if events:
                return events
        return poll(self._wait_s())

    def _wait_s(self) -> float:
        settled = self._maintenance.is_settled() and not self._control.is_missed
        return _IDLE_WAIT_S if settled else _MAINTAIN_EVERY_S

    def _read(self, client: Client, group: Group) -> None:
        """Take in what a client sent: a single commit to be submitted with the others', anything else at once."""
        try:
            data = os.read(client.request_fd, client.buffer.wanted_bytes())
        except BlockingIOError:
            return
        if not data:
            self._bury(client)
            return
        requests: list[CommitSet] = []
        messages: list[bytes] = []
        speaks = True
        try:
            for message in client.buffer.feed(data):
                try:
                    requests.append(decode_request(message, self._engine.operations.rules))
                except MemoryError:
                    messages.append(no_memory_answer(message))
        except (FrameError, MemoryError):
            # Nonsense, or a message there is no memory to put together. What came whole before it stands; the client
            # itself is shown out.
            speaks = False
        if speaks and not messages and len(requests) == 1 and requests[0].control is None:
            group.requests.append((client.client_id, requests[0]))
            group.asking.append(client)
            return
        moved = bool(requests) and self._was_moved()
        for request in requests:
            if request.control is None:
                messages.append(
                    self._refuse_moved(request) if moved else self._engine.submit(client.client_id, request)
                )
            elif speaks:
                answer = self._answer_question(client, request)
                speaks = answer is not None
                messages.append(answer or b"")
        if not speaks:
            self._drop(client)
        elif messages:
            group.answers.append((client, b"".join(messages)))

    def _bury(self, client: Client) -> None:
        """Drop a client that is gone for good: it does not send its last commit again."""
        self._drop(client)
        if all(other.client_id != client.client_id for other in self._clients.values()):
            self._engine.forget_client(client.client_id)

    def _answer_question(self, client: Client, request: CommitSet) -> bytes | None:
        """The answer to a control request; None if there is no such control request."""
        assert request.control is not None
        name, arguments = request.control
        if name != "check":
            return None
        self._engine.finish_group()
        answer = self._checks.answer(client, arguments, self._engine.published, time.monotonic())
        return None if answer is None else encode_answer(request.commit_id, ANSWERED, 0, answer)

    def _send(self, client: Client, data: bytes) -> None:
        if not client.send(data):
            self._drop(client)
        elif client.backlog and client.answer_fd not in self._answer_fds:
            self._answer_fds[client.answer_fd] = client
            self._epoll.register(client.answer_fd, select.EPOLLOUT)

    def _flush(self, client: Client) -> None:
        if not client.flush():
            self._drop(client)
        elif not client.backlog:
            del self._answer_fds[client.answer_fd]
            self._epoll.unregister(client.answer_fd)

    def _door(self, fd: int, event: int) -> None:
        if fd == self._control.fileno():
            for visitor in self._control.accept():
                self._epoll.register(visitor, select.EPOLLIN)
        elif fd == self._wake_fd:
            os.read(self._wake_fd, 4096)
        elif self._control.is_visitor(fd):
            self._control.hear(fd)
        else:
            for client in self._processes.ended(fd):
                self._bury(client)

    def _drop(self, client: Client) -> None:
        del self._clients[client.request_fd]
        self._epoll.unregister(client.request_fd)
        if self._answer_fds.pop(client.answer_fd, None) is not None:
            self._epoll.unregister(client.answer_fd)
        client.close()
        self._checks.forget(client)
        if self._gathering is not None:
            self._gathering.forget(client)
        self._processes.forget(client)
        self._count_clients()
        if not self._clients:
            self._alone_since = time.monotonic()

    def _deserted(self) -> bool:
        if self._linger_s is None or self._clients:
            return False
        patience_s = self._linger_s if self._had_clients else max(self._linger_s, limits.FIRST_CLIENT_S)
        return time.monotonic() - self._alone_since >= patience_s

    def _maintain(self, now_s: float) -> None:
        if self._place.was_moved() or not self._place.is_here():
            self.stopping = True
            return
        self._keep_epoch(now_s)
        if self._control.reopen_if_removed(now_s):
            self._epoll.register(self._control.fileno(), select.EPOLLIN)
        if self._maintenance.run(now_s):
            self._maintained_at = 0.0  # more has expired: come back next turn
        self._control.impatient()
