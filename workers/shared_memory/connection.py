"""A process's tie to a store: what it has attached to, and what happens when the coordinator dies.

- One per ``Database`` and process. Threads share it and commit one after the other.
- ``attachment`` is what reads use. When the epoch word says that a new coordinator serves, the next snapshot attaches
  to it; snapshots taken before keep the old segment, which nobody changes any more.
- It belongs to the store that it first attached to. If another directory, another store or nothing is at the path
  later, every further commit is ``StoreMovedError``; reads go on in the memory that is attached.
- A signal handler or a finaliser may run in the middle of anything here, in the thread that does it, and use the same
  database. It passes the lock, which is its own thread's, finds no idle channel, and makes one. That one is kept.
- An exception that a handler raises may come between any two steps. A channel is taken from ``_idle`` before it is
  used and put back when its answer is there; one that is lost in between is never used again.
- After ``fork`` the child lets go of what it inherited and attaches for itself: pipes and slots are the parent's.
"""

from __future__ import annotations

import os
import secrets
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.shm.errors import (
    CoordinatorLostError,
    InvalidOperationError,
    LimitExceededError,
    ShoalError,
    StoreMovedError,
    no_memory_to_send,
)
from shoal.shm.files.store_files import EpochWord
from shoal.shm.files.store_place import StorePlace
from shoal.shm.host import descriptors
from shoal.shm.host.unpatched import thread, time
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.limits import ADVICE_FOR_COMMITS, MAX_COMMIT_BYTES
from shoal.shm.memory import words
from shoal.shm.operation import OperationTable
from shoal.shm.wire import request as wire_request
from shoal.shm.wire import wire_errors
from shoal.shm.wire.answer import COMMITTED, CONFLICT, REFUSED
from shoal.shm.wire.frames import FrameError, frame
from shoal.shm.wire.handshake import PROTOCOL_VERSION, Hello, Welcome
from shoal.workers.shared_memory import take_over
from shoal.workers.shared_memory.attachment import Attachment
from shoal.workers.shared_memory.channel import Channel, commit_through
from shoal.workers.uninterrupted import uninterrupted


class Connection:
    """Attach, submit, and know what to read from."""

    read_only = False

    def __init__(
        self,
        directory: Path,
        durability: str | None,
        max_bytes: int | None,
        timeout_s: float,
        linger_s: float,
        operations: OperationTable,
        store_id: bytes | None = None,
    ) -> None:
        self.operations = operations
        self.directory = directory
        self._durability = durability
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._linger_s = linger_s
        self._closed = False
        # Which store this is and where it lies: known from the first attachment on, or because the caller knows it.
        self.store_id = store_id
        self._place = None if store_id is None else StorePlace(directory, store_id)
        self._moved: StoreMovedError | None = None
        self._lost = False  # a memory store whose coordinator died: there is nothing to go on with
        # Weak, here and in the reader: a cycle would keep a closed store's segment mapped until it is collected.
        self.on_attach: Callable[[], Callable[[Attachment], None] | None] = lambda: None
        # Every attachment that lives, with its pipes: to be closed should it have been lost half-way.
        self._attachments: list[tuple[weakref.ref[Attachment], list[int | None]]] = []
        self._begin()
        channel = Channel()
        channel.attachment = self.attachment = self._arrive(channel.client_id, timeout_s, start=True)
        self._memory = self.attachment.memory_id
        self._idle.append(channel)
        _connections.add(self)

    def _begin(self) -> None:
        """What a new process starts with: an identity of its own and nothing in flight."""
        self._lock = thread.RLock()
        self._database_id = secrets.randbits(62) + 1
        self._depth = 0  # calls under way in the thread that has the lock: more than one if a handler is at work
        self._idle: list[Channel] = []

    def current(self) -> Attachment:
        """The attachment to read from now: the newest coordinator's."""
        attachment = self.attachment
        if attachment.is_current():
            return attachment
        with self._lock:
            depth = self._depth
            self._depth = depth + 1
            try:
                if self.attachment is attachment:
                    channel = self._take()
                    self._attach(channel, False, time.monotonic() + self._timeout_s)
                    self._put_back(channel)
            finally:
                self._depth = depth
        return self.attachment

    def _get_from_current(self, place: KeyLocationCache, name: str) -> bytes | None:
        """What the reader of a past generation answers with."""
        attachment = self.current()
        self._announce(attachment)
        return attachment.reader.get_named(place, name)

    def submit(self, snapshot: int, valid_until_ms: int, reads: bytes, mutations: bytes) -> tuple[int, list[Any]]:
        """Commit; the version and the operations' results.

        Raises ``ConflictError`` with the key as stored, or whatever the coordinator refused it with.
        """
        if len(mutations) > MAX_COMMIT_BYTES or len(reads) > MAX_COMMIT_BYTES:
            size = max(len(mutations), len(reads))
            raise LimitExceededError("size of the commit in bytes", MAX_COMMIT_BYTES, size, ADVICE_FOR_COMMITS)
        status, version, details = self._exchange(snapshot, valid_until_ms, reads, mutations)
        if status == COMMITTED:
            return version, details
        if status == CONFLICT:
            raise wire_errors.error_from("ConflictError", details)
        if status == REFUSED and len(details) == 2:
            error = wire_errors.error_from(*details)
            if isinstance(error, StoreMovedError):
                self._moved = error
            raise error
        raise FrameError(f"the coordinator answered with status {status}")

    def ask(self, name: str, arguments: list[Any]) -> Any:
        """Ask the coordinator something that commits nothing."""
        mutations = wire_request.encode_mutations([], control=(name, arguments))
        _, _, details = self._exchange(0, 0, wire_request.NO_READS, mutations)
        return details

    def check_at_rest(self) -> list[str] | None:
        """None: the store is served, and a check asks the coordinator."""
        return None

    def close(self) -> None:
        """Give everything back, and have whatever is used afterwards say so. It waits for nobody.

        A commit under way in another thread, or in this one if a signal handler closes, goes on to its answer.
        """
        self._closed = True
        for reference, _ in self._attachments.copy():
            attachment = reference()
            if attachment is not None:
                attachment.close_memory(self._why_closed())
        self._close_unused_pipes()

    def _close_unused_pipes(self) -> None:
        for reference, pipes in self._attachments.copy():
            attachment = reference()
            if attachment is None or not attachment.in_use:
                descriptors.close_all(pipes)

    def _why_closed(self) -> str:
        return f"the database {self.directory} is closed; open it again"

    def _exchange(self, snapshot: int, valid_until_ms: int, reads: bytes, mutations: bytes) -> tuple[int, int, Any]:
        give_up_s = time.monotonic() + self._timeout_s
        with self._lock:
            depth = self._depth
            self._depth = depth + 1
            try:
                if self._closed:
                    raise InvalidOperationError(self._why_closed())
                if self._moved is not None:
                    raise StoreMovedError(*self._moved.args)
                channel = self._take()
                channel.commit_id += 1
                try:
                    request = wire_request.encode_request(channel.commit_id, snapshot, valid_until_ms, reads, mutations)
                    message = frame(request)
                except MemoryError as error:
                    raise no_memory_to_send(f"a commit of {len(reads) + len(mutations):,} bytes") from error
                answer = commit_through(channel, message, self._attach, self._timeout_s, give_up_s)
                self._put_back(channel)
                return answer
            finally:
                self._depth = depth

    def _take(self) -> Channel:
        """An idle channel, or a new one if the thread's own commit has been interrupted, now or before."""
        try:
            return self._idle.pop()
        except IndexError:
            return Channel()

    def _put_back(self, channel: Channel) -> None:
        self._idle.append(channel)
        if self._closed:  # meanwhile
            self._close_unused_pipes()

    def _attach(self, channel: Channel, in_flight: bool, give_up_s: float) -> Attachment:
        """Attach a channel anew. What keeps the store closed says nothing about a commit that is ``in_flight``."""
        timeout_s = max(0.0, give_up_s - time.monotonic())
        try:
            if self._closed:
                raise InvalidOperationError(self._why_closed())
            if self._moved is not None:
                raise StoreMovedError(*self._moved.args)
            if self.attachment.durability == "memory" and not self.read_only:
                attachment = self._find_memory_store(channel, timeout_s)
            else:
                attachment = self._arrive(channel.client_id, timeout_s, start=True)
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
            attachment.close_segment()  # the other channel's is read from
        else:
            self._use(attachment)
        self._close_late(attachment)
        return attachment

    def _close_late(self, attachment: Attachment) -> None:
        """Close what another thread's ``close`` has come too early for."""
        if self._closed:
            attachment.close_memory(self._why_closed())

    def _is_usable(self) -> bool:
        """Whether ``attachment`` still has its channel: in the call that was interrupted by this one, or idle."""
        return self._depth > 1 or any(idle.attachment is self.attachment for idle in self._idle)

    def _find_memory_store(self, channel: Channel, timeout_s: float) -> Attachment:
        """Attach again to the same coordinator (after a fork, or a broken request); another one holds other data."""
        try:
            attachment = None if self._lost else self._arrive(channel.client_id, timeout_s, start=False)
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
        self.attachment.retire()  # before anyone remembers places in the new segment
        self.attachment = attachment
        for channel in self._idle.copy():
            idle = channel.attachment
            if idle is not None and idle.serves != attachment.serves:
                channel.attachment = None
        self._announce(attachment)

    def _announce(self, attachment: Attachment) -> None:
        attached = self.on_attach()
        if attached is not None:
            attached(attachment)

    def _arrive(self, client_id: int, timeout_s: float, start: bool) -> Attachment:
        """Be admitted by the coordinator. Nothing interrupts this, so nothing that it makes is lost."""
        hello = Hello(PROTOCOL_VERSION, client_id, os.getpid(), self._durability, self._max_bytes, self._database_id)
        hello = hello._replace(store_id=self.store_id)

        def arrive() -> Attachment:
            welcome = take_over.attach(self.directory, hello, self._linger_s, timeout_s, start, self._place)
            try:
                epoch = take_over.find_epoch(self.directory, time.monotonic() + timeout_s, self._place)
            except BaseException:
                descriptors.close_all(descriptors.owned(*welcome.descriptors))
                raise
            return self._admitted(welcome, epoch)

        for entry in self._attachments.copy():
            if entry[0]() is None:
                descriptors.close_all(entry[1])
                self._attachments.remove(entry)
        return uninterrupted(arrive)

    def _admitted(self, welcome: Welcome, epoch: EpochWord) -> Attachment:
        """Take what a coordinator hands out; from the first time on this is the store that the process has open."""
        words.register_reader()
        attachment = Attachment(welcome, epoch, _asking(weakref.ref(self)))
        self._attachments.append((weakref.ref(attachment), attachment.pipes))
        if self._place is None and welcome.store_id:
            self._place = StorePlace(self.directory, welcome.store_id)
            self.store_id = welcome.store_id
        return attachment

    def refusal(self) -> InvalidOperationError:
        """What every write is told if the database only reads."""
        return InvalidOperationError(
            f"the database {self.directory} was opened with read_only=True; open it without to write"
        )

    def _forget_after_fork(self) -> None:
        """In a forked child: let go of what is the parent's, so that their end is its end, and start anew."""
        for reference, _ in self._attachments:
            attachment = reference()
            if attachment is not None:
                attachment.leave_to_parent()
        self._begin()


def _asking(connection: Callable[[], Connection | None]) -> Callable[[KeyLocationCache, str], bytes | None]:
    def get_from_current(place: KeyLocationCache, name: str) -> bytes | None:
        alive = connection()
        if alive is None:
            raise InvalidOperationError("the database is closed; open it again")
        return alive._get_from_current(place, name)

    return get_from_current


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for connection in list(_connections):
        connection._forget_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
