"""How a reader sees the range tombstones of a segment. ``coordinator.memory.tombstone_table`` writes them.

What a row says stays true for ever, so a reader may keep it for as long as it likes. Each reader keeps what it has read
as ``RangeTombstones`` and reads only rows that are new: a read costs two binary searches (0.5 us), whatever the number
of ranges. ``layout`` has the bytes of rows and chunks. Copied rows are verified before they are taken apart.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from shoal.shm.errors import CorruptionError
from shoal.shm.limits import DEFAULT_LIMITS, MAX_ENGINE_KEY_BYTES, Limits
from shoal.shm.memory.layout import (
    CHUNK_FIRST,
    TOMBSTONE_CHUNK_HEADER_WORDS,
    W_RANGE_TOMBSTONES,
    W_RANGE_TOMBSTONES_BEGIN,
    W_RANGE_TOMBSTONES_END,
    W_RANGE_TOMBSTONES_SWEPT,
    words_for,
)
from shoal.shm.memory.range_tombstones import RangeTombstones, Row
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.snapshots import verify

ROW = struct.Struct("<QII")  # version; length of the lower key, of the upper key
_OLDER_KEPT = 4  # snapshots for which a view keeps the rows up to them


class _Read(NamedTuple):
    """What a reader has read: the rows from ``begin`` to ``end`` of the stream. Some may have been removed since."""

    begin: int
    end: int
    tombstones: RangeTombstones
    before: RangeTombstones  # without the rows read last
    below: int  # the first version among the rows read last


class TombstoneView:
    """The reader's side; threads share it.

    Its methods raise SnapshotExpiredError, CorruptionError, and IndexError for a reference outside the segment.
    """

    __slots__ = ("_chunk_words", "_mm", "_nothing_read", "_older", "_read", "_words")

    def __init__(self, segment: Segment, limits: Limits = DEFAULT_LIMITS) -> None:
        self._mm = segment.mm
        self._words = segment.words
        self._chunk_words = limits.tombstone_chunk_words
        nothing = RangeTombstones(limits)
        self._read = self._nothing_read = _Read(0, 0, nothing, nothing, 0)
        self._older: dict[int, RangeTombstones] = {}  # by snapshot: the rows up to it

    def newest(self, key: bytes, snapshot: int) -> int:
        """The newest version that cleared ``key``, even one above ``snapshot`` and not published yet; 0 if none."""
        read = self._read
        known = read.tombstones if read.end == self._words[W_RANGE_TOMBSTONES_END] else self._current(snapshot)
        return known.newest(key)

    def cleared_at(self, key: bytes, snapshot: int) -> int:
        """The newest version up to ``snapshot`` that cleared ``key``, 0 if none did."""
        read = self._read
        known = read.tombstones if read.end == self._words[W_RANGE_TOMBSTONES_END] else self._current(snapshot)
        version = known.newest(key)
        return version if version <= snapshot else self._fragment_as_of(key, snapshot)[0]

    def fragment(self, key: bytes, snapshot: int) -> tuple[int, bytes | None]:
        """As ``cleared_at``, and the key up to which (exclusive, None: no end) it holds for the keys behind ``key``."""
        found = self._current(snapshot).fragment(key)
        return found if found[0] <= snapshot else self._fragment_as_of(key, snapshot)

    def _current(self, snapshot: int) -> RangeTombstones:
        """All rows that are there now."""
        words, read = self._words, self._read
        if not words[W_RANGE_TOMBSTONES]:
            if read is not self._nothing_read:
                self._read, self._older = self._nothing_read, {}
            return self._nothing_read.tombstones
        end = words[W_RANGE_TOMBSTONES_END]
        if read.end == end:
            return read.tombstones
        begin, swept = words[W_RANGE_TOMBSTONES_BEGIN], words[W_RANGE_TOMBSTONES_SWEPT]
        known, known_begin = read.tombstones, read.begin
        if begin - known_begin > end - begin:  # more rows were removed than are left
            known, known_begin = known.without(swept), begin
        rows = self._rows(max(read.end, begin), end, snapshot)
        if not rows:
            return known
        tombstones = known.with_ranges(rows)
        # Another thread may store an older state over this one: a read that finds less than there is reads the rest.
        self._read = _Read(known_begin, end, tombstones, known, rows[0][2])
        return tombstones

    def _fragment_as_of(self, key: bytes, snapshot: int) -> tuple[int, bytes | None]:
        """As ``fragment``, without rows above ``snapshot``, one of which covers ``key``.

        Often these are the rows read last, which are not published yet. If not, the rows up to the snapshot are read
        from the segment, once for each snapshot.
        """
        read = self._read
        if snapshot < read.below:
            found = read.before.fragment(key)
            if found[0] <= snapshot:
                return found
        tombstones = self._older.get(snapshot)
        if tombstones is None:
            rows = self._rows(self._words[W_RANGE_TOMBSTONES_BEGIN], self._words[W_RANGE_TOMBSTONES_END], snapshot)
            tombstones = self._nothing_read.tombstones.with_ranges(row for row in rows if row[2] <= snapshot)
            if len(self._older) >= _OLDER_KEPT:
                self._older = {}
            self._older[snapshot] = tombstones
        return tombstones.fragment(key)

    def _rows(self, begin: int, end: int, snapshot: int) -> list[Row]:
        """The rows from ``begin`` to ``end`` of the stream. Chunks are copied and verified, then decoded."""
        words = self._words
        pieces: list[bytes] = []
        chunk, above = words[W_RANGE_TOMBSTONES], 1 << 64
        while begin < end and chunk:
            first = words[chunk + CHUNK_FIRST]
            if first < end:  # otherwise the chunk was added after ``end`` was loaded
                start = max(first, begin)
                at = (chunk + TOMBSTONE_CHUNK_HEADER_WORDS + start - first) * 8
                pieces.append(self._mm[at : at + min(end - start, self._chunk_words) * 8])
            verify(words, snapshot)
            if first >= above or end - first > self._chunk_words:
                raise _damaged(f"a chunk from word {first:,} on below word {min(end, above):,}")
            above = first
            end = min(end, first)
            chunk = words[chunk]
        if begin < end and words[W_RANGE_TOMBSTONES_BEGIN] < end:  # not if they were removed meanwhile
            verify(words, snapshot)
            raise _damaged("no chunk for some rows")
        return [row for piece in reversed(pieces) for row in _decoded(piece)]


def _decoded(piece: bytes) -> Iterator[Row]:
    """The rows in a verified copy of a part of a chunk."""
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
