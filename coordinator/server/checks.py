"""The checks under way: what each is told of the allocator, slice by slice, and when it must begin again.

A check is a client that sends control requests ``["check", [number, part, position]]``; ``check_report`` has the parts.
An answer takes about a millisecond, so no commit waits for longer. While a check is under way the reclaimer is paused
and the heap notes what it allocates; both end with the last check. If a commit needs the room, the history grows long,
or too much was noted, all checks end at once. Each is told so in the answer to its next request (``GIVEN_UP``).
"""

from __future__ import annotations

from array import array
from typing import Any

from shoal.coordinator.memory.check_report import CheckState
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.server.clients import Client
from shoal.shm.limits import DEFAULT_LIMITS, Limits
from shoal.shm.memory import check_parts

GIVEN_UP: list[Any] = []
_MOST_POSITIONS = 1 << 48


class Checks:
    """The checks of one coordinator. Asked only when no group of commits is half done."""

    def __init__(self, writer: Writer, reclaimer: Reclaimer, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._writer = writer
        self._reclaimer = reclaimer
        self._under_way: dict[int, tuple[Client, CheckState]] = {}  # by number; the oldest first
        self._numbers = 0

    def answer(self, client: Client, arguments: Any, version: int, now_s: float) -> list[Any] | None:
        """The answer to a control request; None if the request makes no sense.

        A check begins with part ``BEGIN`` and is told its number. The position says whether it insists: then commits
        do not end it within the next second.
        """
        if type(arguments) is not list or len(arguments) != 3:
            return None
        number, part, position = arguments
        if type(number) is not int or type(part) is not str or type(position) is not int:
            return None
        if not 0 <= position < _MOST_POSITIONS:
            return None
        self.tidy()
        if part == check_parts.BEGIN:
            self._end(number)
            number = self._begin(client, version)
            if position:
                self._reclaimer.insists_until_s = now_s + self._limits.snapshot_grace_s
            return [number, *self._under_way[number][1].begin()]
        found = self._under_way.get(number)
        if found is None or found[0] is not client:
            return GIVEN_UP
        answer = found[1].answer(part, position, version)
        if part == check_parts.END:
            self._end(number)
        return answer

    def forget(self, client: Client) -> None:
        """A client is gone, and its checks with it."""
        for number in [number for number, (other, _) in self._under_way.items() if other is client]:
            self._end(number)

    def tidy(self) -> None:
        """Give up checks that keep too much, and free what given-up checks kept."""
        allocated = self._writer.heap.allocated
        if allocated is not None and len(allocated) > self._limits.max_check_allocations:
            self._reclaimer.paused = False
        if self._under_way and not self._reclaimer.paused:
            self._under_way.clear()
            self._writer.heap.allocated = None

    def _begin(self, client: Client, version: int) -> int:
        if not self._under_way:
            self._reclaimer.paused = True
            self._writer.heap.allocated = array("Q")
        self._numbers += 1
        self._under_way[self._numbers] = (client, CheckState(self._writer, version))
        if len(self._under_way) > self._limits.max_checks:
            del self._under_way[next(iter(self._under_way))]
        return self._numbers

    def _end(self, number: int) -> None:
        if self._under_way.pop(number, None) is not None and not self._under_way:
            self._reclaimer.paused = False
            self._writer.heap.allocated = None
