"""What the coordinator answers a check of its segment: what it has allocated, and what waits to be reclaimed.

- Each answer is a slice of about a millisecond, taken between two groups of commits, when nothing is half done.
- From the making of ``CheckState`` to the end of the check, nothing is freed (``Reclaimer.paused``) and everything that
  is allocated is noted (``Heap.allocated``). So slices taken at different times fit together: what was in use at the
  start stays in use, what waits only grows at its end, and what was allocated since is known.
- The coordinator itself compares what only its own memory has: counts of buckets, the mirror of the ordered index.
- Nothing here writes to the segment.
"""

from __future__ import annotations

from array import array
from itertools import islice
from typing import Any

from shoal.coordinator.memory.writer import Writer
from shoal.shm.limits import CHECK_BLOCKS_LOOKED_AT
from shoal.shm.memory.check_parts import ALLOCATED, BEGIN, BLOCKS, BRANCHES, BUCKETS, END, WAITING
from shoal.shm.memory.integrity import SegmentCheck
from shoal.shm.memory.layout import W_HORIZON, W_KEYS
from shoal.shm.memory.segment import Segment


class CheckState:
    """One check in the writing process. ``Heap.allocated`` must be a list by then, and the last group finished."""

    def __init__(self, writer: Writer, version: int) -> None:
        heap = writer.heap
        assert heap.allocated is not None, "a check without a list of what is allocated meanwhile"
        self._writer = writer
        self._limits = writer.limits
        self._version = version
        self._allocated_before = len(heap.allocated)
        self._allocated_end = 0
        self._waiting_before = len(writer.garbage)
        self._waiting_end = 0
        self._waiting_words = (writer.garbage_words, 0)  # as the writer counts them, and as added up here
        self._used_words = heap.used_words
        self._keys = writer.keys
        self._buckets = list(writer.hash_index.buckets())

    def answer(self, part: str, position: int, version: int) -> list[Any] | None:
        """The slice of ``part`` at ``position``, None if there is no such part. ``version`` is the newest there is."""
        if part == BEGIN:
            return self.begin()
        if part == END:
            return [version]
        slices = {
            BLOCKS: self._blocks,
            BUCKETS: self._buckets_from,
            BRANCHES: self._branches_from,
            WAITING: self._waiting_from,
            ALLOCATED: self._allocated_from,
        }
        taken = slices.get(part)
        return None if taken is None else taken(position)

    def begin(self) -> list[Any]:
        """The answer to BEGIN; it must be taken before anything else is done."""
        words = self._writer.segment.words
        problems = []
        if self._keys != words[W_KEYS]:
            problems.append(f"the header counts {words[W_KEYS]} live keys, the coordinator {self._keys}")
        return [self._version, words[W_HORIZON], self._keys, self._used_words, self._waiting_before, problems]

    def _blocks(self, position: int) -> list[Any]:
        following, blocks = self._writer.heap.blocks_from(position, self._limits.check_blocks, CHECK_BLOCKS_LOOKED_AT)
        return [following, blocks]

    def _buckets_from(self, position: int) -> list[Any]:
        part = self._buckets[position : position + self._limits.check_buckets]
        miscounted = self._writer.hash_index.miscounted
        problems = [f"bucket {b} has not as many entries as counted" for b in part if miscounted(b)]
        following = position + len(part)
        return [following if following < len(self._buckets) else 0, array("Q", part).tobytes(), problems]

    def _branches_from(self, position: int) -> list[Any]:
        differs = self._writer.ordered_index.branch_differs(position)
        problems = [f"branch {position} of the ordered index differs from the coordinator's"] if differs else []
        return [0 if differs is None else position + 1, problems]

    def _waiting_from(self, position: int) -> list[Any]:
        garbage = self._writer.garbage
        if position == 0:
            self._waiting_end = len(garbage)
        part = list(islice(garbage, position, min(position + self._limits.check_references, self._waiting_end)))
        counted, added_up = self._waiting_words
        at_start = part[: max(0, self._waiting_before - position)]
        self._waiting_words = (counted, added_up + sum(words for _, _, words in at_start))
        following = position + len(part)
        problems = []
        if following >= self._waiting_end:
            following = 0
            if self._waiting_words[0] != self._waiting_words[1]:
                problems.append("{} words are counted as waiting to be reclaimed, {} wait".format(*self._waiting_words))
        return [following, array("Q", [reference for _, reference, _ in part]).tobytes(), problems]

    def _allocated_from(self, position: int) -> list[Any]:
        allocated = self._writer.heap.allocated
        assert allocated is not None
        if position == 0:
            self._allocated_end = len(allocated)
        start = self._allocated_before + position
        part = allocated[start : min(start + self._limits.check_references, self._allocated_end)]
        following = position + len(part)
        return [following if start + len(part) < self._allocated_end else 0, part.tobytes()]


def check_segment(segment: Segment, published: int, writer: Writer) -> list[str]:
    """All problems of a segment, none if it is sound; for the process that writes it, between two groups of commits."""
    heap, noted = writer.heap, writer.heap.allocated
    heap.allocated = array("Q")
    try:
        state = CheckState(writer, published)
        check = SegmentCheck(
            segment, lambda part, position: state.answer(part, position, published) or [], writer.limits
        )
        return check.run()
    finally:
        heap.allocated = noted
