"""Room for records in a segment: reserved and freed by the coordinator alone, private to it.

- The heap is blocks of 16 KiB. A block serves one size class, or a run of blocks one large record. A block all of
  whose records are free goes back to the pool and may serve any class: space never stays bound to a size.
- Index nodes and buckets live long and are scattered in time. They have blocks of their own, taken from the end of the
  heap downward, so that what they keep busy never stands between the blocks a large record needs.
- ``free`` makes a record reusable at once. Who calls it has made sure that no reader can reach it (``reclaim``).
- Nothing here survives the coordinator: the next one rebuilds the segment and with it this state.
"""

from __future__ import annotations

from array import array
from typing import Any

from shoal.coordinator.memory.extents import Extents
from shoal.shm import limits
from shoal.shm.errors import StoreFullError
from shoal.shm.memory import layout
from shoal.shm.memory.layout import BLOCK_WORDS
from shoal.shm.memory.segment import Segment

CLASS_WORDS = (
    *(4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 22, 24, 28, 32, 36, 40, 48, 56, 64, 72, 80, 96, 112, 128, 136),
    *(160, 192, 227, 257, 292, 341, 409, 512, 682, 1024),
)
_LARGEST_CLASS = CLASS_WORDS[-1]
_CLASS_OF = [next(c for c, size in enumerate(CLASS_WORDS) if size >= n) for n in range(_LARGEST_CLASS + 1)]
# One commit of small records can open a fresh block in every class; admission counts on that much.
WORST_CASE_BLOCKS = 24
_MOST_COMPARED = 256
# Memory for the index is taken so many blocks at a time.
_INDEX_STEP_BLOCKS = 16
# Left ready by every admission, so that reclaiming can copy index nodes when there is room for nothing else.
RECLAIM_BLOCKS = 12


class Heap:
    """Allocator over the blocks of one segment. Sizes and references are in words."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        first_byte = layout.HEADER_BYTES + layout.directory_bytes(segment.size_bytes)
        self.first_block = -(-first_byte // limits.BLOCK_BYTES)
        self.block_count = segment.size_bytes // limits.BLOCK_BYTES - self.first_block
        self.reserve_blocks = max(WORST_CASE_BLOCKS, self.block_count // 32)
        self._ready = Extents()  # free and backed by memory
        self._untaken = Extents()  # free and not backed
        self._untaken.add(self.first_block, self.block_count)
        self._pool_of_block: dict[int, int] = {}
        self._free_in_block: dict[int, list[int]] = {}
        self._large: dict[int, int] = {}  # first block of a run -> words of the record in it
        # By size class, first the records', then the index's: free words of the block in use, that block, other blocks
        # with room.
        self._current: list[list[int]] = [[] for _ in range(2 * len(CLASS_WORDS))]
        self._current_block = [-1] * (2 * len(CLASS_WORDS))
        self._partial: list[set[int]] = [set() for _ in range(2 * len(CLASS_WORDS))]
        self.used_words = 0
        self.padding_words = 0  # of these, what large records leave unused in their last blocks
        # Every reference handed out since a check began, while one is under way: what it need not find reachable.
        self.allocated: array[int] | None = None

    @property
    def free_blocks(self) -> int:
        """Blocks no record is in."""
        return self._ready.total + self._untaken.total

    @property
    def ready_blocks(self) -> int:
        """Free blocks that have memory."""
        return self._ready.total

    @property
    def used_bytes(self) -> int:
        """Bytes in records, rounded up to their classes."""
        return self.used_words * 8

    def allocate(self, words: int) -> int:
        """The reference of ``words`` words nobody uses. Admission has made sure there is room."""
        if words > _LARGEST_CLASS:
            return self._allocate_large(words)
        size_class = _CLASS_OF[words]
        free = self._current[size_class]
        if not free:
            free = self._next_block(size_class)
        self.used_words += CLASS_WORDS[size_class]
        if self.allocated is not None:
            self.allocated.append(free[-1])
        return free.pop()

    def allocate_index(self, words: int) -> int:
        """The same for a bucket or an index node: apart from the records."""
        if words > _LARGEST_CLASS:
            return self._allocate_large(words)
        size_class = _CLASS_OF[words]
        pool = size_class + len(CLASS_WORDS)
        free = self._current[pool] or self._next_block(pool)
        self.used_words += CLASS_WORDS[size_class]
        if self.allocated is not None:
            self.allocated.append(free[-1])
        return free.pop()

    def free(self, reference: int) -> None:
        """Make a record's words reusable."""
        block = reference // BLOCK_WORDS
        free = self._free_in_block.get(block)
        if free is None:
            words = self._large.pop(block)
            blocks = -(-words // BLOCK_WORDS)
            self.used_words -= blocks * BLOCK_WORDS
            self.padding_words -= blocks * BLOCK_WORDS - words
            self._ready.add(block, blocks)
            return
        pool = self._pool_of_block[block]
        size = CLASS_WORDS[pool % len(CLASS_WORDS)]
        self.used_words -= size
        free.append(reference)
        if self._current_block[pool] == block:
            return
        if len(free) == BLOCK_WORDS // size:
            self._partial[pool].discard(block)
            del self._free_in_block[block], self._pool_of_block[block]
            self._ready.add(block, 1)
        elif len(free) == 1:
            self._partial[pool].add(block)

    def size_of(self, reference: int) -> int:
        """Words the record at ``reference`` occupies."""
        block = reference // BLOCK_WORDS
        pool = self._pool_of_block.get(block)
        return (
            -(-self._large[block] // BLOCK_WORDS) * BLOCK_WORDS
            if pool is None
            else CLASS_WORDS[pool % len(CLASS_WORDS)]
        )

    def is_allocated(self, reference: int) -> bool:
        """Whether ``reference`` is the start of a record in use (for the integrity walk)."""
        block = reference // BLOCK_WORDS
        if block in self._large:
            return reference == block * BLOCK_WORDS
        pool = self._pool_of_block.get(block)
        if pool is None:
            return False
        offset = reference - block * BLOCK_WORDS
        return offset % CLASS_WORDS[pool % len(CLASS_WORDS)] == 0 and reference not in self._free_in_block[block]

    def blocks_from(self, block: int, most: int, most_looked_at: int) -> tuple[int, list[Any]]:
        """Up to ``most`` blocks in use from ``block`` on, for a check, and the block to go on with, 0 at the end.

        Flat, of each: number, words of a record, where in it free ones begin (words, 2 bytes each). Of a run: number,
        minus its blocks, nothing.
        """
        found: list[Any] = []
        end = self.first_block + self.block_count
        block = max(block, self.first_block)
        last = min(end, block + most_looked_at)
        while block < last and len(found) < 3 * most:
            pool, blocks = self._pool_of_block.get(block), -(-self._large.get(block, 0) // BLOCK_WORDS)
            if pool is not None:
                first = block * BLOCK_WORDS
                # What is not in the block, a check cannot but find: no record begins behind its end.
                free = [
                    r - first if first <= r < first + BLOCK_WORDS else BLOCK_WORDS for r in self._free_in_block[block]
                ]
                found += (block, CLASS_WORDS[pool % len(CLASS_WORDS)], array("H", free).tobytes())
            elif blocks:
                found += (block, -blocks, b"")
            block += blocks or 1
        return (block if block < end else 0), found

    def make_ready(self, blocks: int, keep_blocks: int) -> bool:
        """Have ``blocks`` free blocks backed by memory, with ``keep_blocks`` left over; False if there are not."""
        if self.free_blocks < blocks + keep_blocks:
            return False
        while self._ready.total < blocks:
            if not self._take_memory(blocks - self._ready.total):
                return False
        return True

    def give_back(self, keep_blocks: int) -> None:
        """Return free memory beyond ``keep_blocks`` to the machine, in runs worth the call."""
        for start, length in self._ready:
            if self._ready.total - length < keep_blocks:
                continue
            worth_it = length >= 16 or keep_blocks == 0
            if worth_it and self._segment.give_back(start * limits.BLOCK_BYTES, length * limits.BLOCK_BYTES):
                self._ready.remove(start, length)
                self._untaken.add(start, length)

    def _next_block(self, pool: int) -> list[int]:
        partial = self._partial[pool]
        for_index = pool >= len(CLASS_WORDS)
        if partial:
            # Records keep to the bottom and the index to the top, as far as looking for that costs nothing.
            block = (max(partial) if for_index else min(partial)) if len(partial) <= _MOST_COMPARED else partial.pop()
            partial.discard(block)
        else:
            block = self._take_last_block() if for_index else self._take_blocks(1)
            size = CLASS_WORDS[pool % len(CLASS_WORDS)]
            first = block * BLOCK_WORDS
            self._pool_of_block[block] = pool
            last = first + (BLOCK_WORDS // size - 1) * size
            self._free_in_block[block] = list(range(last, first - 1, -size))
        free = self._free_in_block[block]
        self._current[pool] = free
        self._current_block[pool] = block
        return free

    def _take_last_block(self) -> int:
        """A block for the index: the highest there is, backed by memory if it was not."""
        if self._untaken.end() > self._ready.end():
            length = min(_INDEX_STEP_BLOCKS, self._untaken.last_length())
            start = self._untaken.take_last(length)
            try:
                self._segment.take(start * limits.BLOCK_BYTES, length * limits.BLOCK_BYTES)
                self._ready.add(start, length)
            except StoreFullError:
                self._untaken.add(start, length)
        return self._ready.take_last(1) if self._ready.total else self._take_blocks(1)

    def _allocate_large(self, words: int) -> int:
        blocks = -(-words // BLOCK_WORDS)
        block = self._take_blocks(blocks)
        self._large[block] = words
        self.used_words += blocks * BLOCK_WORDS
        self.padding_words += blocks * BLOCK_WORDS - words
        if self.allocated is not None:
            self.allocated.append(block * BLOCK_WORDS)
        return block * BLOCK_WORDS

    def _take_blocks(self, blocks: int) -> int:
        block = self._ready.take(blocks)
        if block is None and self._untaken.largest() < blocks:
            # Free blocks lie apart. Those kept for a size though nothing is in them go, and both pools become one.
            self._release_empty_blocks()
            self.give_back(0)
            block = self._ready.take(blocks)
        if block is None:
            block = self._untaken.take(blocks)
            if block is None:
                raise StoreFullError(
                    f"no {blocks * limits.BLOCK_BYTES:,} bytes in one piece are free in the store's "
                    f"{self._segment.size_bytes:,}; delete keys or open it with a larger max_bytes"
                )
            try:
                self._segment.take(block * limits.BLOCK_BYTES, blocks * limits.BLOCK_BYTES)
            except StoreFullError:
                self._untaken.add(block, blocks)
                raise
        return block

    def _release_empty_blocks(self) -> None:
        for pool, block in enumerate(self._current_block):
            size = CLASS_WORDS[pool % len(CLASS_WORDS)]
            if block >= 0 and len(self._current[pool]) == BLOCK_WORDS // size:
                self._current[pool], self._current_block[pool] = [], -1
                del self._free_in_block[block], self._pool_of_block[block]
                self._ready.add(block, 1)

    def _take_memory(self, blocks: int) -> bool:
        step = max(blocks, limits.MEMORY_STEP_BYTES // limits.BLOCK_BYTES)
        length = min(step, self._untaken.largest())
        if length == 0:
            return False
        start = self._untaken.take(length)
        assert start is not None, "largest() named a run that take() does not find"
        try:
            self._segment.take(start * limits.BLOCK_BYTES, length * limits.BLOCK_BYTES)
        except StoreFullError:
            self._untaken.add(start, length)
            return False
        self._ready.add(start, length)
        return True
