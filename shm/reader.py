"""Reads from a segment at a version: no lock, no round trip, no write.

What a reader may assume, and why it is enough:
- Everything written up to the published version is complete; what is newer has a higher commit version and is passed.
- Nothing reachable at a version at or above the horizon is reused. So a reader copies first, looks at the horizon
  after, and only then believes the copy. Below the horizon it met reused memory perhaps: SnapshotExpiredError.
- It never trusts a length or reference it has not yet verified so: a copy is bounded, a walk looks at the horizon.
- ``get`` needs no slot: it reads at the published version, and should the horizon pass it meanwhile, reads again.
- Cleared ranges are looked up before the key's newest version: the coordinator empties the table only after the keys
  are gone, so who sees an empty table sees none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from shoal.shm.clock import now_ms
from shoal.shm.errors import CorruptionError, SnapshotExpiredError
from shoal.shm.layout import (
    BUCKET_MASK,
    DIRECTORY_WORD,
    EPOCH_BITS,
    EXPIRES,
    LENGTH_MASK,
    TOMBSTONE,
    W_CLEARS,
    W_GENERATION,
    W_HASH_MASK,
    W_HASH_SEED,
    W_HORIZON,
    W_ORDER_ROOT,
    W_PUBLISHED,
)
from shoal.shm.limits import (
    BRANCH_ENTRIES,
    LEAF_ENTRIES,
    MAX_ENCODED_VALUE_BYTES,
    MAX_ENGINE_KEY_BYTES,
    REMEMBERED_NODES,
)
from shoal.shm.segment import Segment

# A chain is walked this far before the reader asks whether it still walks its own snapshot's memory.
_STEPS_BETWEEN_CHECKS = 64
# A scan reads so many keys before it yields the first, then four times as many each time: often one is all it is for.
_FIRST_BATCH = 2


class Found(NamedTuple):
    """A live version of a key."""

    value: bytes
    version: int
    expires_ms: int  # 0: never


# An epoch no coordinator ever has.
_NO_EPOCH = memoryview((2**64 - 1).to_bytes(8, "little")).cast("Q")


class Place:
    """A key prefix, and where its keys are: what a reader keeps between two reads. Void in another epoch.

    Threads share it: epoch and nodes are taken together, so nobody looks for one epoch's nodes in another's segment.
    """

    __slots__ = ("prefix", "state")

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.state: tuple[int, dict[str, int]] = (-1, {})  # epoch; rest of the key -> node


class Reader:
    """Reads of one attached segment. ``moved`` takes over ``get_named`` once another coordinator serves the store.

    A ``Place`` remembers where key nodes are, which never move; not what is in them. Of 100,000 keys in random order,
    the first ``get_named`` of each took 2.3 us and every further one 1.1. When nodes have gone, while cleared ranges
    have to be looked up, and under another coordinator the epoch differs, and what was remembered is void.
    """

    __slots__ = ("_epoch_words", "_generation", "_mm", "_moved", "_places", "_remembered", "_seed", "words")

    def __init__(
        self,
        segment: Segment,
        epoch_words: memoryview | None = None,
        moved: Callable[[Place, str], bytes | None] | None = None,
    ) -> None:
        self._mm = segment.mm
        self.words = segment.words
        self._seed = segment.words[W_HASH_SEED]
        self._generation = segment.words[W_GENERATION]
        self._epoch_words = memoryview(bytes(8)).cast("Q") if epoch_words is None else epoch_words
        self._moved = moved or self.get_named
        self._places: list[Place] = []  # those that remember nodes, and how many since all were told to forget
        self._remembered = 0

    def retire(self) -> None:
        """From now on have ``moved`` answer: this process has let go of the coordinator."""
        self._epoch_words = _NO_EPOCH
        self._forget_places()

    def get_named(self, place: Place, name: str) -> bytes | None:
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
                    if node:
                        record = words[node]
                        length = words[record + 2]
                        if words[record] <= snapshot and length <= LENGTH_MASK:
                            start = record * 8 + 24
                            value: bytes = self._mm[start : start + length]
                            if words[W_HORIZON] <= snapshot:
                                return value
                    elif words[W_HORIZON] <= snapshot:
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

    def find_latest(self, key: bytes) -> Found | None:
        """What ``key`` holds now, with its version and expiry."""
        while True:
            try:
                return self.find(key, self.words[W_PUBLISHED])
            except SnapshotExpiredError:  # everything was reclaimed past us meanwhile: there is a newer version to read
                continue

    def find(self, key: bytes, snapshot: int) -> Found | None:
        """What ``key`` holds at ``snapshot``, with its version and expiry."""
        try:
            cleared_at = self._cleared_at(key, snapshot)
            node = self._node(key, snapshot)
            found = self._visible(node, snapshot, cleared_at) if node else None
        except IndexError as error:
            self.verify(snapshot)
            raise self._damaged("a reference outside the segment") from error
        self.verify(snapshot)
        return found

    def scan(self, lower: bytes, upper: bytes | None, snapshot: int) -> Iterator[tuple[bytes, Found]]:
        """Live keys of ``[lower, upper)`` in order, a batch of nodes at a time."""
        clears = self._clears(snapshot)
        for nodes in self._batches(lower, snapshot):
            batch: list[tuple[bytes, Found]] = []
            done = False
            try:
                for node in nodes:
                    key = self._key(node, snapshot)
                    if upper is not None and key >= upper:
                        done = True
                        break
                    if key < lower:
                        continue
                    cleared_at = max((v for lo, hi, v in clears if lo <= key < hi), default=0) if clears else 0
                    found = self._visible(node, snapshot, cleared_at)
                    if found is not None:
                        batch.append((key, found))
            except IndexError as error:
                self.verify(snapshot)
                raise self._damaged("a reference outside the segment") from error
            self.verify(snapshot)
            yield from batch
            if done:
                return

    def verify(self, snapshot: int) -> None:
        """Raise SnapshotExpiredError if memory that ``snapshot`` could reach may have been reused."""
        horizon = self.words[W_HORIZON]
        if horizon > snapshot:
            raise SnapshotExpiredError(snapshot, horizon)

    def _look_up(self, place: Place, name: str, nodes: dict[str, int], snapshot: int) -> int:
        """The key node, 0 if there is none, and remember it for the next time in the same epoch."""
        node = self._node(place.prefix + name.encode(), snapshot)
        if node:
            self.verify(snapshot)
            if not nodes:
                self._places.append(place)
            nodes[name] = node
            self._remembered += 1
            if self._remembered > REMEMBERED_NODES:
                self._forget_places()
        return node

    def _forget_places(self) -> None:
        """Let all that is remembered go: a process may come by any number of runs and never look back."""
        places, self._places, self._remembered = self._places, [], 0
        for place in places:
            place.state = (-1, {})

    def _renew(self, place: Place) -> bool:
        """Begin a new epoch; with cleared ranges about, remember nothing. False if another coordinator serves."""
        epoch = self._epoch_words[0]
        if epoch >> EPOCH_BITS != self._generation:
            return False
        place.state = (-1 if self.words[W_CLEARS] else epoch, {})
        return True

    def _node(self, key: bytes, snapshot: int) -> int:
        words, mm = self.words, self._mm
        digest = xxh3_64_intdigest(key, self._seed)
        bucket = words[DIRECTORY_WORD + (digest & words[W_HASH_MASK])]
        i = (digest >> 32) & BUCKET_MASK
        first = i
        while node := words[bucket + i]:
            start = node * 8 + 16
            if mm[start : start + words[node + 1]] == key:
                found: int = node
                return found
            i = (i + 1) & BUCKET_MASK
            if i == first:
                break
        else:
            return 0
        self.verify(snapshot)
        raise self._damaged("a hash bucket without an end")

    def _visible(self, node: int, snapshot: int, cleared_at: int) -> Found | None:
        words = self.words
        record = words[node]
        steps = 0
        while record and words[record] > snapshot:
            record = words[record + 1]
            steps += 1
            if steps % _STEPS_BETWEEN_CHECKS == 0:
                self.verify(snapshot)
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
        return Found(self._mm[start : start + length], words[record], expires_ms)

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
                self.verify(snapshot)
                raise self._damaged("a reference outside the segment") from error
            if key <= lower:
                low = middle + 1
            else:
                high = middle
        # Until here a reference may have been followed out of reused memory; the caller's next copy verifies.
        return max(0, low - 1)

    def _clears(self, snapshot: int) -> list[tuple[bytes, bytes, int]]:
        """Ranges cleared at or before ``snapshot`` whose keys may still stand in the index."""
        table = self.words[W_CLEARS]
        if not table:
            return []
        rows = self._entries(table, 1 << 20, snapshot)
        clears = [
            (self._key(rows[i], snapshot), self._key(rows[i + 1], snapshot), rows[i + 2])
            for i in range(0, len(rows), 3)
            if rows[i + 2] <= snapshot
        ]
        self.verify(snapshot)
        return clears

    def _cleared_at(self, key: bytes, snapshot: int) -> int:
        """The newest version up to ``snapshot`` at which ``key`` was cleared with its range, 0 if it was not."""
        return max((v for lo, hi, v in self._clears(snapshot) if lo <= key < hi), default=0)

    def _damaged(self, found: str) -> CorruptionError:
        return CorruptionError("the segment in memory", 0, "intact structures", found)
