"""Polling: look, pause, look again, with pauses that double up to a bound.

One thing is polled for, because it cannot wake a waiter: another process that begins or ends to serve a store. Waiting
for a pipe is another thing (``shm.host.waiting``), and so is waiting for a commit (``presence.waiting``).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from shoal.shm.host import tasks

T = TypeVar("T")


class Pauses(NamedTuple):
    """How long to pause between looks: first ``shortest_s``, doubled each time, ``longest_s`` at most.

    With ``jitter`` each pause is multiplied by a random factor from 1 - jitter to 1 + jitter, so that processes that
    began to wait at the same time do not look at the same time.
    """

    shortest_s: float
    longest_s: float
    jitter: float = 0.0


# For another process that is to serve a store, where a look is a connection and starting takes 100 ms and more.
SERVING = Pauses(shortest_s=0.01, longest_s=0.01, jitter=0.5)
# For another process that is to begin or end serving, where a look reads files.
AT_REST = Pauses(shortest_s=0.02, longest_s=0.02, jitter=0.5)


def poll(look: Callable[[], T | None], give_up_s: float, pauses: Pauses, clock: Any = time) -> T | None:
    """Call ``look`` until it returns something else than None, and return that; None at ``give_up_s`` (monotonic).

    ``look`` is called at least once, and once more after the time is up. ``clock`` has ``monotonic`` and ``sleep``:
    the standard module, which a program may have patched to run its other tasks meanwhile, or ``unpatched.time``.

    >>> looks = iter([None, None, "there"])
    >>> poll(lambda: next(looks), time.monotonic() + 10, SERVING)
    'there'
    """
    pause_s = pauses.shortest_s
    while True:
        found = look()
        if found is not None:
            return found
        left_s = give_up_s - clock.monotonic()
        if left_s <= 0:
            return None
        factor = random.uniform(1 - pauses.jitter, 1 + pauses.jitter) if pauses.jitter else 1.0
        tasks.sleep(min(pause_s * factor, left_s), clock)
        pause_s = min(pause_s * 2, pauses.longest_s)
