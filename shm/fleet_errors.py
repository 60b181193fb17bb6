"""Errors of what a fleet shares: budgets, fences, effects outside the store, queues of tasks.

``shm.errors`` has all others, and what holds for every error.
"""

from __future__ import annotations

from shoal.shm.errors import ShoalError


class BudgetExceededError(ShoalError):
    """Raised by ``reserve`` if a budget has less available than is requested, and ``wait`` is over.

    Wait for longer, request less, or raise the limit with ``adjust``.

    - ``name`` (str): the name of the budget.
    - ``requested`` (int or float): the amount that was to be reserved.
    - ``available`` (int or float): what was available instead.
    """

    passes = True

    def __init__(self, name: str, requested: float, available: float) -> None:
        super().__init__(name, requested, available)
        self.name = name
        self.requested = requested
        self.available = available

    def __str__(self) -> str:
        return (
            f"{self.requested} was requested of budget {self.name!r}, and {self.available} is available; "
            "wait for longer, request less, or raise its limit with adjust"
        )


class FencedError(ShoalError):
    """Raised by a commit if what it was fenced with is not held any more. Nothing was written.

    Another process may hold it by now and have done the work: stop, or take it again and begin anew.

    - ``name`` (str): the name of the lease.
    - ``token`` (int): the token it was held by.
    - ``pid`` (int or None): the process that holds it by that token, if that is not the one that commits: a forked
      child does not hold what its parent holds.
    """

    def __init__(self, name: str, token: int, pid: int | None = None) -> None:
        super().__init__(name, token, *(() if pid is None else (pid,)))
        self.name = name
        self.token = token
        self.pid = pid

    def __str__(self) -> str:
        if self.pid is not None:
            return (
                f"{self.name!r} is held by process {self.pid} by token {self.token}, and not by this one, which was "
                "forked from it; nothing was written; use it in that process, or take it here once that has let it go"
            )
        return (
            f"{self.name!r} is not held any more by token {self.token}: it was released, or its time to live was over; "
            "nothing was written; take it again and begin the work anew"
        )


class InDoubtError(ShoalError):
    """Raised by ``once`` if a process ended after it began the effect and before its result was recorded.

    Nobody can tell from here whether the effect took place. Find it out where it would be, and call ``once`` again with
    a function ``on_doubt`` that returns the result; or with ``on_doubt="retry"``, if doing it twice does no harm. The
    doubt stays until then.

    - ``key`` (str): the key of the effect.
    - ``started_at`` (int): when it was begun, in ms since the epoch (UTC).
    """

    def __init__(self, key: str, started_at: int) -> None:
        super().__init__(key, started_at)
        self.key = key
        self.started_at = started_at

    def __str__(self) -> str:
        return (
            f"whether {self.key!r} took place is in doubt: a process began it {self.started_at} ms after the epoch and "
            "ended before its result was recorded; find it out and give on_doubt a function that returns the result, "
            "or give on_doubt='retry' if doing it twice does no harm"
        )


class TaskFailedError(ShoalError):
    """Raised by ``result`` for a task that ended without one: it is Dead or Cancelled.

    Try it again (``retry`` of a dead one), put a new one, or do without.

    - ``task_id`` (str): the task.
    - ``status`` (TaskStatus): ``Dead`` or ``Cancelled``.
    - ``error`` (str or None): what the last attempt failed with.
    """

    def __init__(self, task_id: str, status: str, error: str | None) -> None:
        super().__init__(task_id, status, error)
        self.task_id = task_id
        self.status = status
        self.error = error

    def __str__(self) -> str:
        why = "" if self.error is None else f": {self.error}"
        return f"task {self.task_id!r} has no result, as it is {self.status}{why}; retry a dead one, or put a new one"


class NothingReadyError(ShoalError):
    """Raised inside shoal if a claim finds no ready task; ``claim`` returns None then.

    - ``queue`` (str): the name of the queue.
    - ``passes_in_ms`` (int or None): in how many milliseconds the first delayed task is due.
    """

    passes = True

    def __init__(self, queue: str, passes_in_ms: int | None) -> None:
        super().__init__(queue, passes_in_ms)
        self.queue = queue
        self.passes_in_ms = passes_in_ms

    def __str__(self) -> str:
        return f"no task of queue {self.queue!r} is ready; wait for one"


for _public in BudgetExceededError, FencedError, InDoubtError, TaskFailedError:
    _public.__module__ = "shoal"
del _public
