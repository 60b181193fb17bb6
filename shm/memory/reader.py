"""Reads from a segment at a version: no lock, no round trip, no write.

What a reader may assume, and why it is enough:
- Everything written up to the published version is complete; what is newer has a higher commit version and is passed.
- Nothing reachable at a version at or above the horizon is reused. So a reader copies first, looks at the horizon
  after, and only then believes the copy. Below the horizon it met reused memory perhaps: SnapshotExpiredError.
- It never trusts a length or reference it has not yet verified so: a copy is bounded, a walk looks at the horizon.
- ``get`` needs no slot: it reads at the published version, and should the horizon pass it meanwhile, reads again.
- A key whose visible version is older than a range tombstone over it, which the snapshot sees, is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from shoal.shm.clock import now_ms
from shoal.shm.errors import CorruptionError, SnapshotExpiredError
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.limits import (
    BRANCH_ENTRIES,
    KEY_LOCATIONS,
    LEAF_ENTRIES,
    MAX_ENCODED_VALUE_BYTES,
    MAX_ENGINE_KEY_BYTES,
)
from shoal.shm.memory.layout import (
    EPOCH_BITS,
    EXPIRES,
    LENGTH_MASK,
    TOMBSTONE,
    W_CLEARS,
    W_GENERATION,
    W_HASH_SEED,
    W_HORIZON,
    W_ORDER_ROOT,
    W_PUBLISHED,
)
from shoal.shm.memory.record import find_node
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.snapshots import verify
from shoal.shm.memory.tombstone_view import TombstoneView
from shoal.shm.operation import VersionedValue

# A chain is walked this far before the reader asks whether it still walks its own snapshot's memory.
_STEPS_BETWEEN_CHECKS = 64
# A scan reads so many keys before it yields the first, then four times as many each time: often one is all it is for.
_FIRST_BATCH = 2


# An epoch no coordinator ever has.
_NO_EPOCH = memoryview((2**64 - 1).to_bytes(8, "little")).cast("Q")


class Reader:
    """Reads of one attached segment. ``moved`` takes over ``get_named`` once another coordinator serves the store.

    A ``KeyLocationCache`` keeps where key nodes are, which never move; not what is in them. Of 100,000 keys in random
    order, the first ``get_named`` of each took 2.3 us and every further one 1.1. When nodes have gone, when a range is
    cleared, and under another coordinator the epoch differs, and what was remembered is void.
    """

    __slots__ = (
        *("_epoch_words", "_generation", "_mm", "_moved", "_places", "_remembered", "_seed", "_tombstones", "words"),
    )

    def __init__(
        self,
        segment: Segment,
        epoch_words: memoryview | None = None,
        moved: Callable[[KeyLocationCache, str], bytes | None] | None = None,
    ) -> None:
        self._mm = segment.mm
        self.words = segment.words
        self._seed = segment.words[W_HASH_SEED]
        self._generation = segment.words[W_GENERATION]
        self._epoch_words = memoryview(bytes(8)).cast("Q") if epoch_words is None else epoch_words
        self._moved = moved or self.get_named
        self._places: list[
            KeyLocationCache
        ] = []  # those that remember nodes, and how many since all were told to forget
        self._remembered = 0
        self._tombstones = TombstoneView(segment)

    def retire(self) -> None:
        """From now on have ``moved`` answer: this process has let go of the coordinator."""
        self._epoch_words = _NO_EPOCH
        self._forget_places()

    def get_named(self, place: KeyLocationCache, name: str) -> bytes | None:
        """The newest committed value of the key ``place.prefix`` + ``name``, or None.

        The usual case, written for speed: a look at what is remembered, and no call but to C. ``find`` is the rule.
        """
        try:
            words = self.words
            snapshot = words[W_PUBLISHED]
            epoch, nodes = place.state
            if epoch == self._epoch_words[0]:  # loaded after the state: a retired reader finds no epoch it knows
                try:
                    node = nodes.get(name)
                    if node is None:
                        node = self._look_up(place, name, nodes, snapshot)
                    if node > 0:
                        record = words[node]
                        length = words[record + 2]
                        if words[record] <= snapshot and length <= MAX_ENCODED_VALUE_BYTES:
                            start = record * 8 + 24
                            value: bytes = self._mm[start : start + length]
                            if words[W_HORIZON] <= snapshot:
                                return value
                    elif not node and words[W_HORIZON] <= snapshot:
                        return None
                except (IndexError, SnapshotExpiredError):  # met reused memory; find_latest() looks again
                    pass
            elif not self._renew(place):
                return self._moved(place, name)
            found = self.find_latest(place.prefix + name.encode())
            return None if found is None else found.value
        except ValueError:
            if self._epoch_words is not _NO_EPOCH:  # ``name`` is no text
                raise
            return self._moved(place, name)  # the memory is closed

    def find_latest(self, key: bytes) -> VersionedValue | None:
        """What ``key`` holds now, with its version and expiry."""
        while True:
            try:
                return self.find(key, self.words[W_PUBLISHED])
            except SnapshotExpiredError:  # everything was reclaimed past us meanwhile: there is a newer version to read
                continue

    def find(self, key: bytes, snapshot: int) -> VersionedValue | None:
        """What ``key`` holds at ``snapshot``, with its version and expiry."""
        try:
            node = find_node(self.words, self._mm, self._seed, key)
            found = None
            if node:
                cleared_at = self._tombstones.cleared_at(key, snapshot) if self.words[W_CLEARS] else 0
                found = self._visible(node, snapshot, cleared_at)
        except IndexError as error:
            raise self._outside(snapshot, error) from error
        self.verify(snapshot)
        return found

    def scan(self, lower: bytes, upper: bytes | None, snapshot: int) -> Iterator[tuple[bytes, VersionedValue]]:
        """Live keys of ``[lower, upper)`` in order, a batch of nodes at a time."""
        tombstones = self._tombstones
        cleared_at = 0
        cleared_below: bytes | None = lower  # up to here ``cleared_at`` is right
        for nodes in self._batches(lower, snapshot):
            batch: list[tuple[bytes, VersionedValue]] = []
            done = False
            try:
                for node in nodes:
                    key = self._key(node, snapshot)
                    if upper is not None and key >= upper:
                        done = True
                        break
                    if key < lower:
                        continue
                    if cleared_below is not None and key >= cleared_below:
                        cleared_at, cleared_below = tombstones.fragment(key, snapshot)
                    found = self._visible(node, snapshot, cleared_at)
                    if found is not None:
                        batch.append((key, found))
            except IndexError as error:
                raise self._outside(snapshot, error) from error
            self.verify(snapshot)
            yield from batch
            if done:
                return

    def verify(self, snapshot: int) -> None:
        """Raise SnapshotExpiredError if memory that ``snapshot`` could reach may have been reused."""
        verify(self.words, snapshot)

    def _look_up(self, place: KeyLocationCache, name: str, nodes: dict[str, int], snapshot: int) -> int:
        """The key node, and remember it for the next time in the same epoch; 0 if there is none, -1 to ask ``find``.

        Remembered is what no range tombstone hides now, published or not: with the next one the epoch changes.
        """
        key, words = place.prefix + name.encode(), self.words
        node = find_node(words, self._mm, self._seed, key)
        if node:
            if words[W_HORIZON] > snapshot:
                self.verify(snapshot)
            if words[W_CLEARS] and words[words[node]] < self._tombstones.newest(key, snapshot):
                return -1
            if not nodes:
                self._places.append(place)
            nodes[name] = node
            self._remembered += 1
            if self._remembered > KEY_LOCATIONS:
                self._forget_places()
        return node

    def _forget_places(self) -> None:
        """Let all that is remembered go: a process may come by any number of runs and never look back."""
        places, self._places, self._remembered = self._places, [], 0
        for place in places:
            place.state = (-1, {})

    def _renew(self, place: KeyLocationCache) -> bool:
        """Begin a new epoch. False if another coordinator serves."""
        epoch = self._epoch_words[0]
        if epoch >> EPOCH_BITS != self._generation:
            return False
        place.state = (epoch, {})
        return True

    def _visible(self, node: int, snapshot: int, cleared_at: int) -> VersionedValue | None:
        words = self.words
        record = words[node]
        steps, above = 0, 1 << 64
        while record and words[record] > snapshot:
            record = words[record + 1]
            steps += 1
            if steps % _STEPS_BETWEEN_CHECKS == 0:
                self.verify(snapshot)
                if record and words[record] >= above:  # versions fall along a chain, so no chain goes in a circle
                    raise self._damaged("a chain of versions that do not fall")
                above = words[record]
        if not record or words[record] < cleared_at:
            return None
        meta = words[record + 2]
        if meta & TOMBSTONE:
            return None
        start, expires_ms = record * 8 + 24, 0
        if meta & EXPIRES:
            expires_ms = words[record + 3]
            start += 8
            if expires_ms <= now_ms():
                return None
        length = meta & LENGTH_MASK
        if length > MAX_ENCODED_VALUE_BYTES:
            self.verify(snapshot)
            raise self._damaged(f"a value of {length:,} bytes")
        return VersionedValue(self._mm[start : start + length], words[record], expires_ms)

    def _key(self, node: int, snapshot: int) -> bytes:
        length = self.words[node + 1]
        if length > MAX_ENGINE_KEY_BYTES:
            self.verify(snapshot)
            raise self._damaged(f"a key of {length:,} bytes")
        start = node * 8 + 16
        key: bytes = self._mm[start : start + length]
        return key

    def _entries(self, node: int, most: int, snapshot: int) -> list[int]:
        """A copy of an index node's references, verified."""
        try:
            count = self.words[node]
            entries: list[int] = self.words[node + 1 : node + 1 + min(count, most)].tolist()
        except IndexError:
            count, entries = most + 1, []
        self.verify(snapshot)
        if count > most:
            raise self._damaged(f"an index node of {count:,} entries")
        return entries

    def _batches(self, lower: bytes, snapshot: int) -> Iterator[list[int]]:
        """The key nodes from ``lower`` on, with one before it maybe: few at first, later a leaf at a time."""
        size, at = _FIRST_BATCH, -1
        for nodes in self._leaves(lower, snapshot):
            at = self._last_not_above(nodes, lower, 0, snapshot) if at < 0 else 0
            while at < len(nodes):
                yield nodes[at : at + size]
                at += size
                size = min(size * 4, LEAF_ENTRIES)

    def _leaves(self, lower: bytes, snapshot: int) -> Iterator[list[int]]:
        """The key nodes of every leaf that may hold keys from ``lower`` on."""
        root = self.words[W_ORDER_ROOT]
        if not root:
            self.verify(snapshot)
            return
        branches = self._entries(root, 1 << 20, snapshot)
        branch_at = self._last_not_above(branches, lower, 2, snapshot)
        for branch in branches[branch_at:]:
            leaves = self._entries(branch, BRANCH_ENTRIES, snapshot)
            leaf_at = self._last_not_above(leaves, lower, 1, snapshot)
            for leaf in leaves[leaf_at:]:
                yield self._entries(leaf, LEAF_ENTRIES, snapshot)

    def _last_not_above(self, nodes: list[int], lower: bytes, levels: int, snapshot: int) -> int:
        """Index of the last node whose first key is at most ``lower``, 0 if there is none."""
        words = self.words
        low, high = 0, len(nodes)
        while low < high:
            middle = (low + high) >> 1
            node = nodes[middle]
            try:
                for _ in range(levels):
                    node = words[node + 1]
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
        return self._damaged(f"a reference outside the segment ({error})")

    def _damaged(self, found: str) -> CorruptionError:
        return CorruptionError("the segment in memory", 0, "intact structures", found)
