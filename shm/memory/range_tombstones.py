"""Range tombstones by key: which version cleared a key last. Nothing here is shared between processes.

A commit that clears ``[lower, upper)`` at version V deletes every record in that range that is older than V.
``RangeTombstones`` answers with two binary searches (0.4 us), however many ranges there are. It keeps only the newest
version for each key: where a range covers older ones, it replaces them. So it grows by at most two bounds per range,
whatever overlaps.

It never changes: ``with_ranges`` returns another one, which shares all blocks that no new range touches. So threads
read it without a lock.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from shoal.shm.limits import DEFAULT_LIMITS, Limits

KeyRange = tuple[bytes, bytes]
Row = tuple[bytes, bytes, int]  # lower, upper, version
# Bounds of neighbouring fragments, and the version of the fragment that begins at each; 0 if it is not cleared.
_Block = tuple[list[bytes], list[int]]


class RangeTombstones:
    """The newest version that cleared each key, as a step function over all keys.

    A *fragment* is a stretch of keys that were last cleared by the same version. A new range copies the blocks it
    touches and the list of blocks: at 50,000 ranges and 64 bounds in a block, both take about the same time. From 16
    new ranges for each block on, making all blocks anew is faster than adding each range.
    """

    __slots__ = ("_blocks", "_fences", "_limits")

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._fences: list[bytes] = [b""]  # the first bound of each block
        self._blocks: list[_Block] = [([b""], [0])]

    def __len__(self) -> int:
        """The number of fragments."""
        return sum(len(bounds) for bounds, _ in self._blocks)

    def newest(self, key: bytes) -> int:
        """The newest version that cleared ``key``, 0 if none did."""
        bounds, versions = self._blocks[bisect_right(self._fences, key) - 1]
        return versions[bisect_right(bounds, key) - 1]

    def fragment(self, key: bytes) -> tuple[int, bytes | None]:
        """As ``newest``, and the key up to which (exclusive, None: no end) it holds for the keys behind ``key``."""
        at = bisect_right(self._fences, key)
        bounds, versions = self._blocks[at - 1]
        position = bisect_right(bounds, key)
        if position < len(bounds):
            return versions[position - 1], bounds[position]
        return versions[-1], self._fences[at] if at < len(self._fences) else None

    def newest_in(self, lower: bytes, upper: bytes) -> tuple[int, bytes]:
        """The newest version that cleared a key of ``[lower, upper)``, 0 if none did; and the first key it cleared."""
        found, first_key = 0, lower
        at = bisect_right(self._fences, lower) - 1
        while at < len(self._fences) and max(lower, self._fences[at]) < upper:
            bounds, versions = self._blocks[at]
            first = max(0, bisect_right(bounds, lower) - 1)
            part = versions[first : bisect_left(bounds, upper)]
            newest = max(part, default=0)
            if newest > found:
                found, first_key = newest, max(lower, bounds[first + part.index(newest)])
            at += 1
        return found, first_key

    def with_ranges(self, ranges: Iterable[Row]) -> RangeTombstones:
        """With ``(lower, upper, version)`` of more ranges, in the order of their versions, which are newer."""
        rows = list(ranges)
        changed = RangeTombstones(self._limits)
        if len(rows) > self._limits.tombstones_rebuilt_at * len(self._fences):
            changed._replace(0, 1, *_step_function([*self._rows(), *rows]))
            return changed
        changed._fences, changed._blocks = self._fences.copy(), self._blocks.copy()
        for lower, upper, version in rows:
            if lower < upper:
                changed._put(lower, upper, version)
        return changed

    def without_ranges(self, rows: Iterable[Row]) -> RangeTombstones:
        """Without the oldest ranges, which are given in the order in which they were added."""
        changed = RangeTombstones(self._limits)
        changed._fences, changed._blocks = self._fences.copy(), self._blocks.copy()
        for lower, upper, version in rows:
            if lower < upper:
                changed._take_out(lower, upper, version)
        return changed

    def without(self, version: int) -> RangeTombstones:
        """Only ranges newer than ``version``; it looks at every fragment."""
        changed = RangeTombstones(self._limits)
        changed._replace(0, 1, *_step_function([row for row in self._rows() if row[2] > version]))
        return changed

    def _rows(self) -> Iterator[Row]:
        """The cleared fragments. The last fragment of all is never cleared, as every range has an end."""
        lower, cleared = b"", 0
        for bounds, versions in self._blocks:
            for bound, version in zip(bounds, versions, strict=True):
                if cleared:
                    yield lower, bound, cleared
                lower, cleared = bound, version

    def _part(self, lower: bytes, upper: bytes) -> tuple[int, int, list[bytes], list[int]]:
        """The first and last block (exclusive) with keys of a range, and a copy of their fragments."""
        first = bisect_right(self._fences, lower) - 1
        end = bisect_left(self._fences, upper)  # the block before it is the last that has keys below upper
        bounds, versions = self._blocks[first]
        bounds, versions = bounds.copy(), versions.copy()
        for more_bounds, more_versions in self._blocks[first + 1 : end]:
            bounds += more_bounds
            versions += more_versions
        return first, end, bounds, versions

    def _put(self, lower: bytes, upper: bytes, version: int) -> None:
        first, end, bounds, versions = self._part(lower, upper)
        low, high = bisect_left(bounds, lower), bisect_left(bounds, upper)
        if bounds[high : high + 1] == [upper] or self._fences[end : end + 1] == [upper]:
            bounds[low:high], versions[low:high] = [lower], [version]
        else:
            bounds[low:high], versions[low:high] = [lower, upper], [version, versions[high - 1]]
        self._replace(first, end, bounds, versions)

    def _take_out(self, lower: bytes, upper: bytes, version: int) -> None:
        """Remove the parts of the range added at ``version`` that no newer range covers; their bounds are present."""
        first, end, bounds, versions = self._part(lower, upper)
        low, high = bisect_left(bounds, lower), bisect_left(bounds, upper)
        kept_bounds, kept_versions = bounds[:low], versions[:low]
        for at in range(low, min(high + 1, len(bounds))):  # with the fragment behind it, perhaps not cleared either
            cleared = versions[at] if versions[at] > version or at == high else 0
            if not kept_versions or cleared or kept_versions[-1]:
                kept_bounds.append(bounds[at])
                kept_versions.append(cleared)
        kept_bounds += bounds[high + 1 :]
        kept_versions += versions[high + 1 :]
        if kept_versions == [0] and first > 0 and self._blocks[first - 1][1][-1] == 0:
            del self._blocks[first:end], self._fences[first:end]
        else:
            self._replace(first, end, kept_bounds, kept_versions)

    def _replace(self, first: int, end: int, bounds: list[bytes], versions: list[int]) -> None:
        """Replace blocks ``first`` to ``end`` (exclusive) by blocks with these fragments."""
        most = self._limits.tombstone_block_bounds
        size = len(bounds) if len(bounds) <= 2 * most else most
        starts = range(0, len(bounds), size)
        self._blocks[first:end] = [(bounds[i : i + size], versions[i : i + size]) for i in starts]
        self._fences[first:end] = [bounds[i] for i in starts]


def _step_function(rows: list[Row]) -> _Block:
    """All fragments of ``rows``, made at once: the newest version between every two neighbouring bounds."""
    starts = sorted(row for row in rows if row[0] < row[1])
    bounds, versions = [b""], [0]
    open_rows: list[tuple[int, bytes]] = []  # a heap of minus version and upper bound; some have ended
    position = 0
    for bound in sorted({bound for lower, upper, _ in starts for bound in (lower, upper)}):
        while position < len(starts) and starts[position][0] == bound:
            heappush(open_rows, (-starts[position][2], starts[position][1]))
            position += 1
        while open_rows and open_rows[0][1] <= bound:
            heappop(open_rows)
        version = -open_rows[0][0] if open_rows else 0
        if bound == b"":
            versions[0] = version
        elif version != versions[-1]:
            bounds.append(bound)
            versions.append(version)
    return bounds, versions


def disjoint(ranges: Iterable[KeyRange]) -> list[KeyRange]:
    """The same keys as ascending ranges that neither overlap nor touch; empty ranges are left out."""
    found: list[KeyRange] = []
    for lower, upper in sorted(ranges):
        if found and lower <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], upper))
        elif lower < upper:
            found.append((lower, upper))
    return found
