"""Reads from a segment at a version: no lock, no round trip, no write.

What a reader may assume, and why it is enough:
- Everything written up to the published version is complete. What is newer has a higher version and is passed over.
- Nothing that is reachable at a version at or above the horizon is reused. So a reader copies first, then looks at the
  horizon, and only then believes the copy. If the horizon has passed its snapshot, it may have copied reused memory:
  SnapshotExpiredError.
- It trusts no length or reference that is not verified in this way yet: a copy is bounded, a walk looks at the horizon.
- ``get_named`` and ``find_latest`` pin nothing. They read at the published version, and read again if the horizon
  passes it meanwhile.
- The coordinator may be killed at any time: everything that it has published stays whole and readable.

Which record of a key is visible is the rule of ``record``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from shoal.shm.errors import CorruptionError, SnapshotExpiredError
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.limits import DEFAULT_LIMITS, MAX_ENCODED_VALUE_BYTES, MAX_ENGINE_KEY_BYTES, Limits
from shoal.shm.memory.layout import (
    EPOCH_BITS,
    INDEX_ENTRIES,
    NODE_KEY_BYTE,
    NODE_KEY_LENGTH,
    RECORD_META,
    RECORD_VALUE_BYTE,
    W_GENERATION,
    W_HASH_SEED,
    W_HORIZON,
    W_ORDER_ROOT,
    W_PUBLISHED,
    W_RANGE_TOMBSTONES,
)
from shoal.shm.memory.record import damaged, find_node, is_cleared, value_at, visible_record
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.snapshots import verify
from shoal.shm.memory.tombstone_view import TombstoneView
from shoal.shm.operation import VersionedValue

try:
    from cython import compiled
except ModuleNotFoundError:
    from shoal.shm.cython_shim import compiled

if compiled:
    from cython.cimports.bytes_at import copied, listed
    from cython.cimports.order import fence_acquire

# A scan reads so many keys before it yields the first, then four times as many each time: a caller often stops early.
_FIRST_BATCH = 2
_MOST_BRANCHES = 1 << 20
# An epoch that no coordinator ever has, nor an empty cache.
_NO_EPOCH = memoryview((2**64 - 2).to_bytes(8, "little")).cast("Q")
_NO_WORDS = memoryview(b"").cast("Q")
_Pairs = list[tuple[bytes, VersionedValue]]


class Reader:
    """Reads of one attached segment. ``moved`` takes over ``get_named`` once another coordinator serves the store.

    A ``KeyLocationCache`` keeps where key nodes are, not what is in them: a node never moves. With 100,000 keys in
    random order, the first ``get_named`` of a key took 2.3 us and each further one 1.1 us. The epoch changes when nodes
    are removed, when a range is cleared and when another coordinator serves; then all cached locations are void.
    """

    __slots__ = (
        "_cached_locations",
        "_caches",
        "_epoch_words",
        "_generation",
        "_limits",
        "_mm",
        "_moved",
        "_retired",
        "_seed",
        "_tombstones",
        "_words",
        "at_ms",
        "words",
    )

    def __init__(
        self,
        segment: Segment,
        epoch_words: memoryview | None = None,
        moved: Callable[[KeyLocationCache, str], bytes | None] | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._mm = segment.mm
        self.words = segment.words
        self._seed = segment.words[W_HASH_SEED]
        self._generation = segment.words[W_GENERATION]
        if epoch_words is None:
            epoch_words = memoryview(bytes(8)).cast("Q")
        if compiled:  # a view in C keeps its memoryview from being released, so each has one of its own
            self._words, self._epoch_words = memoryview(segment.words), memoryview(epoch_words)
        else:
            self._words, self._epoch_words = segment.words, epoch_words
        self._moved = self.get_named if moved is None else moved
        self._limits, self._retired = limits, False
        self.at_ms: int | None = None  # the time by which a scan finds keys expired; None: the clock's
        # The caches that hold locations, and how many were added to them since all were last emptied.
        self._caches: list[KeyLocationCache] = []
        self._cached_locations = 0
        self._tombstones = TombstoneView(segment, limits)

    def retire(self) -> None:
        """From now on have ``moved`` answer: this process has let go of the coordinator."""
        self._retired = True
        self._epoch_words = _NO_EPOCH
        self._empty_caches()

    def close(self) -> None:
        """Let go of the segment, which is unmapped next. Later reads are ``ValueError``, or are made by ``moved``."""
        self.retire()
        if compiled:
            self._words = _NO_WORDS

    def get_named(self, cache: KeyLocationCache, name: str) -> bytes | None:
        """The newest committed value of the key ``cache.prefix`` + ``name``, or None.

        The usual case is written out for speed, with calls to C only: a location from the cache, and a newest record
        that is published and has no flags (a flag makes its length word too large). Everything else is left to
        ``find_latest``.
        """
        try:
            words = self._words
            snapshot = words[W_PUBLISHED]
            if compiled:
                fence_acquire()
            epoch, nodes = cache.state
            if epoch == self._epoch_words[0]:  # loaded after the state: a retired reader finds no epoch it knows
                try:
                    found = nodes.get(name)
                    node = self._look_up(cache, name, nodes, snapshot) if found is None else found
                    if node > 0:
                        record = words[node]
                        version, length = words[record], words[record + RECORD_META]
                        if version <= snapshot and length <= MAX_ENCODED_VALUE_BYTES:
                            start = record * 8 + RECORD_VALUE_BYTE
                            if compiled:
                                value = copied(words, start, length)
                                fence_acquire()
                            else:
                                value = self._mm[start : start + length]
                            if words[W_HORIZON] <= snapshot:
                                return value
                    elif not node and words[W_HORIZON] <= snapshot:
                        return None
                except (IndexError, SnapshotExpiredError):  # met reused memory; find_latest() looks again
                    pass
            elif not self._renew(cache):
                return self._moved(cache, name)
            latest = self.find_latest(cache.prefix + name.encode())
            return None if latest is None else latest.value
        except (ValueError, IndexError):
            if not self._retired:  # ``name`` cannot be encoded
                raise
            return self._moved(cache, name)  # the memory is closed

    def find_latest(self, key: bytes) -> VersionedValue | None:
        """What ``key`` holds now, with its version and expiry."""
        while True:
            snapshot = self.words[W_PUBLISHED]
            if compiled:
                fence_acquire()
            try:
                return self.find(key, snapshot)
            except SnapshotExpiredError:  # the horizon has passed it meanwhile: there is a newer version to read
                continue

    def find(self, key: bytes, snapshot: int) -> VersionedValue | None:
        """What ``key`` holds at ``snapshot``, with its version and expiry."""
        words, mm = self._words, self._mm
        found = None
        try:
            node = find_node(words, mm, self._seed, key)
            if node:
                cleared_at = self._tombstones.cleared_at(key, snapshot) if words[W_RANGE_TOMBSTONES] else 0
                record = visible_record(words, node, snapshot, cleared_at)
                if record:
                    found = value_at(words, mm, record, snapshot)
        except IndexError as error:
            raise self._outside(snapshot, error) from error
        self.verify(snapshot)
        return found

    def scan(self, lower: bytes, upper: bytes | None, snapshot: int) -> Iterator[tuple[bytes, VersionedValue]]:
        """Live keys of ``[lower, upper)`` in order, with what they hold at ``snapshot``."""
        for pairs in self.scan_pairs(lower, upper, snapshot):
            yield from pairs

    def scan_pairs(self, lower: bytes, upper: bytes | None, snapshot: int) -> Iterator[_Pairs]:
        """As ``scan``: a few at a time first, then more."""
        for nodes in self._batches(lower, snapshot):
            found, at_end = self._read(nodes, lower, upper, snapshot)
            yield found
            if at_end:
                return

    def verify(self, snapshot: int) -> None:
        """Raise SnapshotExpiredError if memory that ``snapshot`` could reach may have been reused."""
        verify(self._words, snapshot)

    def _read(self, nodes: list[int], lower: bytes, upper: bytes | None, snapshot: int) -> tuple[_Pairs, bool]:
        """The live keys of ``[lower, upper)`` among key nodes in order; whether ``upper`` was reached."""
        words, mm, tombstones = self._words, self._mm, self._tombstones
        batch: _Pairs = []
        cleared_at, at_end, below = 0, False, True
        try:
            # ``cleared_at`` is right for keys below it; None: for all.
            cleared_below: bytes | None = lower if words[W_RANGE_TOMBSTONES] else None
            for node in nodes:
                key = self._key(node, snapshot)
                if upper is not None and key >= upper:
                    at_end = True
                    break
                if below and key < lower:
                    continue
                below = False
                if cleared_below is not None and key >= cleared_below:
                    cleared_at, cleared_below = tombstones.fragment(key, snapshot)
                record = visible_record(words, node, snapshot, cleared_at, self.at_ms)
                if record:
                    batch.append((key, value_at(words, mm, record, snapshot)))
        except IndexError as error:
            raise self._outside(snapshot, error) from error
        self.verify(snapshot)
        return batch, at_end

    def _look_up(self, cache: KeyLocationCache, name: str, nodes: dict[str, int], snapshot: int) -> int:
        """Find a key node and add it to the cache; 0 if there is none, -1 if ``find`` must answer.

        A node is cached only if no range tombstone hides its key now, published or not. The next one changes the epoch.
        """
        key, words = cache.prefix + name.encode(), self._words
        node = find_node(words, self._mm, self._seed, key)
        if compiled:
            fence_acquire()
        if node:
            if words[W_HORIZON] > snapshot:
                self.verify(snapshot)
            if words[W_RANGE_TOMBSTONES] and is_cleared(words, node, self._tombstones.newest(key, snapshot)):
                return -1
            if not nodes:
                self._caches.append(cache)
            nodes[name] = node
            self._cached_locations += 1
            if self._cached_locations > self._limits.key_locations:
                self._empty_caches()
        return node

    def _empty_caches(self) -> None:
        """Empty all caches: a process may read any number of runs once and never come back to them."""
        caches, self._caches, self._cached_locations = self._caches, [], 0
        for cache in caches:
            cache.state = (-1, {})

    def _renew(self, cache: KeyLocationCache) -> bool:
        """Begin a new epoch in a cache. False if another coordinator serves."""
        epoch = self._epoch_words[0]
        if epoch >> EPOCH_BITS != self._generation:
            return False
        cache.state = (epoch, {})
        return True

    def _key(self, node: int, snapshot: int) -> bytes:
        if compiled and node >= len(self._words):
            raise IndexError("a key node outside the segment")  # its number plus one may be a word inside
        length = self._words[node + NODE_KEY_LENGTH]
        if length > MAX_ENGINE_KEY_BYTES:
            self.verify(snapshot)
            raise damaged(f"a key of {length:,} bytes")
        start = node * 8 + NODE_KEY_BYTE
        if compiled:  # noqa: SIM108 (mypy knows the names of C in statements alone)
            key = copied(self._words, start, length)
        else:
            key = self._mm[start : start + length]
        return key

    def _entries(self, node: int, most: int, snapshot: int) -> list[int]:
        """A copy of an index node's references, verified."""
        try:
            words, first = self._words, node + INDEX_ENTRIES
            count = words[node]
            taken = min(count, most)
            if compiled:  # noqa: SIM108
                entries = listed(words, first, taken)
            else:
                entries = words[first : first + taken].tolist()
        except IndexError:
            count, entries = most + 1, []
        self.verify(snapshot)
        if count > most:
            raise damaged(f"an index node of {count:,} entries")
        return entries

    def _batches(self, lower: bytes, snapshot: int) -> Iterator[list[int]]:
        """The key nodes from ``lower`` on, perhaps with the one before it: few at first, later a leaf at a time."""
        size, at = _FIRST_BATCH, -1
        for nodes in self._leaves(lower, snapshot):
            at = self._last_not_above(nodes, lower, 0, snapshot) if at < 0 else 0
            while at < len(nodes):
                yield nodes[at : at + size]
                at += size
                size = min(size * 4, self._limits.leaf_entries)

    def _leaves(self, lower: bytes, snapshot: int) -> Iterator[list[int]]:
        """The key nodes of every leaf that may hold keys from ``lower`` on."""
        root = self.words[W_ORDER_ROOT]
        if not root:
            self.verify(snapshot)
            return
        branches = self._entries(root, _MOST_BRANCHES, snapshot)
        branch_at = self._last_not_above(branches, lower, 2, snapshot)
        for branch in branches[branch_at:]:
            leaves = self._entries(branch, self._limits.branch_entries, snapshot)
            leaf_at = self._last_not_above(leaves, lower, 1, snapshot)
            for leaf in leaves[leaf_at:]:
                yield self._entries(leaf, self._limits.leaf_entries, snapshot)

    def _last_not_above(self, nodes: list[int], lower: bytes, levels: int, snapshot: int) -> int:
        """Index of the last node whose first key is at most ``lower``, 0 if there is none."""
        words = self._words
        low, high = 0, len(nodes)
        while low < high:
            middle = (low + high) >> 1
            node = nodes[middle]
            try:
                for _ in range(levels):
                    if compiled and node >= len(words):
                        raise IndexError("an index node outside the segment")
                    node = words[node + INDEX_ENTRIES]
                key = self._key(node, snapshot)
            except IndexError as error:
                raise self._outside(snapshot, error) from error
            if key <= lower:
                low = middle + 1
            else:
                high = middle
        # Until here a reference may have been followed out of reused memory; the caller's next copy verifies.
        return max(0, low - 1)

    def _outside(self, snapshot: int, error: IndexError) -> CorruptionError:
        """What to raise for a reference that leads nowhere, unless it was met in reused memory."""
        self.verify(snapshot)
        return damaged(f"a reference outside the segment ({error})")
