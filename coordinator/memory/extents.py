"""Free runs of blocks. Blocks are taken from the shortest run that is long enough; runs that touch are joined.

Bookkeeping in the coordinator's own memory: nothing here is in the segment. ``total`` is always the sum of all lengths.
"""

from __future__ import annotations

from sortedcontainers import SortedDict, SortedList


class Extents:
    """A set of runs ``(start, length)``. No two overlap or touch: neighbours are joined."""

    __slots__ = ("_by_length", "_by_start", "total")

    def __init__(self) -> None:
        self._by_start: SortedDict[int, int] = SortedDict()
        self._by_length: SortedList[tuple[int, int]] = SortedList()
        self.total = 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(list(self._by_start.items()))

    def add(self, start: int, length: int) -> None:
        """Add a run. AssertionError if it overlaps one that is here."""
        self.total += length
        position = self._by_start.bisect_left(start)
        if position < len(self._by_start):
            next_start, next_length = self._by_start.peekitem(position)
            assert start + length <= next_start, "a block was freed twice"
            if next_start == start + length:
                self._drop(next_start, next_length)
                length += next_length
        if position > 0:
            before_start, before_length = self._by_start.peekitem(position - 1)
            assert before_start + before_length <= start, "a block was freed twice"
            if before_start + before_length == start:
                self._drop(before_start, before_length)
                start, length = before_start, before_length + length
        self._by_start[start] = length
        self._by_length.add((length, start))

    def take(self, length: int) -> int | None:
        """Take ``length`` blocks off the shortest run that has as many; their start, or None."""
        position = self._by_length.bisect_left((length, 0))
        if position == len(self._by_length):
            return None
        found, start = self._by_length[position]
        self.remove(start, found)
        if found > length:
            self.total += found - length
            self._by_start[start + length] = found - length
            self._by_length.add((found - length, start + length))
        return int(start)

    def take_lowest(self, length: int) -> int:
        """Take ``length`` blocks off the lowest run that has as many, which there must be; their start."""
        start, found = next(run for run in self._by_start.items() if run[1] >= length)
        self.remove(start, found)
        if found > length:
            self.add(start + length, found - length)
        return int(start)

    def largest(self) -> int:
        """Length of the longest run, 0 if there is none."""
        return int(self._by_length[-1][0]) if self._by_length else 0

    def end(self) -> int:
        """The block after the highest run, 0 if there is none."""
        if not self._by_start:
            return 0
        start, length = self._by_start.peekitem(-1)
        return int(start + length)

    def last_length(self) -> int:
        """Length of the highest run, 0 if there is none."""
        return int(self._by_start.peekitem(-1)[1]) if self._by_start else 0

    def take_last(self, length: int) -> int:
        """Take ``length`` blocks off the end of the highest run, which must have as many; their start."""
        start, found = self._by_start.peekitem(-1)
        self.remove(start, found)
        if found > length:
            self.add(start, found - length)
        return int(start + found - length)

    def remove(self, start: int, length: int) -> None:
        """Remove a whole run."""
        self._drop(start, length)
        self.total -= length

    def _drop(self, start: int, length: int) -> None:
        del self._by_start[start]
        self._by_length.remove((length, start))
