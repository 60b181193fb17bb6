"""The engine without a transaction: every call commits by itself.

A read sees the newest committed version. A write is committed when the call returns. The coordinator decides what
``perform`` writes, on the newest version, so no call ever conflicts. The methods are those of ``primitives.engine``.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.operation import StoreStats, VersionedValue
from shoal.shm.wire import request as wire_request
from shoal.workers.presence.waiting import wait_for_change
from shoal.workers.presence.watching import ReadPast, Watch
from shoal.workers.shared_memory.attachment import Attachment
from shoal.workers.shared_memory.connection import StoreConnection
from shoal.workers.shared_memory.transaction import EngineTransaction

T = TypeVar("T")


class AutoCommit:
    """Every call is a transaction of its own. Threads may share it."""

    __slots__ = ("__weakref__", "_connection", "_read_past", "get_named")

    # The newest committed value of a key. It is the attached reader's own method: a call between would cost time.
    get_named: Callable[[KeyLocationCache, str], bytes | None]

    def __init__(self, connection: StoreConnection, read_past: ReadPast) -> None:
        self._connection = connection
        self._read_past = read_past
        self._attached(connection.attachment)
        connection.on_attach = weakref.WeakMethod(self._attached)

    def _attached(self, attachment: Attachment) -> None:
        self.get_named = attachment.reader.get_named

    @property
    def read_only(self) -> bool:
        """Whether the database only reads."""
        return self._connection.read_only

    def wait_for(self, look: Callable[[], T | None], ranges: list[tuple[bytes, bytes]], give_up_s: float) -> T | None:
        """Call ``look`` now and after commits into ``ranges`` until it returns something else than None; return that.

        None if it still returns None at ``give_up_s`` (monotonic); the last look is made after that.
        """
        changed = True
        while changed:
            seen = self.published()  # before the look: a commit during the look is followed by another look
            found = look()
            if found is not None:
                return found
            changed = wait_for_change(self._connection, ranges, seen, give_up_s)
        return look()

    def changes(
        self, lower: bytes, upper: bytes, since: int | None, wait_s: float
    ) -> Iterator[tuple[int, bytes, bytes | None]]:
        """What commits after version ``since`` changed in ``[lower, upper)``: see ``Watch``."""
        return Watch(self._connection, lower, upper, since, wait_s, self._read_past)

    def stats(self) -> StoreStats:
        """What the store holds and which process serves it."""
        return self._connection.current().stats()

    def published(self) -> int:
        """The newest committed version."""
        return self._connection.current().published()

    def find(self, key: bytes) -> VersionedValue | None:
        """The newest committed value of a key, with version and expiry."""
        with self._connection.current().reading() as reader:
            return reader.find_latest(key)

    def scan(self, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, VersionedValue]]:
        """The live keys of ``[lower, upper)`` at one snapshot, pinned while the iterator is in use."""
        return itertools.chain.from_iterable(self._live_pairs(lower, upper))

    def _live_pairs(self, lower: bytes, upper: bytes) -> Iterator[list[tuple[bytes, VersionedValue]]]:
        transaction = EngineTransaction(self._connection, read_only=True)
        try:
            yield from transaction.live_pairs(lower, upper)
        finally:
            transaction.abandon()

    def put(self, key: bytes, value: bytes, expires_ms: int = 0) -> None:
        """Write and commit."""
        mutations = wire_request.encode_mutations([key, value, expires_ms])
        self._connection.submit_one(0, 0, wire_request.NO_READS, mutations)

    def delete(self, key: bytes) -> None:
        """Delete and commit."""
        mutations = wire_request.encode_mutations([key, None, 0])
        self._connection.submit(0, 0, wire_request.NO_READS, mutations)

    def clear(self, lower: bytes, upper: bytes) -> None:
        """Delete a range and commit."""
        mutations = wire_request.encode_mutations([], [lower, upper])
        self._connection.submit(0, 0, wire_request.NO_READS, mutations)

    def perform(self, name: str, arguments: list[Any]) -> Any:
        """Run the operation ``name`` in the coordinator, which commits what it writes; the operation's result."""
        mutations = wire_request.encode_mutations([], None, [(name, arguments)])
        _, results = self._connection.submit_one(0, 0, wire_request.NO_READS, mutations)
        return results[0]
