"""The allocator of a segment: records, nodes and buckets get their words here. Its state is private to the coordinator.

- The heap is blocks of 16 KiB. A block serves one size class, or is part of a run of blocks with one large record. A
  block whose allocations are all free may serve any class again: room never stays bound to a size.
- Index nodes and buckets live long. They have blocks of their own, taken from the end of the heap downward, so that
  they do not lie scattered among the blocks that a large record needs in one run.
- ``free`` makes an allocation reusable at once. The caller has made sure that no reader can reach it (``reclaim``).
- It stores nothing in the segment. When the coordinator dies, this state is lost with the segment; the next coordinator
  builds both anew.
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

CLASS_WORDS: tuple[int, ...] = (
    *range(4, 21),
    *(22, 24, 28, 32, 36, 40, 48, 56, 64, 72, 80, 96, 112, 128, 136, 160, 192, 227, 257, 292, 341, 409, 512, 682, 1024),
)
_SIZES, _CLASSES = CLASS_WORDS, len(CLASS_WORDS)
_LARGEST_CLASS = CLASS_WORDS[-1]
_CLASS_OF = [next(c for c, size in enumerate(CLASS_WORDS) if size >= n) for n in range(_LARGEST_CLASS + 1)]
# One commit of small records may take a new block in every size class; ``Writer.plan`` asks for as many.
WORST_CASE_BLOCKS = 28
_MOST_COMPARED = 256  # blocks with room in a class, of which the lowest or highest is looked for
_INDEX_STEP_BLOCKS = 16  # memory for the index is taken so many blocks at a time
# Every plan leaves so many blocks ready, so that reclaiming can copy index nodes when there is room for nothing else.
RECLAIM_BLOCKS = 12
BRANCH_BLOCKS = 2  # of these, so many are not for leaves: a branch and the root may each need one


class Heap:
    """Allocator over the blocks of one segment. Sizes and references are in words."""

    def __init__(self, segment: Segment, step_bytes: int = limits.MEMORY_STEP_BYTES) -> None:
        self._segment = segment
        self._step_blocks = step_bytes // limits.BLOCK_BYTES  # taken from the machine at a time
        first_byte = layout.HEADER_BYTES + layout.directory_bytes(segment.size_bytes)
        self.first_block = -(-first_byte // limits.BLOCK_BYTES)
        self.block_count = segment.size_bytes // limits.BLOCK_BYTES - self.first_block
        self.reserve_blocks = max(WORST_CASE_BLOCKS, self.block_count // 32)
        self._ready = Extents()  # free and backed by memory
        self._untaken = Extents()  # free and not backed
        self._untaken.add(self.first_block, self.block_count)
        self._pool_of_block: dict[int, int] = {}
        self._free_in_block: dict[int, list[int]] = {}  # references
        self._large: dict[int, int] = {}  # first block of a run -> words of the record in it
        # A *pool* is a size class of records, or a size class of the index, whose numbers follow those of the records.
        # By pool: free references in the block that is in use, that block, and other blocks with room.
        self._current: list[list[int]] = [[] for _ in range(2 * _CLASSES)]
        self._current_block = [-1] * (2 * _CLASSES)
        self._partial: list[set[int]] = [set() for _ in range(2 * _CLASSES)]
        self.used_words = 0
        self.padding_words = 0  # part of these: words that large records leave unused in their last blocks
        # While a check is under way, every reference allocated since it began: the check need not find these reachable.
        self.allocated: array[int] | None = None

    @property
    def free_blocks(self) -> int:
        """Blocks without an allocation."""
        return self._ready.total + self._untaken.total

    @property
    def ready_blocks(self) -> int:
        """Free blocks that are backed by memory."""
        return self._ready.total

    @property
    def used_bytes(self) -> int:
        """Bytes of all allocations, rounded up to their size classes."""
        return self.used_words * 8

    def allocate(self, words: int) -> int:
        """The reference of ``words`` free words. A plan makes sure that there is room; otherwise StoreFullError."""
        if words > _LARGEST_CLASS:
            return self._allocate_large(words)
        size_class = _CLASS_OF[words]
        free = self._current[size_class]
        if not free:
            free = self._next_block(size_class)
        self.used_words += _SIZES[size_class]
        if self.allocated is not None:
            self.allocated.append(free[-1])
        return free.pop()

    def allocate_index(self, words: int) -> int:
        """As ``allocate``, for a bucket or an index node, in blocks apart from those of records."""
        if words > _LARGEST_CLASS:
            return self._allocate_large(words)
        size_class = _CLASS_OF[words]
        pool = size_class + _CLASSES
        free = self._current[pool]
        if not free:
            free = self._next_block(pool)
        self.used_words += _SIZES[size_class]
        if self.allocated is not None:
            self.allocated.append(free[-1])
        return free.pop()

    def free(self, reference: int) -> None:
        """Make an allocation reusable at once."""
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
        size = _SIZES[pool % _CLASSES]
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

    def rounded(self, words: int) -> int:
        """The words that an allocation of ``words`` takes: those of its size class, or of whole blocks."""
        return _SIZES[_CLASS_OF[words]] if words <= _LARGEST_CLASS else -(-words // BLOCK_WORDS) * BLOCK_WORDS

    def is_large(self, reference: int) -> bool:
        """Whether the allocation in use at ``reference`` has blocks of its own."""
        return reference // BLOCK_WORDS in self._large

    def back_all(self) -> None:
        """Back every free block below the highest large allocation with memory, or raise StoreFullError."""
        end = max(self._large, default=0)
        for start, length in self._untaken:
            if start < end:
                self._segment.take(start * limits.BLOCK_BYTES, length * limits.BLOCK_BYTES)
                self._untaken.remove(start, length)
                self._ready.add(start, length)

    def lower(self, reference: int) -> int:
        """Give a large allocation the lowest free run that is backed and long enough, its own included; its reference.

        The caller moves what is in it. The new place may overlap the old one.
        """
        block = reference // BLOCK_WORDS
        words = self._large.pop(block)
        blocks = -(-words // BLOCK_WORDS)
        self._ready.add(block, blocks)
        lowest = self._ready.take_lowest(blocks)
        self._large[lowest] = words
        return lowest * BLOCK_WORDS

    def size_of(self, reference: int) -> int:
        """Words of the allocation at ``reference``, rounded up to its size class."""
        block = reference // BLOCK_WORDS
        pool = self._pool_of_block.get(block)
        return -(-self._large[block] // BLOCK_WORDS) * BLOCK_WORDS if pool is None else _SIZES[pool % _CLASSES]

    def is_allocated(self, reference: int) -> bool:
        """Whether an allocation in use begins at ``reference``."""
        block = reference // BLOCK_WORDS
        if block in self._large:
            return reference == block * BLOCK_WORDS
        pool = self._pool_of_block.get(block)
        if pool is None:
            return False
        offset = reference - block * BLOCK_WORDS
        return offset % _SIZES[pool % _CLASSES] == 0 and reference not in self._free_in_block[block]

    def blocks_from(self, block: int, most: int, most_looked_at: int) -> tuple[int, list[Any]]:
        """For a check: up to ``most`` blocks in use from ``block`` on, and the block to go on with, 0 at the end.

        A flat list with three items for each: block number, words of an allocation, and where in the block free ones
        begin (in words, 2 bytes each). For a large record: first block, minus its number of blocks, nothing.
        """
        found: list[Any] = []
        end = self.first_block + self.block_count
        block = max(block, self.first_block)
        last = min(end, block + most_looked_at)
        while block < last and len(found) < 3 * most:
            pool, blocks = self._pool_of_block.get(block), -(-self._large.get(block, 0) // BLOCK_WORDS)
            if pool is not None:
                first = block * BLOCK_WORDS
                # A reference outside the block is told as its end, where no allocation begins: the check reports it.
                free = [
                    r - first if first <= r < first + BLOCK_WORDS else BLOCK_WORDS for r in self._free_in_block[block]
                ]
                found += (block, _SIZES[pool % _CLASSES], array("H", free).tobytes())
            elif blocks:
                found += (block, -blocks, b"")
            block += blocks or 1
        return (block if block < end else 0), found

    def make_ready(self, blocks: int, keep_blocks: int) -> bool:
        """Have ``blocks`` free blocks backed by memory, with ``keep_blocks`` more free; False if there are fewer."""
        if self.free_blocks < blocks + keep_blocks:
            return False
        while self._ready.total < blocks:
            if not self._take_memory(blocks - self._ready.total):
                return False
        return True

    def blocks_for(self, count: int, words: int, *, for_index: bool = False) -> int:
        """How many new blocks ``count`` allocations of ``words`` take, beside the room in blocks that are in use.

        Deletes of scattered keys leave much room in such blocks, and few blocks free.
        """
        if words > _LARGEST_CLASS:
            return count * -(-words // BLOCK_WORDS)
        pool = _CLASS_OF[words] + (_CLASSES if for_index else 0)
        missing = count - len(self._current[pool])
        for block in self._partial[pool]:
            if missing <= 0:
                break
            missing -= len(self._free_in_block[block])
        return max(0, -(-missing // (BLOCK_WORDS // _SIZES[pool % _CLASSES])))

    def leaf_blocks(self, leaf_words: int, more_leaves: int = 0) -> int:
        """How many new blocks the leaves that one step of reclaiming replaces take, and ``more_leaves``."""
        leaves = (RECLAIM_BLOCKS - BRANCH_BLOCKS) * (BLOCK_WORDS // leaf_words)
        return self.blocks_for(leaves + more_leaves, leaf_words, for_index=True)

    def no_room(self, need: int, free: int) -> StoreFullError:
        """The error for a commit that needs so many blocks of those that are free."""
        needs = f"the commit needs up to {need * limits.BLOCK_BYTES:,} bytes, with room to reclaim memory,"
        if free < need:
            return StoreFullError(
                f"{needs} and the store has {free * limits.BLOCK_BYTES:,} of {self._segment.size_bytes:,} free; "
                "delete keys, end snapshots that are held for long, or open it with a larger max_bytes"
            )
        return StoreFullError(
            f"{needs} and the machine has no memory left for them; free memory or delete keys, and open the store with "
            "a max_bytes that the machine has room for"
        )

    def give_back(self, keep_blocks: int) -> None:
        """Return free memory beyond ``keep_blocks`` to the machine, in runs that are worth the system call."""
        for start, length in self._ready:
            if self._ready.total - length < keep_blocks:
                continue
            worth_it = length >= 16 or keep_blocks == 0
            if worth_it and self._segment.give_back(start * limits.BLOCK_BYTES, length * limits.BLOCK_BYTES):
                self._ready.remove(start, length)
                self._untaken.add(start, length)

    def _next_block(self, pool: int) -> list[int]:
        """Put a block with room into use for a pool; its free references."""
        partial = self._partial[pool]
        for_index = pool >= _CLASSES
        if partial:
            # Records stay at the bottom and the index at the top, as far as looking for such a block is cheap.
            block = (max(partial) if for_index else min(partial)) if len(partial) <= _MOST_COMPARED else partial.pop()
            partial.discard(block)
        else:
            block = self._take_last_block() if for_index else self._take_blocks(1)
            size = _SIZES[pool % _CLASSES]
            first = block * BLOCK_WORDS
            self._pool_of_block[block] = pool
            last = first + (BLOCK_WORDS // size - 1) * size
            self._free_in_block[block] = list(range(last, first - 1, -size))
        free = self._free_in_block[block]
        self._current[pool] = free
        self._current_block[pool] = block
        return free

    def _take_last_block(self) -> int:
        """The highest free block, for the index; memory is taken for it if it has none."""
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
        """The first of so many free blocks in one run, backed by memory; StoreFullError if there is no such run."""
        block = self._ready.take(blocks)
        if block is None and self._untaken.largest() < blocks:
            # No run is long enough: release empty blocks of size classes, and join backed blocks with unbacked ones.
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
        """Release the blocks in use that hold no allocation."""
        for pool, block in enumerate(self._current_block):
            size = _SIZES[pool % _CLASSES]
            if block >= 0 and len(self._current[pool]) == BLOCK_WORDS // size:
                self._current[pool], self._current_block[pool] = [], -1
                del self._free_in_block[block], self._pool_of_block[block]
                self._ready.add(block, 1)

    def _take_memory(self, blocks: int) -> bool:
        """Back ``blocks`` more blocks with memory, or as many as there are in one run; False if there are none."""
        step = max(blocks, self._step_blocks)
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
