"""Running a transaction again after a conflict: a bounded number of times, with jittered exponential pauses.

Full jitter (Brooker, "Exponential Backoff and Jitter", 2015): a pause is uniform between 0 and a bound that doubles.
Transactions that lost spread out in time, so under contention one of them always commits.

Tasks of an event loop that use one store run again one at a time. A commit of a task may wait in line for those of
others. With hundreds of tasks, each that came to its turn had a snapshot from before the wait, so most conflicted.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from shoal.shm.errors import ConflictError, SnapshotExpiredError
from shoal.shm.host import tasks

T = TypeVar("T")

_FIRST_PAUSE_S = 0.0002
_LONGEST_PAUSE_S = 0.02


def pause_s(attempt: int) -> float:
    """How long to wait after the ``attempt``-th conflict, from 0."""
    return random.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(attempt, 10)))


def retry(attempt_once: Callable[[], T], retries: int, store: object) -> T:
    """Call ``attempt_once`` until it neither conflicts nor loses its snapshot, ``retries`` more times at most.

    ``store``: what the tasks take turns at.
    """
    for attempt in range(retries):
        try:
            return _attempt(attempt_once, attempt, store)
        except (ConflictError, SnapshotExpiredError) as error:
            if not _may_pass(error):
                raise
            tasks.sleep(pause_s(attempt), time)
    return _attempt(attempt_once, retries, store)


def retry_for(attempt_once: Callable[[], T], timeout_s: float, store: object) -> T:
    """Call ``attempt_once`` until it neither conflicts nor loses its snapshot; no new attempt after ``timeout_s``."""
    give_up_s = time.monotonic() + timeout_s
    attempt = 0
    while True:
        try:
            return _attempt(attempt_once, attempt, store)
        except (ConflictError, SnapshotExpiredError) as error:
            if time.monotonic() >= give_up_s or not _may_pass(error):
                raise
        tasks.sleep(pause_s(attempt), time)
        attempt += 1


def _attempt(attempt_once: Callable[[], T], attempt: int, store: object) -> T:
    return tasks.in_turn(store, attempt_once) if attempt else attempt_once()


def _may_pass(error: ConflictError | SnapshotExpiredError) -> bool:
    """Whether another attempt may succeed: not if a past version or moment was asked for, which the error names."""
    return not (isinstance(error, SnapshotExpiredError) and len(error.args) > 2)
