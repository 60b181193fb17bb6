"""When something is due: one time for each key, in the coordinator's memory only, and the first one at once."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_NEVER_S = float("inf")
_MOST_OUTDATED = 64  # entries beside those that count, before all of them are thrown out


class Deadlines(Generic[Key]):
    """The time of each key, in seconds of the monotonic clock.

    An entry of the heap counts if it is the newest one of its key. The others stay until they come to the front, or are
    more than those that count.
    """

    def __init__(self) -> None:
        self._newest: dict[Key, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._number = 0  # of the entry: the order among equal times, as keys have none

    def set(self, key: Key, due_s: float) -> None:
        """Have ``key`` due at ``due_s``, and at no other time."""
        newest = self._newest.get(key)
        if newest is not None and newest[0] == due_s:
            return
        self._number += 1
        self._newest[key] = (due_s, self._number)
        heapq.heappush(self._heap, (due_s, self._number, key))
        if len(self._heap) > 2 * len(self._newest) + _MOST_OUTDATED:
            self._heap = [(*entry, key) for key, entry in self._newest.items()]
            heapq.heapify(self._heap)

    def drop(self, key: Key) -> None:
        """``key`` is not due any more; nothing happens if it was not."""
        self._newest.pop(key, None)

    def first_s(self) -> float:
        """When the first is due; infinite if none is."""
        heap = self._heap
        while heap and self._newest.get(heap[0][2]) != heap[0][:2]:
            heapq.heappop(heap)
        return heap[0][0] if heap else _NEVER_S

    def pop_due(self, now_s: float) -> Key | None:
        """The key that is due first, which has no time any more then; None if none is due by now."""
        if self.first_s() > now_s:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._newest[key]
        return key
