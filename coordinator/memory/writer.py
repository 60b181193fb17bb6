"""Applies commits to the segment, at a version. Called by the coordinator alone, one commit at a time.

- ``apply`` writes records above the published version: no reader sees them. It reserves room for the whole commit
  first, so a commit is applied whole or, with StoreFullError, not at all.
- ``end_group`` puts the group's new keys into the ordered index, once. ``publish`` then makes the group visible with
  one store. What a kill in between leaves behind is a segment whose published state is whole.
- What a commit at version V makes obsolete is noted under V, and reused only when no snapshot below V is left.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence

from shoal.coordinator.memory.expiry import ExpiryQueue
from shoal.coordinator.memory.hash_index import HashIndex
from shoal.coordinator.memory.heap import RECLAIM_BLOCKS, WORST_CASE_BLOCKS, Heap
from shoal.coordinator.memory.ordered_index import OrderedIndex
from shoal.coordinator.memory.tombstone_table import RangeTombstone, TombstoneTable
from shoal.shm.errors import StoreFullError
from shoal.shm.limits import BLOCK_BYTES, LEAF_ENTRIES
from shoal.shm.memory.layout import (
    BESIDE_WORDS,
    BLOCK_WORDS,
    EXPIRES,
    LENGTH_MASK,
    NODE_HEADER_WORDS,
    RECORD_HEADER_WORDS,
    TOMBSTONE,
    W_BYTES_USED,
    W_KEYS,
    W_PUBLISHED,
    words_for,
)
from shoal.shm.memory.range_tombstones import KeyRange, RangeTombstones, disjoint
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.words import publish_barrier
from shoal.shm.operation import VersionedValue
from shoal.shm.wire.request import FlatWrites, triples

# Of each write: its key node, and the words of its record. A new key's node is 0; with the record beside it, minus the
# words of the node, which are then in the record's count.
Plan = tuple[list[int], list[int]]
NOTHING_KNOWN: dict[bytes, int] = {}

_LARGEST_SMALL = BLOCK_WORDS // 2  # words of a record; larger ones are counted in blocks

_NODE_HEADER = struct.Struct("<QQ")
_RECORD_HEADER = struct.Struct("<QQQ")


class Writer:
    """The coordinator's hand on one segment."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        # The file that readers share with every coordinator; until this one serves, nobody looks.
        self.epoch_words = memoryview(bytearray(8)).cast("Q")
        self.heap = Heap(segment)
        self.hash_index = HashIndex(segment, self.heap)
        self.ordered_index = OrderedIndex(segment, self.heap)
        self.expiry = ExpiryQueue()
        self._words = segment.words
        self._new_keys: list[tuple[bytes, int]] = []
        self.clears: deque[RangeTombstone] = deque()  # the rows of the table, oldest first
        self.clears_table = TombstoneTable(segment)
        self._tombstones = RangeTombstones()
        # Obsolete since a version: reference and words of memory; keys whose newest record is a tombstone.
        self.garbage: deque[tuple[int, int, int]] = deque()
        self.garbage_words = 0
        self.tombstones: deque[tuple[int, bytes]] = deque()
        self.keys = 0
        self._budget_words = 0

    def raise_epoch(self) -> None:
        """Tell readers to look everything up again: keys have left the indexes, or ranges were cleared.

        After that, so that who remembers a node under the new epoch found it there; before anything newer is published,
        so that who reads at a newer version sees the new epoch.
        """
        publish_barrier()
        self.epoch_words[0] += 1
        publish_barrier()

    def forget_budget(self) -> None:
        """Memory was used outside any plan: the next one looks again."""
        self._budget_words = 0

    def newest(self, key: bytes, now_ms: int, nodes: dict[bytes, int] | None = None) -> VersionedValue | None:
        """What ``key`` holds after everything applied so far, published or not; its node is noted in ``nodes``."""
        node = self.hash_index.find(key)
        if nodes is not None:
            nodes[key] = node
        if not node:
            return None
        words = self._words
        record = words[node]
        version, meta = words[record], words[record + 2]
        if meta & TOMBSTONE or (self.clears and version < self._tombstones.newest(key)):
            return None
        start, expires_ms = record * 8 + 24, 0
        if meta & EXPIRES:
            expires_ms = words[record + 3]
            start += 8
            if expires_ms <= now_ms:
                return None
        return VersionedValue(self.segment.mm[start : start + (meta & LENGTH_MASK)], version, expires_ms)

    def version_at(self, node: int) -> int:
        """The version that last wrote the key of ``node``, which must not have gone since."""
        version: int = self._words[self._words[node]]
        return version

    def expires_ms(self, key: bytes) -> int:
        """When the newest version of ``key`` expires, 0 if never or if it is deleted."""
        node = self.hash_index.find(key)
        record = self._words[node] if node else 0
        if not record or self._words[record + 2] & (TOMBSTONE | EXPIRES) != EXPIRES:
            return 0
        if self.clears and self._words[record] < self._tombstones.newest(key):
            return 0
        moment: int = self._words[record + 3]
        return moment

    def plan(
        self,
        writes: FlatWrites,
        clears: Sequence[tuple[bytes, bytes]] = (),
        known: dict[bytes, int] = NOTHING_KNOWN,
    ) -> Plan:
        """Look at every write once and have memory ready for all, or raise StoreFullError. Deletes may use the reserve.

        The plan holds until something else is applied or reclaimed. No key stands in ``writes`` twice. ``known`` are
        nodes that ``newest`` has found since then.
        """
        find, look_up = self.hash_index.find, known.get
        nodes: list[int] = []
        sizes: list[int] = []
        words = new_keys = blocks = 0
        grows = False
        for key, value, expires_ms in triples(writes):
            node = look_up(key)
            if node is None:
                node = find(key)
            nodes.append(node)
            if value is None:
                size = RECORD_HEADER_WORDS
            else:
                grows = True
                size = RECORD_HEADER_WORDS + (len(value) + 7 >> 3) + (1 if expires_ms else 0)
                if not node:
                    new_keys += 1
                    node_words = words_for(len(key)) + NODE_HEADER_WORDS
                    if node_words + size <= BESIDE_WORDS:
                        size += node_words
                        nodes[-1] = -node_words
                    else:
                        words += node_words
            sizes.append(size)
            if size <= _LARGEST_SMALL:
                words += size + 1
            else:
                blocks += -(-size // BLOCK_WORDS)
        if new_keys:
            self.hash_index.prepare(new_keys)
            leaves = min(new_keys, self.ordered_index.leaf_count) + 2 * new_keys // LEAF_ENTRIES
            words += leaves * (LEAF_ENTRIES + 1) + 4 * new_keys
        if clears:
            blocks += self.clears_table.blocks_for(disjoint(clears))
        if blocks or not grows or words > self._budget_words:
            self._make_room(words, blocks, grows)
        else:
            self._budget_words -= words
        return nodes, sizes

    def apply(self, version: int, clears: list[tuple[bytes, bytes]], writes: FlatWrites, plan: Plan) -> None:
        """Write one commit's records at ``version``; StoreFullError leaves everything as it was."""
        nodes, sizes = plan
        if clears:
            ranges = disjoint(clears)
            blocks = [BLOCK_WORDS] * self.clears_table.blocks_for(ranges)
            records = self._reserve(sizes + blocks)
        else:
            records = self._reserve(sizes)
        try:
            if clears:
                self._clear(version, ranges, records[len(sizes) :])
                del records[len(sizes) :]
            link = self._link
            for (key, value, expires_ms), node, record in zip(triples(writes), nodes, records, strict=True):
                link(key, value, expires_ms, node, record, version)
        except StoreFullError as error:  # half is done: nobody may take it for the one above
            raise AssertionError("the room that was planned for a commit is not there") from error

    def end_group(self, version: int) -> None:
        """Finish a group of commits, the newest at ``version``: nothing of it is visible yet."""
        if self._new_keys:
            self._flush_new_keys()
        if self.hash_index.replaced or self.ordered_index.replaced:
            for replaced in (self.hash_index.replaced, self.ordered_index.replaced):
                for reference in replaced:
                    self.discard(version, reference, self.heap.size_of(reference))
                replaced.clear()
        self._words[W_KEYS] = self.keys
        self._words[W_BYTES_USED] = self.heap.used_bytes

    def publish(self, version: int) -> None:
        """Make everything applied up to ``version`` visible, with one store."""
        publish_barrier()
        self._words[W_PUBLISHED] = version

    def discard(self, version: int, reference: int, words: int) -> None:
        """Note memory that no snapshot at or above ``version`` reaches."""
        self.garbage.append((version, reference, words))
        self.garbage_words += words

    def drop_clears(self, version: int, count: int) -> None:
        """Let the oldest range tombstones go, whose keys are gone; their memory is obsolete from ``version`` on."""
        gone = [self.clears.popleft() for _ in range(count)]
        for chunk in self.clears_table.drop(gone[-1], self.clears[0] if self.clears else None):
            self.discard(version, chunk, BLOCK_WORDS)
        self._tombstones = self._tombstones.without_ranges((row.lower, row.upper, row.version) for row in gone)

    def discard_record(self, version: int, node: int, record: int) -> None:
        """Note a record of a key as obsolete from ``version`` on; nothing to note if it stands beside the node."""
        if not self.is_beside(node, record):
            self.discard(version, record, self.heap.size_of(record))

    def is_beside(self, node: int, record: int) -> bool:
        """Whether a key's record is part of the node's own memory."""
        node_words = NODE_HEADER_WORDS + words_for(self._words[node + 1])
        # Where the node's memory ends at its key, another record may begin there.
        return record - node == node_words and self.heap.size_of(node) > node_words

    def _clear(self, version: int, ranges: list[KeyRange], blocks: list[int]) -> None:
        """Add range tombstones; readers look everything up again."""
        self.clears += self.clears_table.append(ranges, version, blocks)
        self._tombstones = self._tombstones.with_ranges((lower, upper, version) for lower, upper in ranges)
        self.raise_epoch()

    def _write_node(self, node: int, key: bytes) -> None:
        start = node * 8
        _NODE_HEADER.pack_into(self.segment.mm, start, 0, len(key))
        self.segment.mm[start + 16 : start + 16 + len(key)] = key

    def _make_room(self, words: int, blocks: int, grows: bool) -> None:
        """Have ``words`` of small records and ``blocks`` of large ones ready, or raise StoreFullError.

        Classes and block tails waste up to a quarter; half again is safely above. What is ready beyond the need becomes
        the budget of the commits that follow: they compare one number until it is used up or something is reclaimed.
        """
        heap = self.heap
        small = words * 3 // 2 // BLOCK_WORDS + (WORST_CASE_BLOCKS if grows else 2)
        need = blocks + small + RECLAIM_BLOCKS
        keep = heap.reserve_blocks if grows else 0
        if not heap.make_ready(need, keep):
            raise StoreFullError(
                f"the commit needs up to {(blocks + small) * BLOCK_BYTES:,} bytes and the store has "
                f"{max(0, heap.free_blocks - keep) * BLOCK_BYTES:,} of {self.segment.size_bytes:,} free; "
                "delete keys or open it with a larger max_bytes"
            )
        self._budget_words = 0
        if grows:
            beyond = min(heap.ready_blocks - need, heap.free_blocks - need - keep)
            self._budget_words = beyond * BLOCK_WORDS // 3 * 2

    def _reserve(self, sizes: list[int]) -> list[int]:
        allocate = self.heap.allocate
        records: list[int] = []
        try:
            for size in sizes:
                records.append(allocate(size))
        except StoreFullError:
            for record in records:
                self.heap.free(record)
            raise
        return records

    def _link(self, key: bytes, value: bytes | None, expires_ms: int, node: int, record: int, version: int) -> None:
        words, mm = self._words, self.segment.mm
        previous, was_live, cleared = 0, False, False
        if node < 0 and not expires_ms:  # a new key with its record beside it: nearly all that are new
            start, length, key_length = record * 8, len(value), len(key)  # type: ignore[arg-type]
            _NODE_HEADER.pack_into(mm, start, record - node, key_length)
            mm[start + 16 : start + 16 + key_length] = key
            start -= node * 8
            _RECORD_HEADER.pack_into(mm, start, version, 0, length)
            mm[start + 24 : start + 24 + length] = value  # type: ignore[assignment]
            self.keys += 1
            self.hash_index.insert(key, record)
            self._new_keys.append((key, record))
            return
        new_node = 0
        if node < 0:
            new_node, record, node = record, record - node, 0
        elif node:
            previous = words[node]
            meta = words[previous + 2]
            was_live = not meta & TOMBSTONE
            if self.clears and was_live:
                cleared = words[previous] < self._tombstones.newest(key)
                was_live = not cleared
        if value is None and not was_live:  # absent already: nothing to hide
            self.heap.free(record)
            return
        if node and not self.is_beside(node, previous):
            size = (meta & LENGTH_MASK) + 31 >> 3
            self.garbage.append((version, previous, size))
            self.garbage_words += size
        start = record * 8
        if value is None:
            _RECORD_HEADER.pack_into(mm, start, version, previous, TOMBSTONE)
            self.tombstones.append((version, key))
            self.keys -= 1
            words[node] = record
            return
        length = len(value)
        if expires_ms:
            _RECORD_HEADER.pack_into(mm, start, version, previous, length | EXPIRES)
            words[record + 3] = expires_ms
            start += 32
            self.expiry.add(key, expires_ms)
        else:
            _RECORD_HEADER.pack_into(mm, start, version, previous, length)
            start += 24
        mm[start : start + length] = value
        if not (was_live or cleared):  # until it is swept, a cleared key counts
            self.keys += 1
        if node:
            words[node] = record
        else:
            node = new_node or self.heap.allocate(NODE_HEADER_WORDS + words_for(len(key)))
            self._write_node(node, key)
            words[node] = record
            self.hash_index.insert(key, node)
            self._new_keys.append((key, node))

    def _flush_new_keys(self) -> None:
        self._new_keys.sort()
        self.ordered_index.insert(self._new_keys)
        self._new_keys.clear()
