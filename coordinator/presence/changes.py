"""What commits changed, for processes that watch: from the conflict window and the version chains, no second copy.

The window says which keys a commit wrote and which ranges it cleared; the values are in the records of that version. A
page of them is told at a time, so an answer is bounded, and a slow watcher slows nobody.

- A position is a version, and a key of the next version or nothing: all changes up to that version are told, and those
  of the next one up to that key.
- Records of a version at or above the horizon are there. So the version that was told up to is noted in
  ``Reclaimer.watched``, and the horizon stays at or below it until the watcher asks again. Nothing is kept for one that
  waits, because its next page is made in the turn of the commit that wakes it.
- A change that the window has forgotten, or whose records are gone (the watch fell too far behind, or a coordinator
  died since), is not told: the watcher looks for it in the log files.

All of it is in the coordinator's memory only. After its death the watcher asks the next one, with its position.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple

from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.shm.limits import KIB
from shoal.shm.memory.layout import RECORD_META, RECORD_PREVIOUS, TOMBSTONE, W_HORIZON
from shoal.shm.memory.range_tombstones import Row, disjoint
from shoal.shm.memory.record import NEWEST, value_at, visible_record
from shoal.shm.memory.tombstone_view import TombstoneView

# A page ends with the change that reaches either.
_PAGE_CHANGES = 1_000
_PAGE_BYTES = 256 * KIB
# A page looks at so many records and keys, for 3 ms: a key may have been overwritten often since. What takes longer is
# left to the log.
_PAGE_STEPS = 20_000

Change = tuple[int, bytes, bytes | None]  # version, key, what it holds then: None if it was deleted


class Watched(NamedTuple):
    """What is asked for: which watch, after which position, and the range of keys."""

    watch: int
    version: int
    after: bytes
    lower: bytes
    upper: bytes


class Page(NamedTuple):
    """Changes in their order, and the position behind them. ``is_lost``: those after the position are not here."""

    version: int
    after: bytes
    is_lost: bool
    changes: list[Change]


class _Lost(Exception):  # noqa: N818 (ends a page)
    """A record that is needed is gone."""


class Changes:
    """What commits changed lately, and how far each watch has been told."""

    def __init__(self, window: ConflictWindow, writer: Writer, reclaimer: Reclaimer, has_log: bool = True) -> None:
        self._window = window
        self._writer = writer
        self._words = writer.segment.words
        self._watched = reclaimer.watched
        self._tombstones = TombstoneView(writer.segment, writer.limits)
        self._most_steps = _PAGE_STEPS if has_log else 1 << 62
        self._steps = 0  # those of the page that is made
        self._found: dict[bytes, dict[int, int]] = {}  # by key and version, for the page that is made: the record
        self._watches: dict[int, set[int]] = {}  # by database: those for which something is kept

    def page(self, lower: bytes, upper: bytes, position: int, after: bytes, through: int) -> Page:
        """Changes in ``[lower, upper)`` after a position, up to version ``through``, which is published."""
        if position >= through:
            return Page(position, after, False, [])
        if position < self._window.floor:
            return Page(position, after, True, [])
        reached, commits = self._window.changed_in(lower, upper, position, through)
        self._steps = 0
        self._found.clear()
        changes: list[Change] = []
        size = 0
        at, key_after = position, after  # the position behind the changes so far
        try:
            for version, keys, clears in commits:
                start = lower
                if version == at + 1 and key_after:  # a page ended in it
                    start = key_after + b"\0"
                else:
                    key_after = b""
                at = version - 1
                for change in self._changes_of(version, keys, clears, start, upper):
                    if len(changes) == _PAGE_CHANGES or size >= _PAGE_BYTES:
                        return Page(at, key_after, False, changes)
                    changes.append(change)
                    size += len(change[1]) + len(change[2] or b"")
                    key_after = change[1]
                at, key_after = version, b""
        except _Lost:
            return Page(at, key_after, True, changes)
        return Page(reached, b"", False, changes)

    def keep(self, database_id: int, watch: int, version: int) -> None:
        """Keep what a watch may ask for next, after ``version``."""
        self._watches.setdefault(database_id, set()).add(watch)
        self._watched[watch] = version

    def forget(self, database_id: int, watch: int) -> None:
        """Keep nothing for a watch, for now or for good."""
        watches = self._watches.get(database_id)
        if watches is not None and watch in watches:
            watches.remove(watch)
            self._watched.pop(watch, None)
            if not watches:
                del self._watches[database_id]

    def gone(self, database_id: int) -> None:
        """An open database is gone, and all its watches."""
        for watch in self._watches.pop(database_id, ()):
            self._watched.pop(watch, None)

    def _changes_of(
        self, version: int, keys: list[bytes], clears: list[Row], start: bytes, upper: bytes
    ) -> Iterator[Change]:
        """The changes that one commit made in ``[start, upper)``, each key once, sorted."""
        written = sorted({key for key in keys if key >= start})
        if not clears:
            for key in written:
                yield version, key, self._written(key, version)
            return
        previous = b""
        for key in heapq.merge(written, self._cleared(version, clears, start, upper)):
            if key != previous:
                yield version, key, self._written(key, version)
            previous = key

    def _written(self, key: bytes, version: int) -> bytes | None:
        """What the commit ``version``, which wrote or cleared ``key``, left there; expired or not."""
        words = self._words
        if version < words[W_HORIZON] and self._window.written_since(key, version):
            raise _Lost
        if key not in self._found:
            self._found[key] = self._records(key, version)
        record = self._found[key].get(version, 0)
        if not record or words[record + RECORD_META] & TOMBSTONE:
            return None
        return value_at(words, self._writer.segment.mm, record, NEWEST).value

    def _records(self, key: bytes, version: int) -> dict[int, int]:
        """The records of a key from ``version`` on, by their versions: all in one walk, as a page may need many."""
        words, horizon, found = self._words, self._words[W_HORIZON], dict[int, int]()
        node = self._writer.hash_index.find(key)
        record = words[node] if node else 0
        while record:
            self._step()
            written = words[record]
            found[written] = record
            # Below a record that is not above the horizon memory may have been reused.
            record = words[record + RECORD_PREVIOUS] if written > max(version, horizon) else 0
        return found

    def _step(self) -> None:
        self._steps += 1
        if self._steps > self._most_steps:
            raise _Lost

    def _cleared(self, version: int, clears: list[Row], start: bytes, upper: bytes) -> Iterator[bytes]:
        """The keys of ``[start, upper)`` that were there before the commit ``version`` cleared ranges."""
        if version - 1 < self._words[W_HORIZON]:
            raise _Lost
        for lower, end in disjoint([(lower, end) for lower, end, _ in clears]):
            lower, end = max(lower, start), min(end, upper)
            if lower < end:
                for key, node in self._writer.ordered_index.iterate(lower, end):
                    self._step()
                    cleared_at = self._tombstones.cleared_at(key, version - 1)
                    if visible_record(self._words, node, version - 1, cleared_at, 0):
                        yield key
