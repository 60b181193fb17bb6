"""The range tombstones of a segment: the rows that the coordinator writes and every reader reads (``tombstone_view``).

- The table is a stream of rows, oldest version first, in chunks of one heap block; ``layout`` has their bytes. Only the
  coordinator writes. A row is written behind the last one, then W_RANGE_TOMBSTONES_END is stored: both before its
  version is published.
- A row never changes. It is removed by storing W_RANGE_TOMBSTONES_BEGIN, when its keys have left the indexes while
  version P was published and no snapshot up to P is left (``reclaim``). So a reader that misses a removed row finds
  none of its keys either. A chunk without rows is obsolete like any other memory.
- Killed between any two stores, the coordinator leaves a table whose published rows are whole.
"""

from __future__ import annotations

from collections import deque

from shoal.shm.limits import DEFAULT_LIMITS, Limits
from shoal.shm.memory.layout import (
    CHUNK_FIRST,
    TOMBSTONE_CHUNK_HEADER_WORDS,
    W_RANGE_TOMBSTONES,
    W_RANGE_TOMBSTONES_BEGIN,
    W_RANGE_TOMBSTONES_END,
    W_RANGE_TOMBSTONES_SWEPT,
    words_for,
)
from shoal.shm.memory.range_tombstones import KeyRange
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.tombstone_view import ROW
from shoal.shm.memory.words import publish_barrier

_ROW_HEADER_WORDS = ROW.size // 8


class RangeTombstone:
    """A row of the table, and how far the reclaimer is with removing its keys."""

    __slots__ = ("cursor", "end", "gone_at", "lower", "upper", "version")

    def __init__(self, lower: bytes, upper: bytes, version: int, end: int) -> None:
        self.lower = lower
        self.upper = upper
        self.version = version
        self.end = end  # where the row ends in the stream, in words
        self.cursor = lower  # the key at which the reclaimer goes on
        self.gone_at = -1  # the version published when its last key was removed, -1 before


def row_words(lower: bytes, upper: bytes) -> int:
    """The number of words that a row takes."""
    return _ROW_HEADER_WORDS + words_for(len(lower)) + words_for(len(upper))


class TombstoneTable:
    """The coordinator's side."""

    def __init__(self, segment: Segment, limits: Limits = DEFAULT_LIMITS) -> None:
        self._mm = segment.mm
        self._words = segment.words
        self._chunk_words = limits.tombstone_chunk_words
        self._chunks: deque[tuple[int, int]] = deque()  # reference, and its first row's place in the stream

    def blocks_for(self, ranges: list[KeyRange]) -> int:
        """How many heap blocks rows for these ranges take beyond the room there is."""
        room, blocks = self._room(self._words[W_RANGE_TOMBSTONES_END]), 0
        for lower, upper in ranges:
            words = row_words(lower, upper)
            if words > room:
                room, blocks = self._chunk_words, blocks + 1
            room -= words
        return blocks

    def append(self, ranges: list[KeyRange], version: int, blocks: list[int]) -> list[RangeTombstone]:
        """Add the ranges that ``version`` clears. ``blocks`` are heap blocks, as many as ``blocks_for`` says.

        Readers see the rows from then on; those at an older version pass over them.
        """
        end = self._words[W_RANGE_TOMBSTONES_END]
        fresh = iter(blocks)
        rows = []
        for lower, upper in ranges:
            words = row_words(lower, upper)
            if words > self._room(end):
                self._add_chunk(next(fresh), end)
            chunk, first = self._chunks[-1]
            start = (chunk + TOMBSTONE_CHUNK_HEADER_WORDS + end - first) * 8
            upper_start = start + (_ROW_HEADER_WORDS + words_for(len(lower))) * 8
            ROW.pack_into(self._mm, start, version, len(lower), len(upper))
            self._mm[start + ROW.size : start + ROW.size + len(lower)] = lower
            self._mm[upper_start : upper_start + len(upper)] = upper
            end += words
            rows.append(RangeTombstone(lower, upper, version, end))
        publish_barrier()
        self._words[W_RANGE_TOMBSTONES_END] = end
        return rows

    def drop(self, row: RangeTombstone, following: RangeTombstone | None) -> list[int]:
        """Remove the rows up to ``row``, before ``following``; the references of chunks that are obsolete now."""
        words = self._words
        words[W_RANGE_TOMBSTONES_SWEPT] = row.version if following is None else following.version - 1
        publish_barrier()
        words[W_RANGE_TOMBSTONES_BEGIN] = row.end
        obsolete = []
        while len(self._chunks) > 1 and self._chunks[1][1] <= row.end:
            obsolete.append(self._chunks.popleft()[0])
        if following is None:
            words[W_RANGE_TOMBSTONES] = 0
            obsolete.append(self._chunks.pop()[0])
        return obsolete

    def _room(self, end: int) -> int:
        """Words left in the newest chunk, for rows from ``end`` of the stream on."""
        return self._chunk_words - (end - self._chunks[-1][1]) if self._chunks else 0

    def _add_chunk(self, chunk: int, first: int) -> None:
        self._words[chunk] = self._words[W_RANGE_TOMBSTONES]
        self._words[chunk + CHUNK_FIRST] = first
        self._chunks.append((chunk, first))
        publish_barrier()
        self._words[W_RANGE_TOMBSTONES] = chunk
