"""The engine over one snapshot and one atomic commit.

A transaction reads at one pinned snapshot and keeps its writes in this process. The commit sends them together with
the keys and ranges that were read: the coordinator refuses it if any of these has changed since the snapshot. The
methods are those of ``primitives.engine``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, NoReturn

from shoal.shm.clock import now_ms
from shoal.shm.errors import InvalidOperationError, SnapshotExpiredError, no_memory_to_send
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.operation import EXPIRED, PAST, Past, VersionedValue, Write
from shoal.shm.wire import request as wire_request
from shoal.workers.shared_memory.connection import StoreConnection

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A named tuple without its Python frame: every write of a transaction makes one.
_new_tuple = tuple.__new__
_NOT_MOVABLE = (
    "a transaction of the engine belongs to the thread and process that began it and cannot be copied or pickled; "
    "begin one there"
)
_IS_PARENTS = (
    "the transaction was begun by the process that this one was forked from, which commits it; begin one in this one"
)


class EngineTransaction:
    """One snapshot and one atomic commit. ``commit`` or ``abandon`` ends it; so does dropping it."""

    __slots__ = (
        "__weakref__",
        "_clears",
        "_committed",
        "_connection",
        "_deferred",
        "_ended",
        "_keys_read",
        "_ranges_read",
        "_reader",
        "_required",
        "_slot",
        "_valid_until_ms",
        "_writes",
        "attachment",
        "read_only",
        "snapshot",
        "version",
    )

    def __init__(self, connection: StoreConnection, read_only: bool = False, past: Past | None = None) -> None:
        self._ended = "is not pinned yet"  # empty while it can be used, else what became of it
        self._slot: Any = None
        self._connection = connection
        self.attachment = attachment = connection.current()
        try:
            if past is None:
                self._slot, self.snapshot = attachment.slots.pin(attachment.reader.words)
            else:
                self._pin_past(past)
                attachment = self.attachment
        except ValueError as error:
            raise attachment.refusal(error) from None
        self._reader = attachment.reader
        self.read_only = read_only = read_only or connection.read_only
        self.version: int | None = self.snapshot if read_only else None
        self._keys_read: dict[bytes, None] = {}
        self._ranges_read: list[tuple[bytes, bytes]] = []
        self._writes: dict[bytes, Write] = {}
        self._clears: list[tuple[bytes, bytes]] = []
        self._required: list[tuple[str, list[Any]]] = []
        self._deferred: list[tuple[str, list[Any]]] = []
        self._committed: list[Callable[[], None]] = []
        self._valid_until_ms = 0  # the earliest expiry of anything read; 0: nothing read expires
        self._ended = ""

    def _pin_past(self, past: Past) -> None:
        """Pin a past version at the coordinator that says which one it is."""
        while True:
            self.attachment = attachment = self._connection.current()
            self._slot = attachment.slots.pin_all(attachment.reader.words)
            try:
                generation, version, bound = self._connection.ask(PAST, list(past))
                if generation == attachment.serves:
                    if version < 0:
                        raise _no_such_version(past, version, bound)
                    attachment.slots.move(self._slot, version)
                    attachment.reader.verify(version)
                    self.snapshot = version
                    return
            except BaseException:
                attachment.slots.unpin(self._slot)
                raise
            attachment.slots.unpin(self._slot)  # another coordinator serves by now: it has other memory

    def __del__(self) -> None:
        if getattr(self, "_ended", None) == "":  # a signal handler may have raised before it was set
            self._end("was dropped")

    def __reduce__(self) -> NoReturn:
        raise TypeError(_NOT_MOVABLE)

    def get_named(self, cache: KeyLocationCache, name: str) -> bytes | None:
        """The value of the key ``cache.prefix`` + ``name`` as this transaction sees it."""
        found = self.find(cache.prefix + name.encode())
        return None if found is None else found.value

    def find(self, key: bytes) -> VersionedValue | None:
        """A key's value with version and expiry, own writes included."""
        if self._ended:
            self._refuse_use()
        write = self._writes.get(key)
        if write is not None:
            return _as_read(write)
        if self._clears and self._is_cleared(key):
            return None
        self._keys_read[key] = None
        try:
            found = self._reader.find(key, self.snapshot)
        except ValueError as error:
            raise self.attachment.refusal(error) from None
        if found is not None and found.expires_ms:
            self._note_expiry(found.expires_ms)
        return found

    def scan(self, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, VersionedValue]]:
        """The live keys of ``[lower, upper)`` in order, own writes included.

        The commit validates the part of the range that was read: all of it, or up to the last key taken.
        """
        if self._ended:
            self._refuse_use()
        position = len(self._ranges_read)
        self._ranges_read.append((lower, upper))
        key = lower
        try:
            for pairs in self._merged(lower, upper) if self._writes or self._clears else self.live_pairs(lower, upper):
                for pair in pairs:
                    key, found = pair
                    if found.expires_ms and found.version:  # not an own write
                        self._note_expiry(found.expires_ms)
                    yield pair
        except GeneratorExit:
            self._ranges_read[position] = (lower, key + b"\0")
            raise

    def live_pairs(self, lower: bytes, upper: bytes) -> Iterator[list[tuple[bytes, VersionedValue]]]:
        """The live keys of a range in order, some at a time. Own writes are left out, and nothing counts as read."""
        try:
            yield from self._reader.scan_pairs(lower, upper, self.snapshot)
        except ValueError as error:
            raise self.attachment.refusal(error) from None

    def _merged(self, lower: bytes, upper: bytes) -> Iterator[list[tuple[bytes, VersionedValue]]]:
        """The live keys of a range in order, own writes and deletions included; some at a time."""
        own = sorted(write for write in self._writes.values() if lower <= write.key < upper)
        clears = self._clears.copy()
        position = 0
        for pairs in self.live_pairs(lower, upper):
            merged = []
            for pair in pairs:
                key = pair[0]
                while position < len(own) and own[position].key < key:
                    merged += _as_pair(own[position])
                    position += 1
                if position < len(own) and own[position].key == key:
                    continue
                if not any(start <= key < end for start, end in clears):
                    merged.append(pair)
            yield merged
        yield [pair for write in own[position:] for pair in _as_pair(write)]

    def put(self, key: bytes, value: bytes, expires_ms: int = 0) -> None:
        """Write a key at commit."""
        self._write(_new_tuple(Write, (key, value, expires_ms)))

    def delete(self, key: bytes) -> None:
        """Delete a key at commit, present or not."""
        self._write(Write(key, None, 0))

    def clear(self, lower: bytes, upper: bytes) -> None:
        """Delete every key of ``[lower, upper)`` at commit, however many."""
        self._check_writable()
        for key in [key for key in self._writes if lower <= key < upper]:
            del self._writes[key]
        self._deferred = [each for each in self._deferred if not lower <= each[1][0] < upper]
        self._clears.append((lower, upper))

    def perform(self, name: str, arguments: list[Any]) -> Any:
        """Run the operation ``name`` now, on what this transaction sees. What it reads is validated at commit."""
        self._check_writable()
        return self._decide(name, arguments)

    def _decide(self, name: str, arguments: list[Any]) -> Any:
        outcome = self._connection.operations.decide(self.find, now_ms(), name, arguments)
        for write in outcome.writes:
            self._write(write)
        return outcome.result

    def at_version(self, version: int) -> EngineTransaction:
        """A transaction that only reads, at a past version."""
        return EngineTransaction(self._connection, True, Past(version, None))

    @property
    def has_ended(self) -> bool:
        """Whether it was committed or abandoned, or its commit has failed."""
        return self._ended != ""

    def require(self, name: str, arguments: list[Any]) -> None:
        """Perform the operation ``name``, which writes nothing, on the newest state at commit."""
        self._check_writable()
        self._required.append((name, arguments))

    def defer(self, name: str, arguments: list[Any], committed: Callable[[], None] | None = None) -> None:
        """Perform the operation ``name`` on the newest state at commit; what it writes is part of the commit."""
        self._check_writable()
        if self._is_cleared(arguments[0]) or arguments[0] in self._writes:
            self._decide(name, arguments)  # at commit it would see what this transaction has cleared or deleted
        else:
            self._deferred.append((name, arguments))
        if committed is not None:
            self._committed.append(committed)

    def defers(self, lower: bytes, upper: bytes) -> bool:
        """Whether an operation that may write a key of ``[lower, upper)`` is to be performed at commit."""
        return any(lower <= arguments[0] < upper for _, arguments in self._deferred)

    def decides(self, lower: bytes, upper: bytes) -> bool:
        """Whether an operation on a key of ``[lower, upper)`` is to be performed at commit."""
        return any(lower <= arguments[0] < upper for _, arguments in self._required + self._deferred)

    def commit(self) -> int:
        """Commit and end; the commit version, or the snapshot's if nothing was written."""
        if self._ended:
            self._refuse_use()
        try:
            version = self.snapshot
            if not self.read_only and self.attachment.is_parents:  # the parent commits it, so it would be done twice
                raise InvalidOperationError(_IS_PARENTS)
            if self._writes or self._clears or self._deferred:
                reads, mutations = self._encoded()
                version, _ = self._connection.submit(self.snapshot, self._valid_until_ms, reads, mutations)
            elif self._required:
                mutations = wire_request.encode_mutations([], None, self._required)
                self._connection.submit(0, 0, wire_request.NO_READS, mutations)
        except BaseException:
            self._end("has failed")
            raise
        self.version = version
        self._end("has committed")
        for committed in self._committed:
            committed()
        return version

    def _encoded(self) -> tuple[bytes, bytes]:
        """Reads and mutations, encoded for the commit."""
        try:
            reads = wire_request.encode_reads(list(self._keys_read), self._ranges_read)
            flat = list(chain.from_iterable(self._writes.values()))
            clears = list(chain.from_iterable(self._clears)) if self._clears else None
            return reads, wire_request.encode_mutations(flat, clears, self._required + self._deferred or None)
        except MemoryError as error:
            raise no_memory_to_send(f"a commit of {len(self._writes):,} keys") from error

    def abandon(self) -> None:
        """End without writing anything; a second time does nothing."""
        if not self._ended:
            self._end("has ended")

    def _end(self, how: str) -> None:
        self._ended = how
        slot, self._slot = self._slot, None  # if an exception comes next, the slot object is dropped, which frees it
        self.attachment.slots.unpin(slot)

    def _write(self, write: Write) -> None:
        if self._ended or self.read_only:
            self._check_writable()
        self._writes[write.key] = write

    def _check_writable(self) -> None:
        if self._ended:
            self._refuse_use()
        if self._connection.read_only:
            raise self._connection.refusal()
        if self.read_only:
            raise InvalidOperationError("a snapshot only reads; use db.transaction to write")

    def _is_cleared(self, key: bytes) -> bool:
        return any(lower <= key < upper for lower, upper in self._clears)

    def _refuse_use(self) -> None:
        what = "snapshot" if self.read_only else "transaction"
        raise InvalidOperationError(f"the {what} {self._ended}; start a new one")

    def _note_expiry(self, expires_ms: int) -> None:
        if not self._valid_until_ms or expires_ms < self._valid_until_ms:
            self._valid_until_ms = expires_ms


def _as_read(write: Write) -> VersionedValue | None:
    if write.value is None or (write.expires_ms and write.expires_ms <= now_ms()):
        return None
    return VersionedValue(write.value, 0, write.expires_ms)


def _as_pair(write: Write) -> list[tuple[bytes, VersionedValue]]:
    """What a scan finds of an own write: one pair, or none of a deletion."""
    found = _as_read(write)
    return [] if found is None else [(write.key, found)]


def _no_such_version(past: Past, found: int, bound: int) -> Exception:
    """The error for a past version that is not kept (``found`` EXPIRED) or not there yet."""
    if past.moment_us is not None:
        moment = (_EPOCH + timedelta(microseconds=past.moment_us)).isoformat()
        if found == EXPIRED:
            return SnapshotExpiredError(max(0, bound - 1), bound, f"the moment {moment}")
        return ValueError(f"at is {moment}, which is in the future; give a moment that has passed")
    assert past.version is not None
    if found == EXPIRED:
        return SnapshotExpiredError(past.version, bound, f"version {past.version}")
    return ValueError(f"version is {past.version}, and the newest one is {bound}; give a version that is committed")
