"""What was written lately: enough to validate every transaction whose snapshot is not below the window's floor.

Invariants: versions never go down; every key written or cleared at a version above ``floor`` is in here. It is in the
coordinator's memory only; the next coordinator fills its own from the log.

A sweep deletes what had expired, which changes nothing for who has found it absent. Such commits are in here as all
others are, but marked (``note_sweep``). The marks are not in the log, so what the last coordinator swept is a change.

It keeps each key with the version that last wrote it, and all writes in their order. Validating a key read is one
dictionary look-up. Validating ranges walks the writes since the snapshot, which are few for a short transaction: 50 ns
a write for one range, 0.2 us for any number of ranges. Range tombstones are searched by bisection.
Forgetting is done in bulk, up to the oldest snapshot that is held, and costs 0.1 us a write.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

from shoal.shm.memory.range_tombstones import RangeTombstones, Row, disjoint

# Writes that are looked at for a client that waits: 0.2 ms. One that is further behind has to look for itself.
_MOST_LOOKED_AT = 4_000


class ConflictWindow:
    """Recently written keys and range tombstones, by commit version."""

    __slots__ = (
        "_cleared",
        "_keys",
        "_latest",
        "_new_clears",
        "_sweeps",
        "_swept",
        "_tombstones",
        "_versions",
        "floor",
    )

    def __init__(self, floor: int) -> None:
        self.floor = floor  # writes up to this version are forgotten
        self._latest: dict[bytes, int] = {}
        self._versions: list[int] = []  # ascending, one per write
        self._keys: list[bytes] = []
        self._tombstones = RangeTombstones()
        self._cleared: deque[Row] = deque()  # the range tombstones, oldest first
        self._new_clears: list[Row] = []  # those not in ``_tombstones`` yet: added when next needed
        self._sweeps: set[int] = set()  # versions that did nothing but delete what had expired
        self._swept: dict[bytes, int] = {}  # by key that they deleted: the version that wrote it before, 0 if forgotten

    def __len__(self) -> int:
        return len(self._keys)

    def add_write(self, version: int, key: bytes) -> None:
        """``add_writes`` of one key: 0.2 us in place of 0.6."""
        self._latest[key] = version
        self._versions.append(version)
        self._keys.append(key)

    def add_writes(self, version: int, keys: list[bytes]) -> None:
        """Note that ``version`` wrote ``keys``; versions never go down."""
        latest = self._latest
        for key in keys:
            latest[key] = version
        self._versions += [version] * len(keys)
        self._keys += keys

    def add_clear(self, version: int, lower: bytes, upper: bytes) -> None:
        """Note that ``version`` cleared ``[lower, upper)``."""
        if lower < upper:
            self.add_writes(version, [lower])  # a key of the range, so that ranges are forgotten together with keys
            row = (lower, upper, version)
            self._cleared.append(row)
            self._new_clears.append(row)

    def last_writes(self, keys: list[bytes]) -> dict[bytes, int]:
        """By key of ``keys`` the version that last wrote it, 0 if that is forgotten: for ``note_sweep``."""
        return {key: self._latest.get(key, 0) for key in keys}

    def note_sweep(self, version: int, before: dict[bytes, int]) -> None:
        """Note that the commit ``version`` did nothing but delete what had expired.

        ``before``: the ``last_writes`` of what it deleted, as they were then.
        """
        self._sweeps.add(version)
        self._swept.update(before)

    def written_since(self, key: bytes, snapshot: int, sweeps: bool = True) -> int:
        """The version after ``snapshot`` that last wrote or cleared ``key``, 0 if none did.

        Without ``sweeps`` those do not count.
        """
        version = self._latest.get(key, 0)
        if not sweeps and version > snapshot and version in self._sweeps:
            version = self._swept[key]
        if version > snapshot:
            return version
        if self._cleared and self._cleared[-1][2] > snapshot:
            version = self._range_tombstones().newest(key)
        return version if version > snapshot else 0

    def written_in(
        self, ranges: list[tuple[bytes, bytes]], snapshot: int, sweeps: bool = True
    ) -> tuple[bytes, int] | None:
        """A key of one of ``ranges`` written or cleared after ``snapshot``, and its version; None if there is none.

        Without ``sweeps`` those do not count.
        """
        keys, first = self._keys, bisect_right(self._versions, snapshot)
        if first == len(keys):
            return None
        ranges = ranges if len(ranges) == 1 else disjoint(ranges)
        if self._cleared and self._cleared[-1][2] > snapshot:
            tombstones = self._range_tombstones()
            for lower, upper in ranges:
                version, key = tombstones.newest_in(lower, upper)
                if version > snapshot:
                    return key, version
        at = _first_within(keys, first, ranges)
        while at is not None and not sweeps and self._versions[at] in self._sweeps:
            at = _first_within(keys, bisect_right(self._versions, self._versions[at]), ranges)
        return None if at is None else (keys[at], self._versions[at])

    def changed_since(self, version: int) -> tuple[list[bytes], list[tuple[bytes, bytes]]] | None:
        """The keys written after ``version``, with repetitions, and the ranges cleared; None if some are forgotten."""
        if version < self.floor:
            return None
        cleared = []
        for lower, upper, at in reversed(self._cleared):
            if at <= version:
                break
            cleared.append((lower, upper))
        return self._keys[bisect_right(self._versions, version) :], cleared

    def changed_in(
        self, lower: bytes, upper: bytes, since: int, through: int
    ) -> tuple[int, list[tuple[int, list[bytes], list[Row]]]]:
        """What commits after ``since``, which is not below the floor, wrote in ``[lower, upper)``, in their order.

        For each such commit up to ``through`` its version, the keys that it wrote there, and the ranges it cleared
        that reach in there. A part of it if it is much: up to the version that comes with it.
        """
        versions, keys = self._versions, self._keys
        first, behind = bisect_right(versions, since), bisect_right(versions, through)
        if behind - first > _MOST_LOOKED_AT:
            through = versions[first + _MOST_LOOKED_AT]
            behind = bisect_right(versions, through)  # whole commits
        found: dict[int, tuple[int, list[bytes], list[Row]]] = {}
        for at in range(first, behind):
            if lower <= keys[at] < upper:
                found.setdefault(versions[at], (versions[at], [], []))[1].append(keys[at])
        for row in reversed(self._cleared):
            if row[2] <= since:
                break
            if row[2] <= through and row[0] < upper and lower < row[1]:
                found.setdefault(row[2], (row[2], [], []))[2].append(row)
                if lower <= row[0]:
                    found[row[2]][1].remove(row[0])  # ``add_clear`` has noted it as a write
        return through, [found[version] for version in sorted(found)]

    def may_have_changed(self, ranges: list[tuple[bytes, bytes]], since: int) -> bool:
        """Whether one of ``ranges`` was written after version ``since``; also if that is too much to look at."""
        if since < self.floor:
            return True
        if len(self._keys) - bisect_right(self._versions, since) > _MOST_LOOKED_AT:
            return True
        return self.written_in(ranges, since) is not None

    def forget(self, oldest_snapshot: int, least_keys: int, most_keys: int) -> None:
        """Forget what no snapshot from ``oldest_snapshot`` on can conflict with; keep the last ``least_keys`` writes.

        Those are kept for transactions that began under a coordinator that has died: this one does not see their
        snapshots. Beyond ``most_keys`` the oldest writes are forgotten in any case.
        """
        if len(self._keys) <= least_keys:
            return
        cut = min(bisect_right(self._versions, oldest_snapshot), len(self._keys) - least_keys)
        cut = max(cut, len(self._keys) - most_keys)
        if cut:
            # Whole versions only: the floor is one version for all keys.
            cut = bisect_right(self._versions, self._versions[cut - 1])
        if cut:
            self.floor = max(self.floor, self._versions[cut - 1])
            floor, latest = self.floor, self._latest
            for key in self._keys[:cut]:
                if latest.get(key, floor + 1) <= floor:
                    del latest[key]
                    self._swept.pop(key, None)
            self._sweeps.difference_update(self._versions[:cut])
            del self._keys[:cut], self._versions[:cut]
            self._forget_clears(floor)

    def _forget_clears(self, floor: int) -> None:
        forgotten = []
        while self._cleared and self._cleared[0][2] <= floor:
            forgotten.append(self._cleared.popleft())
        tombstones = self._range_tombstones()
        if len(forgotten) > len(self._cleared):
            self._tombstones = tombstones.without(floor)
        elif forgotten:
            self._tombstones = tombstones.without_ranges(forgotten)

    def _range_tombstones(self) -> RangeTombstones:
        if self._new_clears:
            self._tombstones, self._new_clears = self._tombstones.with_ranges(self._new_clears), []
        return self._tombstones


def _first_within(keys: list[bytes], first: int, ranges: list[tuple[bytes, bytes]]) -> int | None:
    """The index in ``keys``, from ``first`` on, of a key in one of ``ranges``; None if there is none.

    50 ns a key for one range, 0.2 us for any number of ranges: a transaction may have read thousands of them, as of
    events that are stored together, while thousands of keys were written.
    """
    if len(ranges) == 1:
        ((lower, upper),) = ranges
        for at in range(first, len(keys)):
            if lower <= keys[at] < upper:
                return at
        return None
    lowers = [lower for lower, _ in ranges]
    uppers = [upper for _, upper in ranges]
    for at in range(first, len(keys)):
        key = keys[at]
        after = bisect_right(lowers, key)
        if after and key < uppers[after - 1]:
            return at
    return None
