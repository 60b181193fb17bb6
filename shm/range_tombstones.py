"""Range tombstones by key: which version cleared a key last. Nothing here is shared between processes.

A commit that clears ``[lower, upper)`` at a version says of every key in it: what is older is gone. ``RangeTombstones``
answers with two binary searches, however many ranges there are. It keeps only the newest version of each key: where a
range covers older ones, they are replaced. So its size grows by at most two bounds per range, whatever overlaps.

It never changes: ``with_ranges`` gives another one, which shares all blocks that no new range touches. Threads
therefore read it without a lock.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

KeyRange = tuple[bytes, bytes]
# Bounds of neighbouring fragments, and the version of the fragment that begins at each; 0: not cleared.
_Block = tuple[list[bytes], list[int]]

# A new range copies the blocks it touches and the list of blocks: at 50,000 ranges both take about the same time.
_BLOCK_BOUNDS = 128


class RangeTombstones:
    """The newest version that cleared each key, as a step function over all keys."""

    __slots__ = ("_blocks", "_fences")

    def __init__(self) -> None:
        self._fences: list[bytes] = [b""]  # the first bound of each block
        self._blocks: list[_Block] = [([b""], [0])]

    def __len__(self) -> int:
        """The number of fragments: stretches of keys with the same newest version."""
        return sum(len(bounds) for bounds, _ in self._blocks)

    def newest(self, key: bytes) -> int:
        """The newest version that cleared ``key``, 0 if none did."""
        bounds, versions = self._blocks[bisect_right(self._fences, key) - 1]
        return versions[bisect_right(bounds, key) - 1]

    def fragment(self, key: bytes) -> tuple[int, bytes | None]:
        """The same, and up to which key (exclusive, None: no end) it is the answer for those that follow ``key``."""
        at = bisect_right(self._fences, key)
        bounds, versions = self._blocks[at - 1]
        position = bisect_right(bounds, key)
        if position < len(bounds):
            return versions[position - 1], bounds[position]
        return versions[-1], self._fences[at] if at < len(self._fences) else None

    def newest_in(self, lower: bytes, upper: bytes) -> tuple[int, bytes]:
        """The newest version that cleared some key of ``[lower, upper)``, and the first key of the range it cleared.

        0 if none did.
        """
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

    def with_ranges(self, ranges: Iterable[tuple[bytes, bytes, int]]) -> RangeTombstones:
        """These, and ``(lower, upper, version)`` of more ranges; versions never go down."""
        changed = RangeTombstones()
        changed._fences, changed._blocks = self._fences.copy(), self._blocks.copy()
        for lower, upper, version in ranges:
            changed._put(lower, upper, version)
        return changed

    def without(self, version: int) -> RangeTombstones:
        """Only what was cleared after ``version``."""
        bounds, versions = [b""], [0]
        for block_bounds, block_versions in self._blocks:
            for bound, cleared in zip(block_bounds, block_versions, strict=True):
                kept = cleared if cleared > version else 0
                if kept != versions[-1]:
                    bounds.append(bound)
                    versions.append(kept)
        changed = RangeTombstones()
        changed._replace(0, 1, bounds, versions)
        return changed

    def _put(self, lower: bytes, upper: bytes, version: int) -> None:
        if lower >= upper:
            return
        first = bisect_right(self._fences, lower) - 1
        end = bisect_left(self._fences, upper)  # the block before it is the last that has keys below upper
        bounds, versions = self._blocks[first]
        low = bisect_left(bounds, lower)
        last_bounds, last_versions = self._blocks[end - 1]
        high = bisect_left(last_bounds, upper)
        starts_at_upper = last_bounds[high : high + 1] == [upper] or self._fences[end : end + 1] == [upper]
        rest = [] if starts_at_upper else [upper]
        self._replace(
            first,
            end,
            [*bounds[:low], lower, *rest, *last_bounds[high:]],
            [*versions[:low], version, *([last_versions[high - 1]] if rest else []), *last_versions[high:]],
        )

    def _replace(self, first: int, end: int, bounds: list[bytes], versions: list[int]) -> None:
        """Put these fragments where blocks ``first`` to ``end`` (exclusive) are, as one block or two and more."""
        size = len(bounds) if len(bounds) <= 2 * _BLOCK_BOUNDS else _BLOCK_BOUNDS
        starts = range(0, len(bounds), size)
        self._blocks[first:end] = [(bounds[i : i + size], versions[i : i + size]) for i in starts]
        self._fences[first:end] = [bounds[i] for i in starts]


def disjoint(ranges: Iterable[KeyRange]) -> list[KeyRange]:
    """The same keys as ascending ranges that neither overlap nor touch; empty ones are left out."""
    found: list[KeyRange] = []
    for lower, upper in sorted(ranges):
        if found and lower <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], upper))
        elif lower < upper:
            found.append((lower, upper))
    return found
