"""Key -> key node: an extendible hash index in the segment (Fagin et al., 1979).

Only the coordinator writes it. A reader that has loaded the published version finds every key written up to it:
- a key is added with one store, after its node is complete;
- a bucket is split by copying it into two new ones and then pointing the directory at them, one store per entry. The
  old bucket stays as it is until no snapshot from before the split is left (``reclaim``);
- the directory doubles in place: its upper half is filled first, then the mask is stored. A reader with the old mask
  stays in the lower half, which leads to the same buckets.
Killed between any two of these stores, the coordinator leaves an index in which every published key is found.

So a commit waits for the split of one bucket at most (about 0.2 ms), and a reader waits for nothing.
"""

from __future__ import annotations

from array import array
from functools import partial

from shoal.coordinator.memory.heap import RECLAIM_BLOCKS, Heap
from shoal.shm.errors import StoreFullError
from shoal.shm.limits import BUCKET_ENTRIES, DEFAULT_LIMITS, Limits
from shoal.shm.memory.layout import (
    BUCKET_DEPTH,
    BUCKET_MASK,
    BUCKET_WORDS,
    DIRECTORY_WORD,
    HEADER_BYTES,
    NODE_KEY_BYTE,
    NODE_KEY_LENGTH,
    REMOVED,
    W_HASH_MASK,
    W_HASH_SEED,
    directory_bytes,
)
from shoal.shm.memory.record import find_node
from shoal.shm.memory.segment import Segment

try:
    from cython import compiled
except ModuleNotFoundError:
    from shoal.shm.cython_shim import compiled

if compiled:
    from cython.cimports.order import fence_release
    from cython.cimports.xxh3 import xxh3_64_intdigest
else:
    from xxhash import xxh3_64_intdigest


class HashIndex:
    """The writer's side of the hash index. Readers probe with ``record.find_node``, as ``find`` does."""

    def __init__(self, segment: Segment, heap: Heap, limits: Limits = DEFAULT_LIMITS) -> None:
        self._segment = segment
        self._words = segment.words
        self._heap = heap
        self._seed = segment.words[W_HASH_SEED]
        self._mm = segment.mm
        if not compiled:  # a partial takes 0.1 us less than the method
            self.find = partial(find_node, segment.words, segment.mm, self._seed)  # type: ignore[method-assign]
        self._split_at = limits.bucket_fill  # entries and removed marks at which a bucket splits
        self._join_at = limits.bucket_fill // 8  # live entries up to which a bucket joins its buddy
        self._capacity = directory_bytes(segment.size_bytes) // 8
        self._backed = HEADER_BYTES // 8  # directory entries that have memory
        self._fill: dict[int, int] = {}  # bucket -> entries and removed marks
        self._live: dict[int, int] = {}  # bucket -> entries
        self.replaced: list[int] = []  # buckets no longer reachable, for reclaim
        bucket = self._new_bucket(0, _zeros(0), _zeros(0), 0, 0)
        self._words[DIRECTORY_WORD] = bucket
        self._words[W_HASH_MASK] = 0

    def find(self, key: bytes) -> int:
        """The key node of ``key``, 0 if there is none."""
        return find_node(self._words, self._mm, self._seed, key)

    def prepare(self, new_keys: int) -> None:
        """Back the directory with memory for that many more keys, or raise StoreFullError."""
        entries = self._words[W_HASH_MASK] + 1
        self._back(min(self._capacity, 4 * entries + 16 * new_keys // self._split_at))

    def _back(self, wanted: int) -> None:
        if wanted > self._backed:
            target = min(self._capacity, 2 * wanted)
            self._segment.take((DIRECTORY_WORD + self._backed) * 8, (target - self._backed) * 8)
            self._backed = target

    def insert(self, key: bytes, node: int) -> None:
        """Add a key that is not there yet; its node is complete."""
        digest = xxh3_64_intdigest(key, self._seed)
        words, fill = self._words, self._fill
        bucket = words[DIRECTORY_WORD + (digest & words[W_HASH_MASK])]
        while fill[bucket] >= self._split_at:
            self._split(bucket, digest)
            bucket = words[DIRECTORY_WORD + (digest & words[W_HASH_MASK])]
        i = (digest >> 32) & BUCKET_MASK
        while words[bucket + i]:
            i = (i + 1) & BUCKET_MASK
        words[bucket + i] = node
        fill[bucket] += 1
        self._live[bucket] += 1

    def may_split(self, keys: list[bytes]) -> int:
        """How many of these new keys belong into a bucket that has no room for all of them."""
        words, mask = self._words, self._words[W_HASH_MASK]
        buckets = [words[DIRECTORY_WORD + (xxh3_64_intdigest(key, self._seed) & mask)] for key in keys]
        return sum(self._fill[bucket] + len(keys) > self._split_at for bucket in buckets)

    def build(self, digests: array[int], nodes: array[int]) -> None:
        """Put all keys at once into the index, which is empty and read by nobody: their digests, and their nodes.

        The result is that of ``insert`` for each key. It takes a tenth of the time: no bucket is ever split.
        """
        count = len(nodes)
        depth = max(1, count // self._split_at).bit_length() - 1
        mask = (1 << depth) - 1
        ends = _zeros(mask + 2)  # by low bits: where the keys before them end, and then where they end
        for at in range(count):
            ends[(digests[at] & mask) + 1] += 1
        for low_bits in range(mask + 1):
            ends[low_bits + 1] += ends[low_bits]
        sorted_digests, sorted_nodes = _zeros(count), _zeros(count)
        for at in range(count):
            digest = digests[at]
            low_bits = digest & mask
            position = ends[low_bits]
            ends[low_bits] = position + 1
            sorted_digests[position] = digest
            sorted_nodes[position] = nodes[at]
        self._retire(self._words[DIRECTORY_WORD])
        first = 0
        for low_bits in range(mask + 1):
            self._place(depth, low_bits, sorted_digests, sorted_nodes, first, ends[low_bits])
            first = ends[low_bits]

    def _place(self, depth: int, low_bits: int, digests: array[int], nodes: array[int], first: int, end: int) -> None:
        """Make a bucket of entries that share low hash bits, or several if they are too many for one."""
        if end - first > self._split_at:
            middle = _part(digests, nodes, first, end, depth)
            self._place(depth + 1, low_bits, digests, nodes, first, middle)
            self._place(depth + 1, low_bits | 1 << depth, digests, nodes, middle, end)
            return
        words = self._words
        while words[W_HASH_MASK] + 1 < 1 << depth:
            self._back(min(self._capacity, 2 * (words[W_HASH_MASK] + 1)))
            self._double_directory()
        bucket = self._new_bucket(depth, digests, nodes, first, end)
        for i in range(low_bits, words[W_HASH_MASK] + 1, 1 << depth):
            words[DIRECTORY_WORD + i] = bucket

    def remove(self, key: bytes, node: int) -> None:
        """Remove a key, whose node is ``node``.

        A mark takes its place, so that keys behind it are still found; the next split leaves it out. A bucket that is
        nearly empty then joins its buddy, so an emptied store is small again.
        """
        words = self._words
        digest = xxh3_64_intdigest(key, self._seed)
        bucket = words[DIRECTORY_WORD + (digest & words[W_HASH_MASK])]
        i = (digest >> 32) & BUCKET_MASK
        while words[bucket + i] != node:
            assert words[bucket + i], "removing a key that is not in the hash index"
            i = (i + 1) & BUCKET_MASK
        words[bucket + i] = REMOVED
        self._live[bucket] -= 1
        if self._live[bucket] <= self._join_at and self._heap.ready_blocks > RECLAIM_BLOCKS // 4:
            self._join(bucket, digest)

    def buckets(self) -> dict[int, int]:
        """Every bucket in use and how many of its words are taken (for the integrity walk)."""
        return dict(self._fill)

    def miscounted(self, bucket: int) -> bool:
        """Whether a bucket's contents differ from its counts; False for a bucket that is not in use any more."""
        if bucket not in self._fill:
            return False
        entries = self._entries(bucket)
        fill = BUCKET_ENTRIES - entries.count(0)
        return (fill, fill - entries.count(REMOVED)) != (self._fill[bucket], self._live[bucket])

    def _new_bucket(self, depth: int, digests: array[int], nodes: array[int], first: int, end: int) -> int:
        """A new bucket with the entries from ``first`` to ``end``: the digests of their keys, and their nodes."""
        bucket = self._heap.allocate_index(BUCKET_WORDS)
        words, table = self._words, _zeros(BUCKET_WORDS)
        for at in range(first, end):
            i = (digests[at] >> 32) & BUCKET_MASK
            while table[i]:
                i = (i + 1) & BUCKET_MASK
            table[i] = nodes[at]
        table[BUCKET_DEPTH] = depth
        words[bucket : bucket + BUCKET_WORDS] = table
        if compiled:
            fence_release()
        self._fill[bucket] = self._live[bucket] = end - first
        return bucket

    def _entries(self, bucket: int) -> list[int]:
        entries: list[int] = self._segment.words[bucket : bucket + BUCKET_ENTRIES].tolist()
        return entries

    def _join(self, bucket: int, digest: int) -> None:
        """Join ``bucket`` with its buddy, the bucket it was split from, if both are nearly empty."""
        words = self._words
        depth = words[bucket + BUCKET_DEPTH]
        if depth == 0:
            return
        first = digest & ((1 << (depth - 1)) - 1)
        pair = [words[DIRECTORY_WORD + first], words[DIRECTORY_WORD + (first | 1 << (depth - 1))]]
        if any(words[b + BUCKET_DEPTH] != depth or self._live[b] > self._join_at for b in pair):
            return
        entries = [e for half in pair for e in self._entries(half) if e > REMOVED]
        fresh = self._new_bucket(depth - 1, self._digests(entries), array("Q", entries), 0, len(entries))
        for i in range(first, words[W_HASH_MASK] + 1, 1 << (depth - 1)):
            words[DIRECTORY_WORD + i] = fresh
        for half in pair:
            self._retire(half)

    def _retire(self, bucket: int) -> None:
        del self._fill[bucket], self._live[bucket]
        self.replaced.append(bucket)

    def _split(self, bucket: int, digest: int) -> None:
        """Copy ``bucket`` into two, or into one if removed marks filled it; then point the directory at the copies."""
        words = self._words
        depth = words[bucket + BUCKET_DEPTH]
        entries = [e for e in self._entries(bucket) if e > REMOVED]
        digests, nodes, count = self._digests(entries), array("Q", entries), len(entries)
        first = digest & ((1 << depth) - 1)
        if count > self._split_at // 2:
            while words[W_HASH_MASK] + 1 < 1 << (depth + 1):
                self._double_directory()
            middle = _part(digests, nodes, 0, count, depth)
            parts = [(depth + 1, first, 0, middle), (depth + 1, first | 1 << depth, middle, count)]
        else:
            parts = [(depth, first, 0, count)]
        for new_depth, low_bits, begin, end in parts:
            fresh = self._new_bucket(new_depth, digests, nodes, begin, end)
            for i in range(low_bits, words[W_HASH_MASK] + 1, 1 << new_depth):
                words[DIRECTORY_WORD + i] = fresh
        self._retire(bucket)

    def _digests(self, entries: list[int]) -> array[int]:
        """The digests of the keys of key nodes; this is the longest part of a split, for which a commit waits."""
        words, mm, seed = self._words, self._segment.mm, self._seed
        digests = _zeros(len(entries))
        for at in range(len(entries)):
            entry = entries[at]
            start = entry * 8 + NODE_KEY_BYTE  # node_key() is written out
            digests[at] = xxh3_64_intdigest(mm[start : start + words[entry + NODE_KEY_LENGTH]], seed)
        return digests

    def _double_directory(self) -> None:
        words = self._words
        entries = words[W_HASH_MASK] + 1
        if 2 * entries > self._backed:
            raise StoreFullError(f"the hash directory is full at {entries:,} entries; open with a larger max_bytes")
        start = DIRECTORY_WORD
        words[start + entries : start + 2 * entries] = words[start : start + entries]
        if compiled:
            fence_release()
        words[W_HASH_MASK] = 2 * entries - 1


def _zeros(count: int) -> array[int]:
    return array("Q", bytes(8 * count))


def _part(digests: array[int], nodes: array[int], first: int, end: int, depth: int) -> int:
    """Put the entries whose digest has bit ``depth`` behind those that do not have it; where they begin then."""
    middle = first
    for at in range(first, end):
        digest = digests[at]
        if not digest >> depth & 1:
            node = nodes[at]
            digests[at], nodes[at] = digests[middle], nodes[middle]
            digests[middle], nodes[middle] = digest, node
            middle += 1
    return middle
