"""The range tombstones of a segment: the rows that the coordinator writes and shares with every reader.

- The table is a stream of rows in the order of their versions, in chunks of one heap block. The coordinator alone
  writes. A row is written behind the last one, then W_CLEARS_END is stored: both before its version is published.
- A row is never changed. It goes when its keys have left the indexes while version P was published and no snapshot up
  to P is left (``reclaim``): W_CLEARS_BEGIN is stored. So who misses a row that has gone finds none of its keys either.
  A chunk without rows is obsolete like any other memory.
- Killed between any two stores, the coordinator leaves a table whose published rows are whole.
"""

from __future__ import annotations

from collections import deque

from shoal.shm.memory.layout import TOMBSTONE_CHUNK_HEADER_WORDS as _HEADER_WORDS
from shoal.shm.memory.layout import W_CLEARS, W_CLEARS_BEGIN, W_CLEARS_END, W_CLEARS_SWEPT, words_for
from shoal.shm.memory.range_tombstones import KeyRange
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.tombstone_view import CHUNK_WORDS, ROW
from shoal.shm.memory.words import publish_barrier

_ROW_HEADER_WORDS = ROW.size // 8


class RangeTombstone:
    """A row, until it goes: what the reclaimer has to do for it."""

    __slots__ = ("cursor", "end", "gone_at", "lower", "upper", "version")

    def __init__(self, lower: bytes, upper: bytes, version: int, end: int) -> None:
        self.lower = lower
        self.upper = upper
        self.version = version
        self.end = end  # where its row ends in the stream
        self.cursor = lower  # where the reclaimer goes on
        self.gone_at = -1  # the version published when the last key was gone, -1 before


def row_words(lower: bytes, upper: bytes) -> int:
    """Words of a row."""
    return _ROW_HEADER_WORDS + words_for(len(lower)) + words_for(len(upper))


class TombstoneTable:
    """The coordinator's side."""

    def __init__(self, segment: Segment) -> None:
        self._mm = segment.mm
        self._words = segment.words
        self._chunks: deque[tuple[int, int]] = deque()  # reference, and where it begins in the stream; oldest first

    def blocks_for(self, ranges: list[KeyRange]) -> int:
        """How many blocks of memory more rows take."""
        room, blocks = self._room(self._words[W_CLEARS_END]), 0
        for lower, upper in ranges:
            words = row_words(lower, upper)
            if words > room:
                room, blocks = CHUNK_WORDS, blocks + 1
            room -= words
        return blocks

    def append(self, ranges: list[KeyRange], version: int, blocks: list[int]) -> list[RangeTombstone]:
        """Add the ranges that ``version`` clears, with as many ``blocks`` as they take. From then on readers see them.

        Those that read at an older version pass them.
        """
        end = self._words[W_CLEARS_END]
        fresh = iter(blocks)
        rows = []
        for lower, upper in ranges:
            words = row_words(lower, upper)
            if words > self._room(end):
                self._add_chunk(next(fresh), end)
            chunk, first = self._chunks[-1]
            start = (chunk + _HEADER_WORDS + end - first) * 8
            upper_start = start + (_ROW_HEADER_WORDS + words_for(len(lower))) * 8
            ROW.pack_into(self._mm, start, version, len(lower), len(upper))
            self._mm[start + ROW.size : start + ROW.size + len(lower)] = lower
            self._mm[upper_start : upper_start + len(upper)] = upper
            end += words
            rows.append(RangeTombstone(lower, upper, version, end))
        publish_barrier()
        self._words[W_CLEARS_END] = end
        return rows

    def drop(self, row: RangeTombstone, following: RangeTombstone | None) -> list[int]:
        """Let the rows up to ``row`` go, which ``following`` stands behind; the chunks that are obsolete now."""
        words = self._words
        words[W_CLEARS_SWEPT] = row.version if following is None else following.version - 1
        publish_barrier()
        words[W_CLEARS_BEGIN] = row.end
        obsolete = []
        while len(self._chunks) > 1 and self._chunks[1][1] <= row.end:
            obsolete.append(self._chunks.popleft()[0])
        if following is None:
            words[W_CLEARS] = 0
            obsolete.append(self._chunks.pop()[0])
        return obsolete

    def _room(self, end: int) -> int:
        return CHUNK_WORDS - (end - self._chunks[-1][1]) if self._chunks else 0

    def _add_chunk(self, chunk: int, first: int) -> None:
        self._words[chunk] = self._words[W_CLEARS]
        self._words[chunk + 1] = first
        self._chunks.append((chunk, first))
        publish_barrier()
        self._words[W_CLEARS] = chunk
