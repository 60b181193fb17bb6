"""A process's connection to a store: it attaches, submits commits, and attaches again when the coordinator dies.

- Each ``Database`` has one in each process. Threads share it and commit one after the other.
- Reads use ``attachment``. When the epoch word says that a new coordinator serves, the next snapshot attaches to it.
  Snapshots taken before keep the old segment, which does not change any more.
- A connection belongs to the store that it first attached to. If the path leads to another directory, another store
  or nothing later, every further commit is ``StoreMovedError``; reads go on in the attached memory.
- A signal handler or a finaliser may run between any two steps here, in the same thread, and use the same database.
  The lock is reentrant, so the handler passes it, finds no idle channel, and makes one, which is kept.
- An exception that a handler raises may come between any two steps. A channel is taken from ``_idle`` before it is
  used and put back after its answer; one that is lost in between is never used again.
- After ``fork`` the child drops what it inherited, because pipes and slots are the parent's, and attaches for itself.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.shm.errors import CoordinatorLostError, InvalidOperationError, ShoalError, StoreMovedError, no_memory_to_send
from shoal.shm.files.epoch_file import EpochWord
from shoal.shm.host import descriptors
from shoal.shm.host.randomness import random_id
from shoal.shm.host.unpatched import ReentrantLock, time
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.limits import MAX_COMMIT_BYTES
from shoal.shm.operation import OperationTable
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.answer import COMMITTED
from shoal.shm.wire.handshake import PROTOCOL_VERSION, Hello, Welcome
from shoal.workers.host import THIS_MACHINE, Host
from shoal.workers.shared_memory import take_over
from shoal.workers.shared_memory.attachment import Attachment
from shoal.workers.shared_memory.attachments import LiveAttachments, reading_through
from shoal.workers.shared_memory.channel import Answer, Channel, commit_through
from shoal.workers.uninterrupted import uninterrupted


class StoreConnection:
    """Attaches to a store, submits commits, and says which attachment to read from."""

    read_only = False

    def __init__(
        self,
        directory: Path,
        durability: str | None,
        max_bytes: int | None,
        timeout_s: float,
        idle_timeout_s: float,
        operations: OperationTable,
        store_id: bytes | None = None,
        history_ms: int | None = None,
        host: Host = THIS_MACHINE,
    ) -> None:
        self._host, self.operations, self.directory = host, operations, directory
        self._durability, self._max_bytes, self._history_ms = durability, max_bytes, history_ms
        self.timeout_s = timeout_s
        self._idle_timeout_s = idle_timeout_s  # of a coordinator that this process starts
        self.is_closed = False
        # Which store this is and where it lies: given by the caller, or known from the first attachment on.
        self.store_id = store_id
        self._place = None if store_id is None else host.store_place(directory, store_id)
        self._moved: StoreMovedError | None = None
        self._lost = False  # the coordinator of a memory store has died, and with it all that the store held
        # Called with each new attachment. A weak reference, here and in the reader: a cycle would keep the segment of a
        # closed store mapped until the garbage collector runs.
        self.on_attach: Callable[[], Callable[[Attachment], None] | None] = lambda: None
        self._attachments = LiveAttachments()
        self._begin()
        channel = Channel()
        channel.attachment = self.attachment = self._arrive(channel, timeout_s, start=True)
        self._memory = self.attachment.memory_id
        self._idle.append(channel)
        _connections.add(self)

    def _begin(self) -> None:
        """The state of a new process: an identity of its own and nothing in flight."""
        self._lock = ReentrantLock()
        self.database_id = random_id()
        self._depth = 0  # calls under way in the thread that has the lock: more than one inside a signal handler
        self._idle: list[Channel] = []

    def current(self) -> Attachment:
        """The attachment to read from now: that of the newest coordinator."""
        attachment = self.attachment
        if attachment.is_current():
            return attachment
        with self._lock:
            depth = self._depth
            self._depth = depth + 1
            try:
                if self.attachment is attachment:
                    channel = self._take()
                    self._attach(channel, False, time.monotonic() + self.timeout_s)
                    self._put_back(channel)
            finally:
                self._depth = depth
        return self.attachment

    def _get_from_current(self, place: KeyLocationCache, name: str) -> bytes | None:
        """``get_named`` for the reader of a past generation: it reads from the current one."""
        attachment = self.current()
        self._announce(attachment)
        return attachment.reader.get_named(place, name)

    def submit(self, snapshot: int, valid_until_ms: int, reads: bytes, mutations: bytes) -> tuple[int, list[Any]]:
        """Commit; the commit version and the operations' results.

        Raises ``ConflictError``, whose key is the engine's, or the error that the coordinator refused the commit with.
        """
        if len(mutations) > MAX_COMMIT_BYTES or len(reads) > MAX_COMMIT_BYTES:
            wire_request.check_size(max(len(mutations), len(reads)))
        status, version, details = self._exchange(snapshot, valid_until_ms, reads, mutations, self.timeout_s)
        if status != COMMITTED and (failure := self.failure(status, details)) is not None:
            raise failure
        return version, details

    submit_one = submit  # of one write or operation, which reads nothing: tasks send them together

    def failure(self, status: int, details: Any) -> Exception | None:
        """What a commit failed with, by its answer; None if it is done.

        It is returned: of what is raised, a caller cannot tell whether it came from a signal handler.
        """
        failure = wire_answer.failure_of(status, details)
        if isinstance(failure, StoreMovedError):
            self._moved = failure
        return failure

    def attach_apart(self, channel: Channel, in_flight: bool) -> Attachment:
        """Attach a channel that is used without the lock: a pipeline's, or a borrowed one; see ``_attach``."""
        with self._lock:
            depth = self._depth
            self._depth = depth + 1
            try:
                return self._attach(channel, in_flight, time.monotonic() + self.timeout_s)
            finally:
                self._depth = depth

    def check_writable(self) -> None:
        """Raise what every commit raises now: the database only reads, was closed, or its store was moved."""
        if self.read_only:
            raise self.refusal()
        self._check_here()

    def _check_here(self) -> None:
        if self.is_closed:
            raise InvalidOperationError(self._why_closed())
        if self._moved is not None:
            raise StoreMovedError(*self._moved.args)

    def ask(self, name: str, arguments: list[Any], timeout_s: float = float("inf")) -> Any:
        """Send the coordinator a control request, which commits nothing; its answer, waited for ``timeout_s``."""
        mutations = wire_request.encode_mutations([], control=(name, arguments))
        return self._exchange(0, 0, wire_request.NO_READS, mutations, min(timeout_s, self.timeout_s))[2]

    def is_at_rest(self) -> bool:
        """Whether it reads a store that nobody serves: of a connection that only reads."""
        return False

    def check_at_rest(self) -> list[str] | None:
        """The problems of a store at rest; None for one that is served, whose coordinator takes part in the check."""
        return None

    def close(self) -> None:
        """Give everything back without waiting. Later calls raise ``InvalidOperationError``.

        A commit under way in another thread, or in this one if a signal handler closes, goes on until it is answered.
        """
        self.is_closed = True
        self._attachments.close_memory(self._why_closed())
        self._attachments.close_unused_pipes()

    def _why_closed(self) -> str:
        return f"the database {self.directory} is closed; open it again"

    def _exchange(self, snapshot: int, valid_until_ms: int, reads: bytes, mutations: bytes, timeout_s: float) -> Answer:
        give_up_s = time.monotonic() + timeout_s
        with self._lock:
            depth = self._depth
            self._depth = depth + 1
            try:
                if self.is_closed or self._moved is not None:
                    self._check_here()
                channel = self._take()
                channel.commit_id = commit_id = channel.commit_id + 1
                try:
                    message = wire_request.framed_request(commit_id, snapshot, valid_until_ms, reads, mutations)
                except MemoryError as error:
                    raise no_memory_to_send(f"a commit of {len(reads) + len(mutations):,} bytes") from error
                answer = commit_through(channel, message, self._attach, timeout_s, give_up_s)
                self._put_back(channel)
                return answer
            finally:
                self._depth = depth

    def _take(self) -> Channel:
        """An idle channel, or a new one: the thread's own commit is interrupted now, or was before."""
        try:
            return self._idle.pop()
        except IndexError:
            return Channel()

    def borrow(self) -> Channel:
        """A channel for a request that may wait for long, while other threads commit through others."""
        with self._lock:
            self._check_here()
            return self._take()

    def give_back(self, channel: Channel) -> None:
        """Put a borrowed channel back after its answer."""
        with self._lock:
            self._put_back(channel)

    def _put_back(self, channel: Channel) -> None:
        self._idle.append(channel)
        if self.is_closed:  # by another thread, or a signal handler, during the commit
            self._attachments.close_unused_pipes()

    def _attach(self, channel: Channel, in_flight: bool, give_up_s: float) -> Attachment:
        """Attach a channel anew.

        If a commit is ``in_flight``, whatever keeps the store from opening leaves open whether that commit is done:
        ``CoordinatorLostError``, or ``StoreMovedError`` with ``in_doubt``.
        """
        timeout_s = max(0.0, give_up_s - time.monotonic())
        try:
            self._check_here()
            if self.attachment.durability == "memory" and not self.read_only:
                attachment = self._find_memory_store(channel, timeout_s)
            else:
                attachment = self._arrive(channel, timeout_s, start=True)
                if attachment.has_less_than(self.attachment):  # older files stand in the place of the store's
                    attachment.close_pipes()
                    raise StoreMovedError(str(self.directory), False)
        except StoreMovedError as error:
            self._moved = self._moved or error
            raise StoreMovedError(error.path, in_flight) from error
        except (ShoalError, OSError) as error:
            if in_flight and self.attachment.durability != "memory":
                raise CoordinatorLostError(
                    f"the coordinator of {self.directory} died before it answered, and none can be reached or started "
                    f"({error}); whether this commit is done shows when the store opens again"
                ) from error
            raise
        channel.attachment = attachment
        if self._is_usable() and self.attachment.generation == attachment.generation:
            attachment.close_segment()  # the one in use maps the same memory
        else:
            self._use(attachment)
        self._close_late(attachment)
        return attachment

    def _close_late(self, attachment: Attachment) -> None:
        """Close an attachment that was made while another thread closed the database."""
        if self.is_closed:
            attachment.close_memory(self._why_closed())

    def _is_usable(self) -> bool:
        """Whether the current attachment still has its channel: an idle one, or that of an interrupted call."""
        return self._depth > 1 or any(idle.attachment is self.attachment for idle in self._idle)

    def _find_memory_store(self, channel: Channel, timeout_s: float) -> Attachment:
        """Attach again to the coordinator of a memory store (after a fork, or a broken request).

        Another coordinator does not have the data: ``CoordinatorLostError``.
        """
        try:
            attachment = None if self._lost else self._arrive(channel, timeout_s, start=False)
        except CoordinatorLostError:
            attachment = None
        if attachment is None or attachment.memory_id != self._memory:
            self._lost = True
            raise CoordinatorLostError(
                f"the coordinator of {self.directory} died and its durability is 'memory': what it held is gone; "
                "open the store again to start with an empty one"
            )
        return attachment

    def _use(self, attachment: Attachment) -> None:
        self.attachment.retire()  # first: no cached key location of the new segment may be used in the old one
        self.attachment = attachment
        for channel in self._idle.copy():
            idle = channel.attachment
            if idle is not None and idle.serves != attachment.serves:
                channel.attachment = None
        self._announce(attachment)

    def _announce(self, attachment: Attachment) -> None:
        if (attached := self.on_attach()) is not None:
            attached(attachment)

    def _arrive(self, channel: Channel, timeout_s: float, start: bool) -> Attachment:
        """Attach to a coordinator. No signal handler interrupts this, so no descriptor it makes is lost."""
        host, asked, ids = self._host, (self._durability, self._max_bytes), (self.database_id, self.store_id)
        hello = Hello(PROTOCOL_VERSION, channel.client_id, os.getpid(), *asked, *ids, channel.depth, self._history_ms)

        def arrive() -> Attachment:
            welcome = take_over.attach(host, self.directory, hello, self._idle_timeout_s, timeout_s, start, self._place)
            try:
                epoch = take_over.find_epoch(host, self.directory, time.monotonic() + timeout_s, self._place)
            except BaseException:
                descriptors.close_all(descriptors.owned(*welcome.descriptors))
                raise
            return self._admitted(welcome, epoch)

        self._attachments.forget_dropped()
        return uninterrupted(arrive)

    def _admitted(self, welcome: Welcome, epoch: EpochWord) -> Attachment:
        """The attachment for what a coordinator hands out. The first one settles which store the connection is to."""
        self._host.register_reader()
        attachment = Attachment(welcome, epoch, reading_through(weakref.ref(self)), self._host)
        self._attachments.add(attachment)
        if self._place is None and welcome.store_id:
            self._place = self._host.store_place(self.directory, welcome.store_id)
            self.store_id = welcome.store_id
        return attachment

    def refusal(self) -> InvalidOperationError:
        """The error for every write through a database that only reads."""
        return InvalidOperationError(
            f"the database {self.directory} was opened with read_only=True; open it without to write"
        )

    def _forget_after_fork(self) -> None:
        """In a forked child: drop the parent's pipes and slots, which only its death must end, and start anew."""
        self._attachments.leave_to_parent()
        self._begin()


_connections: weakref.WeakSet[StoreConnection] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for connection in list(_connections):
        connection._forget_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
