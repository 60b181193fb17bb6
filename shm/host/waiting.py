"""Waiting for another process: look for a short time, then sleep in the kernel.

Why it looks at all: a process that sleeps on an idle processor is woken by an interrupt. On a virtual machine that took
40 us each way; a look takes 1 us.

Why it stops looking on a busy machine:
- A process that looks without a pause uses up its share of the processor. When it has work to do later, the scheduler
  lets the others run first.
- ``sched_yield`` gives the processor to any process that wants it, not only to the one that is waited for. Beside a
  process that computes without end, each call gives away a whole slice of the scheduler (3 to 4 ms).

So every offer of the processor is timed. One that took longer than ``LONG_OFFER_S`` may show that another process wants
the processor for long, or that many clients look in turn. How often it happens tells the two apart: beside an endless
loop it is every third offer (5 between two long ones at most); with 8 clients on 2 processors it is one in a thousand
(rarely fewer than 500). So a long offer with fewer than ``FEW_OFFERS`` short ones since the last long one means a busy
machine. Then the lookout sleeps at once, without looking, for ``FIRST_REST_S``. If the machine is as busy when it looks
again, it rests ``LONGER_REST`` times as long, ``LONGEST_REST_S`` at most. When every long offer counted, 8 clients did
85,000 puts a second, and do 97,000 with this rule.

On a busy machine each look costs more than the offer. Two processes that sleep in turn stay on one processor, and the
scheduler leaves it to them; two that look are moved apart, each beside an endless loop. With rests of 1 s at most a put
beside two endless loops was a quarter slower.

With two endless loops beside them on 2 processors, 4 clients that never rested did 1,660 puts a second, and do 49,000.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

from shoal.shm.limits import FEW_OFFERS, FIRST_REST_S, LONG_OFFER_S, LONGER_REST, LONGEST_REST_S

try:
    import cython
except ModuleNotFoundError:
    from shoal.shm import cython_shim as cython  # type: ignore[no-redef]

if cython.compiled:
    from cython.cimports.pipes import now_s as now  # noqa: F401 (plain Python assigns it below)
    from cython.cimports.pipes import offer_processor, read_some


class Lookout:
    """Looks for an event as long as that is cheap. Each waiting thread or loop has one of its own.

    With ``looks`` False it never looks: in a thread that has other tasks to run meanwhile.
    """

    __slots__ = ("_rest_s", "_rests_until_s", "_short_offers")

    def __init__(self, looks: bool = True) -> None:
        self._rest_s = FIRST_REST_S
        self._rests_until_s = 0.0 if looks else math.inf
        self._short_offers = FEW_OFFERS  # since the last long one; more are not counted

    def rests(self, now_s: float) -> bool:
        """Whether it does not look at ``now_s`` (monotonic), because other processes want the processor."""
        return now_s < self._rests_until_s

    def look(
        self, poll: Callable[[float], Any], look_s: float, keep_s: float = 0.0, fd: int = -1, n_bytes: int = 0
    ) -> Any:
        """What ``poll(0)`` finds within ``look_s`` seconds; None if nothing, and then the caller sleeps.

        During the first ``keep_s`` seconds it does not offer the processor to others.

        A caller that would read from ``fd`` next names it, and how many bytes. Compiled, looking is reading then: the
        result is what was read, and ``poll`` is not called. ``fd`` must not block.
        """
        if not cython.compiled:
            now = time.perf_counter
        before_s = now()
        if before_s < self._rests_until_s:
            return None
        offer_from_s, until_s = before_s + keep_s, before_s + look_s
        while before_s < until_s:
            offers = before_s >= offer_from_s
            if cython.compiled:
                if offers:
                    offer_processor()
                found = read_some(fd, n_bytes) if fd >= 0 else poll(0) or None
            else:
                if offers:
                    os.sched_yield()
                found = poll(0) or None
            after_s = now()
            if (offers and self._rests_after(after_s - before_s, after_s)) or found is not None:
                return found
            before_s = after_s
        return None

    def _rests_after(self, offer_s: float, now_s: float) -> bool:
        """Note an offer that took ``offer_s``; True if it shows a busy machine, so that a rest begins at ``now_s``."""
        if offer_s <= LONG_OFFER_S:
            if self._short_offers < FEW_OFFERS:
                self._short_offers += 1
            return False
        busy = self._short_offers < FEW_OFFERS
        self._short_offers = 0
        if busy:
            self._rests_until_s = now_s + self._rest_s
            self._rest_s = min(self._rest_s * LONGER_REST, LONGEST_REST_S)
        else:
            self._rest_s = FIRST_REST_S
        return busy
