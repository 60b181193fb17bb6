"""The commit loop: requests that come in through pipes go to the engine, its answers go out.

One turn: wait, read every readable pipe once, submit what is whole, finish the group, answer. So commits that arrived
while the last group was synced share the next sync, and so do those of clients that are about to commit
(``group_delay``). Between groups, in slices: reclaim, expire, checkpoint (``maintenance``).

No answer is sent before its group is finished: what a client is told is in the log, and synced in ``strict``.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable

from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.commit.group_delay import GroupDelay
from shoal.coordinator.commit.pipelining import Pipeline
from shoal.coordinator.commit.turns import Turns
from shoal.coordinator.control_socket import ControlSocket
from shoal.coordinator.host import THIS_MACHINE, Host
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.server.clients import Client, Processes, check_served_as_asked, moved_answer, welcome_client
from shoal.coordinator.server.control_requests import ControlRequests
from shoal.coordinator.server.group import Group, Other
from shoal.coordinator.server.maintenance import Maintenance
from shoal.shm.files.store_files import StoreMeta
from shoal.shm.files.store_place import WorkingPlace
from shoal.shm.host.waiting import Lookout
from shoal.shm.limits import DEFAULT_LIMITS, KEEP_PROCESSOR_S, Limits
from shoal.shm.memory.layout import W_CLIENTS, W_GENERATION
from shoal.shm.wire import handshake
from shoal.shm.wire.request import CommitSet

_PROCESSORS = os.cpu_count() or 1


class Server:
    """Everything a coordinator does once it has recovered."""

    def __init__(
        self,
        engine: CommitEngine,
        writer: Writer,
        maintenance: Maintenance,
        control_requests: ControlRequests,
        meta: StoreMeta,
        idle_timeout_s: float | None,
        place: WorkingPlace,
        keep_files: Callable[[float], None],
        limits: Limits = DEFAULT_LIMITS,
        host: Host = THIS_MACHINE,
    ) -> None:
        self._engine, self._writer = engine, writer
        self._maintenance = maintenance
        self._control_requests = control_requests
        self._meta = meta
        self._idle_timeout_s = idle_timeout_s
        self._place, self._keep_files, self._limits = place, keep_files, limits
        self._host, self._monotonic_s = host, host.monotonic_s
        self._maintain_every_s = limits.sweep_every_ms / 1000
        self._spin_s, self._crowded_spin_s = limits.request_spin_s, limits.crowded_request_spin_s
        self._group_delay: GroupDelay[Client] | None = GroupDelay() if meta.durability == "strict" else None
        self._turns: Turns[Client] = Turns(engine.operations.in_turn)
        self._clients: dict[int, Client] = {}  # by request descriptor
        self._answer_fds: dict[int, Client] = {}  # of those with a backlog
        self._wake_fd, self.wake_write_fd = host.pipe()  # a byte in it ends the wait
        for fd in (self._wake_fd, self.wake_write_fd):
            host.set_blocking(fd, False)
        self._epoll = host.epoll()
        self._poll = host.poll_of(self._epoll)
        self._processes = Processes(self._epoll, host)
        self._control: ControlSocket
        self._lookout = Lookout()
        self._alone_since_s, self._maintained_at_s, self._look_until_s = host.monotonic_s(), 0.0, 0.0
        self.stopping = self._had_clients = False

    def pinned(self) -> list[int]:
        """Every version a client has pinned."""
        return [version for client in self._clients.values() for version in client.page.pinned()]

    def tell_watches(self) -> None:
        """Log files are about to go: who waits for changes is told how far there were none."""
        self._send_all(self._control_requests.advanced())

    def serve(self, control: ControlSocket) -> None:
        """Serve until told to stop, or until there was no client for ``idle_timeout_s``."""
        self._control = control
        for fd in (control.fileno(), self._wake_fd):
            self._epoll.register(fd, select.EPOLLIN)
        try:
            while not self.stopping and (self._clients or not self._is_idle()):
                self._turn()
        finally:
            for client in list(self._clients.values()):
                self._drop(client)
            self._epoll.close()

    def admit(self, hello: handshake.Hello, pid: int = 0) -> handshake.Welcome:
        """Take in a new client of the process ``pid``, 0 if that is unknown, or raise what it is told."""
        if self._place.was_moved():
            # The client found the socket where the directory lies now: the next coordinator serves it there.
            self.stopping = True
            raise OSError(errno.ESTALE, "the directory was moved")
        if hello.store_id not in (None, self._meta.store_id):
            raise self._place.moved_error()
        check_served_as_asked(hello, self._meta)
        host, segment_fd = self._host, self._writer.segment.read_only_fd()
        try:
            generation = self._writer.segment.words[W_GENERATION]
            client, welcome = welcome_client(hello, segment_fd, self._meta, generation, host)
        except OSError:  # no more descriptors: this client is turned away, the others go on
            host.close(segment_fd)
            raise
        self._processes.begin(client, pid, welcome.descriptors)
        if client.depth > 1:
            client.pipeline = Pipeline(self._engine, client.client_id, client.depth)
            for former in [each for each in self._clients.values() if each.client_id == client.client_id]:
                self._drop(former)  # it is here again, and sends anew what is unanswered or still in its old pipe
        self._clients[client.request_fd] = client
        self._had_clients = True
        self._count_clients()
        return welcome

    def _count_clients(self) -> None:
        """Store how many databases are open; one may have several clients."""
        self._writer.segment.words[W_CLIENTS] = len({client.database_id for client in self._clients.values()})

    def _turn(self) -> None:
        group, read_s = Group(self._engine.operations.in_turn), self._monotonic_s()
        busy = self._maintenance.busy  # without a rest, looking offers the processor to others before it asks
        events = self._poll(0) if busy or not self._lookout.rests(read_s) else []
        if not events and not busy:
            events = self._wait(group)
        for fd, _ in events:
            client = self._clients.get(fd)
            if client is not None:
                self._read(client, group)
            elif fd in self._answer_fds:
                self._flush(self._answer_fds[fd])
            else:
                self._handle_other(fd)
        group_delay = self._group_delay if group.requests else None
        if group_delay is not None:
            self._wait_for_others(group_delay, group)
        for other in group.apart(self._clients, self._control_requests.is_free) if group.others else ():
            self._answer(group, other)
        turns, finishing_s = self._turns, 0.0
        if turns.by_key or group.has_turns:
            group.submit_in_turn(turns, self._submit_together, self._engine, self._monotonic_s())
        elif group.requests:
            group.submit(self._submit_together)
        for other in group.left:
            self._answer(group, other)
        if group_delay is not None:
            for client in turns.waiting():
                group_delay.forget(client)  # it cannot come
            finishing_s = self._monotonic_s()
        self._engine.finish_group()
        self._send_all(group.answers)
        now_s = self._monotonic_s()
        if group_delay is not None:
            group_delay.finished(now_s - finishing_s)
        if group.answers:
            self._look_until_s = now_s + (self._crowded_spin_s if len(self._clients) > _PROCESSORS else self._spin_s)
        if self._control_requests.is_active and self._control_requests.is_due(now_s) and not self._place.was_moved():
            self._send_all(self._control_requests.after_turn(now_s, read_s))
        self._maintenance.after_turn(now_s)
        if now_s - self._maintained_at_s >= self._maintain_every_s:
            self._maintained_at_s = now_s
            self._maintain(now_s)

    def _send_all(self, answers: list[tuple[Client, bytes]]) -> None:
        for client, answer in answers:
            if self._clients.get(client.request_fd) is client:  # and not one that got its descriptor in the same turn
                self._send(client, answer)

    def _submit_together(self, requests: list[tuple[int, CommitSet]]) -> list[bytes]:
        if self._was_moved():
            return [moved_answer(request, self._place) for _, request in requests]
        return self._engine.submit_together(requests)

    def _was_moved(self) -> bool:
        """Whether the directory was moved: then nothing is committed any more, and this coordinator ends in order.

        Asked after a commit has been read and before it is submitted: one that was sent after a move is never done.
        """
        if moved := self._place.was_moved():
            self.stopping = True
        return moved

    def _wait_for_others(self, group_delay: GroupDelay[Client], group: Group) -> None:
        """Wait for clients that are about to commit, and take in every client that comes meanwhile."""
        expected = group_delay.begin(group.asking)
        until_s = self._monotonic_s() + group_delay.delay_s
        while expected and (left_s := until_s - self._monotonic_s()) > 0:
            events = self._lookout.look(self._poll, left_s) or ()
            if any(flags & select.EPOLLHUP or fd not in self._clients for fd, flags in events):
                break  # the next turn is for that: who asks after the end of another is heard after the end
            fresh = [self._clients[fd] for fd, _ in events if self._clients[fd] not in group.asking]
            if not fresh:  # the time is over, or the machine is busy
                break
            for client in fresh:
                expected.discard(client)
                self._read(client, group)
        group_delay.end(group.still_asking(self._clients), expected)

    def _wait(self, group: Group) -> list[tuple[int, int]]:
        """Wait for something to happen; after a request look for the next one before sleeping."""
        poll = self._poll
        look_s = self._look_until_s - self._monotonic_s()
        if look_s > 0:
            # If clients have a processor of their own, the first looks do not offer this one to them.
            keep_s = 0.0 if len(self._clients) >= _PROCESSORS else KEEP_PROCESSOR_S
            if len(self._clients) == 1 and not self._answer_fds:
                # Compiled, looking is reading from its pipe. The next turn asks for all other events.
                (only,) = self._clients.values()
                found = self._lookout.look(poll, look_s, keep_s, only.request_fd, only.buffer.wanted_bytes)
                if type(found) is bytes:
                    self._take_in(only, found, group)
                    return []
            else:
                found = self._lookout.look(poll, look_s, keep_s)
            if found is not None:
                return found  # type: ignore[no-any-return]
        now_s = self._monotonic_s()
        due_s = self._control_requests.due_in_s(now_s) if self._control_requests.is_active else float("inf")
        if self._turns.by_key:
            due_s = min(due_s, max(0.0, self._turns.due_s() - now_s))
        due_s = min(due_s, max(0.0, self._maintenance.upkeep.wakes_at_s - now_s))
        events = poll(min(self._maintain_every_s, due_s))
        if not events and not self._turns.by_key and self._maintenance.is_settled() and not self._control.is_missed:
            events = poll(max(0.0, min(self._limits.idle_wait_s, due_s - self._maintain_every_s)))
        return events

    def _read(self, client: Client, group: Group) -> None:
        """Read what a client sent: a single commit is submitted with the others', anything else after all was read."""
        try:
            data = client.receive()
        except BlockingIOError:
            return
        self._take_in(client, data, group)

    def _take_in(self, client: Client, data: bytes, group: Group) -> None:
        """Take in ``data``, which a client sent; empty at the end of its pipe."""
        if not data:
            self._reap(client)
            return
        requests, messages, is_sound = client.requests(data, self._engine.operations.rules)
        if client.pipeline is not None:
            if requests and self._was_moved():
                group.answers += [(client, moved_answer(request, self._place)) for request in requests]
            elif not group.submit_in_order(client, client.pipeline, requests) or not is_sound:
                self._drop(client)
            return
        if is_sound and not messages and len(requests) == 1 and requests[0].control is None:
            group.add(client, requests[0])
            return
        group.others.append((client, requests, messages, is_sound))

    def _answer(self, group: Group, other: Other) -> None:
        """Do what is no single commit. The ends of pipes have been seen by now: who has gone holds nothing any more."""
        client, requests, messages, is_sound = other
        if self._clients.get(client.request_fd) is not client:
            return
        moved = bool(requests) and self._was_moved()
        for request in requests:
            if moved and (request.control is None or request.operations):
                messages.append(moved_answer(request, self._place))
            elif request.control is None:
                messages.append(self._engine.submit(client.client_id, request))
            elif is_sound:
                told = self._control_requests.answer(client, request, self._monotonic_s())
                is_sound = told is not None
                messages.append(told or b"")
        if not is_sound:
            self._drop(client)
        elif any(messages):
            group.answers.append((client, b"".join(messages)))

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

    def _handle_other(self, fd: int) -> None:
        """Handle what is no client's pipe: a new connection, its greeting, a signal, the end of a process."""
        if fd == self._control.fileno():
            for pending_fd in self._control.accept():
                self._epoll.register(pending_fd, select.EPOLLIN)
        elif fd == self._wake_fd:
            self._host.read(self._wake_fd, 4096)
        elif self._control.is_pending(fd):
            self._control.receive(fd)
        else:
            for client in self._processes.ended(fd):
                self._reap(client)

    def _reap(self, client: Client) -> None:
        """Drop a client that is gone for good: it does not send its last commit again."""
        self._drop(client)
        if all(other.client_id != client.client_id for other in self._clients.values()):
            self._engine.forget_client(client.client_id, client.depth)
        if all(other.database_id != client.database_id for other in self._clients.values()):
            self._control_requests.gone(client.database_id)

    def _drop(self, client: Client) -> None:
        del self._clients[client.request_fd]
        self._epoll.unregister(client.request_fd)
        if self._answer_fds.pop(client.answer_fd, None) is not None:
            self._epoll.unregister(client.answer_fd)
        client.close()
        self._control_requests.forget(client)
        self._turns.forget(client)
        if self._group_delay is not None:
            self._group_delay.forget(client)
        self._processes.forget(client)
        self._count_clients()
        if not self._clients:
            self._alone_since_s = self._monotonic_s()

    def _is_idle(self) -> bool:
        """Whether this coordinator, which has no client, had none for so long that it ends."""
        patience_s = self._idle_timeout_s
        if patience_s is None:
            return False
        if not self._had_clients:  # the client that started it may take a while to come
            patience_s = max(patience_s, self._limits.first_client_s)
        return self._monotonic_s() - self._alone_since_s >= patience_s

    def _maintain(self, now_s: float) -> None:
        if self._place.was_moved() or not self._place.is_here():
            self.stopping = True
            return
        self._keep_files(now_s)
        if self._control.reopen_if_removed(now_s):
            self._epoll.register(self._control.fileno(), select.EPOLLIN)
        if self._maintenance.run(now_s):
            self._maintained_at_s = 0.0  # more has expired: come back next turn
        self._control.drop_silent()
