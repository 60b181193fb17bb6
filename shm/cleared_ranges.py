"""Ranges of keys that a commit cleared at once, and the table of them that readers see.

- Clearing hides every key of the range at one version, however many there are; the reclaimer removes them in slices.
- The coordinator alone writes. A table is written whole, beside the old; storing its reference in the header shows it.
- A reader takes a key as absent whose record is older than a range over it that its snapshot sees. The old table stays
  until no snapshot is left that may be walking it.
"""

from __future__ import annotations

from collections.abc import Iterator

from shoal.shm.heap import Heap
from shoal.shm.layout import W_CLEARS
from shoal.shm.segment import Segment
from shoal.shm.words import publish_barrier


class ClearedRange:
    """A range cleared at a version, until its keys are gone from the index."""

    __slots__ = ("cursor", "lower", "nodes", "upper", "version")

    def __init__(self, lower: bytes, upper: bytes, version: int, nodes: tuple[int, int]) -> None:
        self.lower = lower
        self.upper = upper
        self.version = version
        self.nodes = nodes  # of the two bounds, as readers find them
        self.cursor = lower  # where the reclaimer goes on


def cleared_at(ranges: list[ClearedRange], key: bytes) -> int:
    """The newest version that cleared ``key``, 0 if none."""
    return max((r.version for r in ranges if r.lower <= key < r.upper), default=0)


def first_cleared_after(ranges: list[ClearedRange], key: bytes, version: int) -> int:
    """The first version above ``version`` that cleared ``key``: there must be one."""
    return min(r.version for r in ranges if r.lower <= key < r.upper and r.version > version)


class ClearsTable:
    """The table in the segment: how many rows, then of each range the nodes of its bounds and its version."""

    def __init__(self, segment: Segment, heap: Heap) -> None:
        self._words = segment.words
        self._heap = heap
        self._reference = 0
        self._rows: list[int] = []

    def write(self, ranges: list[ClearedRange]) -> int:
        """Write the table anew and show it; the reference of the one before, which is obsolete now, or 0."""
        replaced, table = self._reference, 0
        self._rows = [word for r in ranges for word in (*r.nodes, r.version)]
        if ranges:
            table = self._heap.allocate(len(self._rows) + 1)
            for i, word in enumerate((len(self._rows), *self._rows)):
                self._words[table + i] = word
        self._reference = table
        publish_barrier()
        self._words[W_CLEARS] = table
        return replaced

    def references(self) -> Iterator[int]:
        """The table and the nodes of its bounds, which no index has (for the integrity walk)."""
        if self._reference:
            yield self._reference
        for i in range(0, len(self._rows), 3):
            yield from self._rows[i : i + 2]
