"""A process's tie to a store: the attached segment, the pipes, and what happens when the coordinator dies.

- One per ``Database`` and process. Threads share it; a commit holds its lock from request to answer.
- A commit is sent until it is answered: if the coordinator goes away, the next one is found or started, and the same
  commit is sent to it with the same commit id. It knows whether the log has it.
- ``attachment`` is what reads use. When the epoch word says that a new coordinator serves, the next snapshot attaches
  to it; snapshots taken before keep the old segment, which nobody changes any more.
- After ``fork`` the child closes what it inherited and attaches for itself: the parent's pipes and slots are not its.
"""

from __future__ import annotations

import os
import secrets
import select
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.shm import commit_set, words
from shoal.shm.commit_set import COMMITTED, CONFLICT, REFUSED
from shoal.shm.errors import (
    CoordinatorLostError,
    InvalidOperationError,
    LimitExceededError,
    ShoalError,
    no_memory_to_send,
)
from shoal.shm.frames import FrameBuffer, FrameError, frame, read_message, write_all
from shoal.shm.handshake import PROTOCOL_VERSION, Hello, Welcome
from shoal.shm.layout import EPOCH_BITS
from shoal.shm.limits import ADVICE_FOR_COMMITS, ANSWER_SPIN_S, MAX_COMMIT_BYTES
from shoal.shm.reader import Place, Reader
from shoal.shm.segment import Segment
from shoal.shm.snapshots import SnapshotSlots
from shoal.shm.store_files import EpochWord
from shoal.shm.waiting import Lookout
from shoal.workers import take_over


class Attachment:
    """One coordinator's segment, slots and pipes as this process has them."""

    __slots__ = (
        "answer_fd",
        "buffer",
        "durability",
        "generation",
        "is_open",
        "lookout",
        "poller",
        "reader",
        "ready",
        "request_fd",
        "segment",
        "slots",
    )

    def __init__(self, welcome: Welcome, epoch_words: memoryview, moved: Callable[[Place, str], bytes | None]) -> None:
        self.durability = welcome.durability
        self.generation = welcome.generation
        self.request_fd = welcome.request_fd
        self.answer_fd = welcome.answer_fd
        self.is_open = True
        self.lookout = Lookout()
        self.poller = select.poll()
        self.poller.register(self.answer_fd, select.POLLIN)
        self.buffer = FrameBuffer()
        self.ready: list[bytes] = []
        self.segment = Segment.attach(welcome.segment_fd)
        self.slots = SnapshotSlots(welcome.slots_fd)
        self.reader = Reader(self.segment, epoch_words, moved)

    def __del__(self) -> None:
        if getattr(self, "is_open", False):
            self.close_pipes()

    def retire(self) -> None:
        """Have the next read, and the next snapshot, ask the connection where to go."""
        self.generation = -1
        self.reader.retire()

    def close_pipes(self) -> None:
        """Tell the coordinator goodbye; the mapping lives on as long as a snapshot reads from it."""
        if self.is_open:
            self.is_open = False
            os.close(self.request_fd)
            os.close(self.answer_fd)


class Connection:
    """Attach, submit, await, re-send."""

    def __init__(
        self, directory: Path, durability: str | None, max_bytes: int | None, timeout_s: float, linger_s: float
    ) -> None:
        self.directory = directory
        self._durability = durability
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._linger_s = linger_s
        self._closed = False
        self._lost = False  # a memory store whose coordinator died: there is nothing to go on with
        # Weak, here and in the reader: a cycle would keep a closed store's segment mapped until it is collected.
        self.on_attach: Callable[[], Callable[[Attachment], None] | None] = lambda: None
        self._begin()
        self.attachment: Attachment = self._attach(timeout_s, start=True)
        self._memory_generation = self.attachment.generation
        _connections.add(self)

    def _begin(self) -> None:
        """What a new process starts with: an identity of its own and nothing in flight."""
        self._lock = threading.Lock()
        self._client_id = secrets.randbits(62) + 1
        self._commit_id = 0

    def current(self) -> Attachment:
        """The attachment to read from now: the newest coordinator's."""
        attachment = self.attachment
        if attachment.generation != self.epoch.words[0] >> EPOCH_BITS:
            with self._lock:
                if self.attachment is attachment:
                    self._replace_attachment()
            return self.attachment
        return attachment

    def _get_from_current(self, place: Place, name: str) -> bytes | None:
        """What the reader of a past generation answers with."""
        return self.current().reader.get_named(place, name)

    def submit(self, snapshot: int, valid_until_ms: int, reads: bytes, effects: bytes) -> tuple[int, list[Any]]:
        """Commit; the version and the operations' results.

        Raises ``ConflictError`` with the key as stored, or whatever the coordinator refused it with.
        """
        if len(effects) > MAX_COMMIT_BYTES or len(reads) > MAX_COMMIT_BYTES:
            size = max(len(effects), len(reads))
            raise LimitExceededError("size of the commit in bytes", MAX_COMMIT_BYTES, size, ADVICE_FOR_COMMITS)
        with self._lock:
            self._commit_id += 1
            try:
                request = frame(commit_set.encode_request(self._commit_id, snapshot, valid_until_ms, reads, effects))
            except MemoryError as error:
                raise no_memory_to_send(f"a commit of {len(reads) + len(effects):,} bytes") from error
            status, version, details = self._exchange(request)
        if status == COMMITTED:
            return version, details
        if status == CONFLICT:
            raise commit_set.error_from("ConflictError", details)
        if status == REFUSED and len(details) == 2:
            raise commit_set.error_from(*details)
        raise FrameError(f"the coordinator answered with status {status}")

    def ask(self, name: str, arguments: list[Any]) -> Any:
        """Ask the coordinator something that commits nothing."""
        effects = commit_set.encode_effects([], question=(name, arguments))
        with self._lock:
            self._commit_id += 1
            request = commit_set.encode_request(self._commit_id, 0, 0, commit_set.NO_READS, effects)
            _, _, details = self._exchange(frame(request))
        return details

    def close(self) -> None:
        """Detach. Whatever is used afterwards says so."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self.attachment.close_pipes()
                self.attachment.retire()  # the next read looks here, and is told

    def _exchange(self, request: bytes) -> tuple[int, int, Any]:
        """Send until answered. Answers to commits nobody waits for any more are passed over."""
        sent = False
        while True:
            attachment = self.attachment
            if self._closed or not attachment.is_open:
                attachment = self._replace_attachment(sent)
            try:
                write_all(attachment.request_fd, request)
                sent = True  # and not before: half a request is never done
                while True:
                    message = read_message(
                        attachment.answer_fd,
                        attachment.poller,
                        attachment.buffer,
                        attachment.ready,
                        attachment.lookout,
                        ANSWER_SPIN_S,
                    )
                    commit_id, *rest = commit_set.decode_answer(message)
                    if commit_id == self._commit_id:
                        status, version, details = rest
                        return status, version, details
            except (BrokenPipeError, EOFError):
                attachment.close_pipes()  # the coordinator died: the next turn finds or starts another
            except BaseException:  # Ctrl-C, say: half a message may be lost in either pipe, so no other may follow it
                attachment.close_pipes()
                self._client_id = secrets.randbits(62) + 1
                raise

    def _replace_attachment(self, in_flight: bool = False) -> Attachment:
        """Attach anew. What keeps the store closed says nothing about a commit that is ``in_flight``."""
        if self._closed:
            raise InvalidOperationError(f"the database {self.directory} is closed; open it again")
        self.attachment.close_pipes()
        if self.attachment.durability == "memory":
            return self._find_memory_store()
        try:
            attachment = self._attach(self._timeout_s, start=True)
        except (ShoalError, OSError) as error:
            if in_flight:
                raise CoordinatorLostError(
                    f"the coordinator of {self.directory} died before it answered, and none can be reached or started "
                    f"({error}); whether this commit is done shows when the store opens again"
                ) from error
            raise
        return self._use(attachment)

    def _find_memory_store(self) -> Attachment:
        """Attach again to the same coordinator (after a fork, or a broken request); another one holds other data."""
        try:
            attachment = None if self._lost else self._attach(self._timeout_s, start=False)
        except CoordinatorLostError:
            attachment = None
        if attachment is None or attachment.generation != self._memory_generation:
            self._lost = True
            raise CoordinatorLostError(
                f"the coordinator of {self.directory} died and its durability is 'memory': what it held is gone; "
                "open the store again to start with an empty one"
            )
        return self._use(attachment)

    def _use(self, attachment: Attachment) -> Attachment:
        self.attachment.retire()  # before anyone remembers places in the new segment
        self.attachment = attachment
        attached = self.on_attach()
        if attached is not None:
            attached(attachment)
        return attachment

    def _attach(self, timeout_s: float, start: bool) -> Attachment:
        hello = Hello(PROTOCOL_VERSION, self._client_id, os.getpid(), self._durability, self._max_bytes)
        welcome = take_over.attach(self.directory, hello, self._linger_s, timeout_s, start)
        words.register_reader()
        self.epoch = EpochWord(self.directory, writable=False)
        return Attachment(welcome, self.epoch.words, _asking(weakref.ref(self)))

    def _forget_after_fork(self) -> None:
        """In a forked child: close the parent's pipes, so that their end is his end, and start anew."""
        self.attachment.close_pipes()
        self.attachment.slots.detach()
        self.attachment.retire()
        self._begin()


def _asking(connection: Callable[[], Connection | None]) -> Callable[[Place, str], bytes | None]:
    def get_from_current(place: Place, name: str) -> bytes | None:
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
