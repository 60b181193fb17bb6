"""Who is to be told when something is written, found by the keys that a commit wrote.

A target waits for ranges of keys. A range of a single key is found in a dictionary by that key. A range of all keys
with a prefix is found by the prefix; any other range by what its bounds begin with, and is compared then. So a written
key costs one look-up by key and one for each distinct length of a prefix that is waited for (0.1 us each), however many
wait. A range tombstone is compared with all that is waited for.

What was written comes from the conflict window. This is in the coordinator's memory only: after its death each client
asks the next coordinator, and says from which version on.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple, TypeVar

from shoal.coordinator.commit.conflict_window import ConflictWindow

T = TypeVar("T")

KeyRange = tuple[bytes, bytes]  # lower bound, and upper bound, which is excluded


class _Waiting(NamedTuple):
    number: int  # targets are told in the order in which they came
    ranges: list[KeyRange]


class Waiters:
    """Targets, each with the ranges that it waits for. True if there is any."""

    __slots__ = ("_by_key", "_by_prefix", "_lengths", "_number", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[Hashable, _Waiting] = {}
        self._by_key: dict[bytes, set[Hashable]] = {}
        self._by_prefix: dict[bytes, dict[KeyRange, set[Hashable]]] = {}
        self._lengths: dict[int, int] = {}  # of the prefixes: how many have it
        self._number = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, target: Hashable, ranges: list[KeyRange]) -> None:
        """``target`` waits for writes into ``ranges``. It must not wait already."""
        assert target not in self._waiting
        self._number += 1
        self._waiting[target] = _Waiting(self._number, ranges)
        for bounds in ranges:
            lower, upper = bounds
            if upper == lower + b"\0":
                self._by_key.setdefault(lower, set()).add(target)
                continue
            prefix = _prefix_of(bounds)
            if prefix not in self._by_prefix:
                self._by_prefix[prefix] = {}
                self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
            self._by_prefix[prefix].setdefault(bounds, set()).add(target)

    def remove(self, target: Hashable) -> None:
        """``target`` waits no longer; nothing happens if it did not."""
        waiting = self._waiting.pop(target, None)
        if waiting is None:
            return
        for bounds in waiting.ranges:
            lower, upper = bounds
            if upper == lower + b"\0":
                _discard(self._by_key, lower, target)
                continue
            prefix = _prefix_of(bounds)
            if prefix in self._by_prefix:
                _discard(self._by_prefix[prefix], bounds, target)
                if not self._by_prefix[prefix]:
                    del self._by_prefix[prefix]
                    self._lengths[len(prefix)] -= 1
                    if not self._lengths[len(prefix)]:
                        del self._lengths[len(prefix)]

    def touched(self, window: ConflictWindow, since: int) -> list[Hashable]:
        """The targets that wait for something written after version ``since``, in the order in which they came."""
        if not self._waiting:
            return []
        changed = window.changed_since(since)
        if changed is None:  # forgotten: it may have been anything
            return list(self._waiting)
        keys, clears = changed
        found: set[Hashable] = set()
        for key in keys:
            if key in self._by_key:
                found |= self._by_key[key]
            for length in self._lengths:
                candidates = self._by_prefix.get(key[:length])
                if candidates is not None:
                    found.update(_among(candidates, key))
        for lower, upper in clears:
            found |= self._within(lower, upper)
        return sorted(found, key=lambda target: self._waiting[target].number)

    def _within(self, lower: bytes, upper: bytes) -> set[Hashable]:
        found: set[Hashable] = set()
        for key, targets in self._by_key.items():
            if lower <= key < upper:
                found |= targets
        for candidates in self._by_prefix.values():
            for (start, end), targets in candidates.items():
                if start < upper and lower < end:
                    found |= targets
        return found


def _among(candidates: dict[KeyRange, set[Hashable]], key: bytes) -> list[Hashable]:
    return [target for (lower, upper), targets in candidates.items() if lower <= key < upper for target in targets]


def _prefix_of(bounds: KeyRange) -> bytes:
    """What every key of a range begins with."""
    lower, upper = bounds
    if lower and lower[-1] < 0xFF and upper == lower[:-1] + bytes((lower[-1] + 1,)):
        return lower
    shared = 0
    while shared < min(len(lower), len(upper)) and lower[shared] == upper[shared]:
        shared += 1
    return lower[:shared]


def _discard(index: dict[T, set[Hashable]], at: T, target: Hashable) -> None:
    targets = index.get(at)
    if targets is not None:
        targets.discard(target)
        if not targets:
            del index[at]
