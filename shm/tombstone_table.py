"""The range tombstones of a segment: the rows that the coordinator shares with every reader, and how they are read.

- The table is a stream of rows in the order of their versions, in chunks of one heap block. The coordinator alone
  writes. A row is written behind the last one, then W_CLEARS_END is stored: both before its version is published.
- A row is never changed. It goes when its keys have left the indexes while version P was published and no snapshot up
  to P is left (``reclaim``): W_CLEARS_BEGIN is stored. So who misses a row that has gone finds none of its keys either.
  A chunk without rows is obsolete like any other memory.
- A row says what is true for ever, so a reader may keep it for as long as it likes.
- Killed between any two stores, the coordinator leaves a table whose published rows are whole.

Each reader keeps what it has read as ``RangeTombstones`` and reads only rows that are new: a read costs two binary
searches (0.5 us), whatever the number of ranges.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from shoal.shm.errors import CorruptionError
from shoal.shm.heap import BLOCK_WORDS
from shoal.shm.layout import TOMBSTONE_CHUNK_HEADER_WORDS as _HEADER_WORDS
from shoal.shm.layout import W_CLEARS, W_CLEARS_BEGIN, W_CLEARS_END, W_CLEARS_SWEPT, words_for
from shoal.shm.limits import MAX_ENGINE_KEY_BYTES
from shoal.shm.range_tombstones import KeyRange, RangeTombstones, Row
from shoal.shm.segment import Segment
from shoal.shm.words import publish_barrier

_CHUNK_WORDS = BLOCK_WORDS - _HEADER_WORDS
_ROW = struct.Struct("<QII")  # version; length of the lower key, of the upper key
_ROW_HEADER_WORDS = _ROW.size // 8
_OLDER_KEPT = 4
_NOTHING = RangeTombstones()


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
                room, blocks = _CHUNK_WORDS, blocks + 1
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
            _ROW.pack_into(self._mm, start, version, len(lower), len(upper))
            self._mm[start + _ROW.size : start + _ROW.size + len(lower)] = lower
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

    def references(self) -> Iterator[int]:
        """The chunks in use (for the integrity walk)."""
        return (chunk for chunk, _ in self._chunks)

    def _room(self, end: int) -> int:
        return _CHUNK_WORDS - (end - self._chunks[-1][1]) if self._chunks else 0

    def _add_chunk(self, chunk: int, first: int) -> None:
        self._words[chunk] = self._words[W_CLEARS]
        self._words[chunk + 1] = first
        self._chunks.append((chunk, first))
        publish_barrier()
        self._words[W_CLEARS] = chunk


class _Read(NamedTuple):
    """What a reader knows: the rows from ``begin`` to ``end`` of the stream. Some may have gone since."""

    begin: int
    end: int
    tombstones: RangeTombstones
    before: RangeTombstones  # without the rows read last
    below: int  # the first version among those


_NOTHING_READ = _Read(0, 0, _NOTHING, _NOTHING, 0)


class TombstoneView:
    """A reader's side, for all its threads. ``verify`` raises if memory of a snapshot may have been reused.

    All its methods raise what ``verify`` raises, CorruptionError, and IndexError for a reference outside the segment.
    """

    __slots__ = ("_mm", "_older", "_read", "_verify", "_words")

    def __init__(self, segment: Segment, verify: Callable[[int], None]) -> None:
        self._mm = segment.mm
        self._words = segment.words
        self._verify = verify
        self._read = _NOTHING_READ
        self._older: dict[int, RangeTombstones] = {}  # the rows up to a snapshot

    def newest(self, key: bytes, snapshot: int) -> int:
        """The newest version that cleared ``key``, even one above ``snapshot`` and not published yet; 0 if none."""
        read = self._read
        known = read.tombstones if read.end == self._words[W_CLEARS_END] else self._current(snapshot)
        return known.newest(key)

    def cleared_at(self, key: bytes, snapshot: int) -> int:
        """The newest version up to ``snapshot`` that cleared ``key``, 0 if none did."""
        read = self._read
        known = read.tombstones if read.end == self._words[W_CLEARS_END] else self._current(snapshot)
        version = known.newest(key)
        return version if version <= snapshot else self._fragment_as_of(key, snapshot)[0]

    def fragment(self, key: bytes, snapshot: int) -> tuple[int, bytes | None]:
        """The same, and up to which key (exclusive, None: no end) it is the answer for those that follow ``key``."""
        found = self._current(snapshot).fragment(key)
        return found if found[0] <= snapshot else self._fragment_as_of(key, snapshot)

    def _current(self, snapshot: int) -> RangeTombstones:
        """All rows that are there now."""
        words, read = self._words, self._read
        if not words[W_CLEARS]:
            if read is not _NOTHING_READ:
                self._read, self._older = _NOTHING_READ, {}
            return _NOTHING
        end = words[W_CLEARS_END]
        if read.end == end:
            return read.tombstones
        begin, swept = words[W_CLEARS_BEGIN], words[W_CLEARS_SWEPT]
        known, known_begin = read.tombstones, read.begin
        if begin - known_begin > end - begin:  # more have gone than are there
            known, known_begin = known.without(swept), begin
        rows = self._rows(max(read.end, begin), end, snapshot)
        if not rows:
            return known
        tombstones = known.with_ranges(rows)
        # Another thread may store what it has read before or after: whoever finds less than there is reads on.
        self._read = _Read(known_begin, end, tombstones, known, rows[0][2])
        return tombstones

    def _fragment_as_of(self, key: bytes, snapshot: int) -> tuple[int, bytes | None]:
        """The same without rows above ``snapshot``, one of which covers ``key``.

        Often these are the rows read last, which are not published yet. Else the others are read once per snapshot.
        """
        read = self._read
        if snapshot < read.below:
            found = read.before.fragment(key)
            if found[0] <= snapshot:
                return found
        tombstones = self._older.get(snapshot)
        if tombstones is None:
            rows = self._rows(self._words[W_CLEARS_BEGIN], self._words[W_CLEARS_END], snapshot)
            tombstones = _NOTHING.with_ranges(row for row in rows if row[2] <= snapshot)
            if len(self._older) >= _OLDER_KEPT:
                self._older = {}
            self._older[snapshot] = tombstones
        return tombstones.fragment(key)

    def _rows(self, begin: int, end: int, snapshot: int) -> list[Row]:
        """The rows from ``begin`` to ``end`` of the stream; chunks are copied and verified, then taken apart."""
        words = self._words
        pieces: list[bytes] = []
        chunk, above = words[W_CLEARS], 1 << 64
        while begin < end and chunk:
            first = words[chunk + 1]
            if first < end:  # else the chunk has come since ``end`` was looked at
                start = max(first, begin)
                at = (chunk + _HEADER_WORDS + start - first) * 8
                pieces.append(self._mm[at : at + min(end - start, _CHUNK_WORDS) * 8])
            self._verify(snapshot)
            if first >= above or end - first > _CHUNK_WORDS:
                raise _damaged(f"a chunk from word {first:,} on below word {min(end, above):,}")
            above = first
            end = min(end, first)
            chunk = words[chunk]
        if begin < end and words[W_CLEARS_BEGIN] < end:  # unless they have gone meanwhile
            self._verify(snapshot)
            raise _damaged("no chunk for some rows")
        return [row for piece in reversed(pieces) for row in _taken_apart(piece)]


def _taken_apart(piece: bytes) -> Iterator[Row]:
    at = 0
    while at < len(piece):
        if at + _ROW.size > len(piece):
            raise _damaged(f"{len(piece) - at} bytes behind the last row")
        version, lower_length, upper_length = _ROW.unpack_from(piece, at)
        lower_start = at + _ROW.size
        upper_start = lower_start + words_for(lower_length) * 8
        at = upper_start + words_for(upper_length) * 8
        if max(lower_length, upper_length) > MAX_ENGINE_KEY_BYTES or at > len(piece):
            raise _damaged(f"a row with keys of {lower_length:,} and {upper_length:,} bytes")
        yield piece[lower_start : lower_start + lower_length], piece[upper_start : upper_start + upper_length], version


def _damaged(found: str) -> CorruptionError:
    return CorruptionError("the range tombstones in memory", 0, "intact rows", found)
