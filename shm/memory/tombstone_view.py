"""How a reader sees the range tombstones of a segment. ``coordinator.memory.tombstone_table`` writes them.

A row says what is true for ever, so a reader may keep it for as long as it likes. Each reader keeps what it has read as
``RangeTombstones`` and reads only rows that are new: a read costs two binary searches (0.5 us), whatever the number of
ranges. The layout of rows and chunks is in ``layout``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from shoal.shm.errors import CorruptionError
from shoal.shm.limits import MAX_ENGINE_KEY_BYTES
from shoal.shm.memory.layout import BLOCK_WORDS, W_CLEARS, W_CLEARS_BEGIN, W_CLEARS_END, W_CLEARS_SWEPT, words_for
from shoal.shm.memory.layout import TOMBSTONE_CHUNK_HEADER_WORDS as _HEADER_WORDS
from shoal.shm.memory.range_tombstones import RangeTombstones, Row
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.snapshots import verify

CHUNK_WORDS = BLOCK_WORDS - _HEADER_WORDS
ROW = struct.Struct("<QII")  # version; length of the lower key, of the upper key
_OLDER_KEPT = 4
_NOTHING = RangeTombstones()


class _Read(NamedTuple):
    """What a reader knows: the rows from ``begin`` to ``end`` of the stream. Some may have gone since."""

    begin: int
    end: int
    tombstones: RangeTombstones
    before: RangeTombstones  # without the rows read last
    below: int  # the first version among those


_NOTHING_READ = _Read(0, 0, _NOTHING, _NOTHING, 0)


class TombstoneView:
    """A reader's side, for all its threads.

    Its methods raise SnapshotExpiredError, CorruptionError, and IndexError for a reference outside the segment.
    """

    __slots__ = ("_mm", "_older", "_read", "_words")

    def __init__(self, segment: Segment) -> None:
        self._mm = segment.mm
        self._words = segment.words
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
                pieces.append(self._mm[at : at + min(end - start, CHUNK_WORDS) * 8])
            verify(words, snapshot)
            if first >= above or end - first > CHUNK_WORDS:
                raise _damaged(f"a chunk from word {first:,} on below word {min(end, above):,}")
            above = first
            end = min(end, first)
            chunk = words[chunk]
        if begin < end and words[W_CLEARS_BEGIN] < end:  # unless they have gone meanwhile
            verify(words, snapshot)
            raise _damaged("no chunk for some rows")
        return [row for piece in reversed(pieces) for row in _taken_apart(piece)]


def _taken_apart(piece: bytes) -> Iterator[Row]:
    at = 0
    while at < len(piece):
        if at + ROW.size > len(piece):
            raise _damaged(f"{len(piece) - at} bytes behind the last row")
        version, lower_length, upper_length = ROW.unpack_from(piece, at)
        lower_start = at + ROW.size
        upper_start = lower_start + words_for(lower_length) * 8
        at = upper_start + words_for(upper_length) * 8
        if max(lower_length, upper_length) > MAX_ENGINE_KEY_BYTES or at > len(piece):
            raise _damaged(f"a row with keys of {lower_length:,} and {upper_length:,} bytes")
        yield piece[lower_start : lower_start + lower_length], piece[upper_start : upper_start + upper_length], version


def _damaged(found: str) -> CorruptionError:
    return CorruptionError("the range tombstones in memory", 0, "intact rows", found)
