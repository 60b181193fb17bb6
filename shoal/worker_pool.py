"""``WorkerPool``: processes attached to one store."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterable
from multiprocessing.context import BaseContext
from typing import Any

from shoal.database import Database
from shoal.database import open as open_database
from shoal.shm.arguments import FOREVER_S, check_count, check_int, check_plain_function, check_positive_seconds
from shoal.workers.pool.executor import ProcessPool
from shoal.workers.pool.pool_state import PoolOptions
from shoal.workers.pool.worker_process import Recipe


class WorkerPool(ProcessPool):
    """A ``concurrent.futures.Executor`` whose functions find the store with ``shoal.current_database()``.

    - ``path``: the store.
    - ``workers``, or ``max_workers``: the number of processes, by default one per processor. The first ``submit``
      starts them; a worker that dies is replaced.
    - ``initializer(*initargs)`` runs in each worker before its first task. If it raises, the pool is broken.
    - ``max_tasks_per_child``: a worker is replaced after so many tasks; None never.
    - ``mp_context``: how processes start: ``"forkserver"``, ``"spawn"``, ``"fork"`` or a context of
      ``multiprocessing``.
    - ``retries``: how often a task runs again after its worker died. A task that raised an exception never does.
    - ``ttl``: the seconds after which a worker that was stopped (SIGSTOP, a debugger) is killed and counts as dead, if
      its task may run again; checked on Linux. The task of the killed worker commits nothing more.
    - ``timeout``: the seconds a task may run before its worker is killed; None for ever.
    - Further options are those of ``shoal.open`` but for its ``timeout``.

    A context manager: leaving it waits for all tasks. Ctrl-C ends all processes at once.

    Raises ``TypeError`` or ``ValueError`` for a bad argument, and what ``shoal.open`` raises. A task's future raises
    ``WorkerLostError`` if its worker died on its last retry, ``TaskTimeoutError`` after ``timeout``, and what the task
    raised, as ``WorkerTaskError`` if that cannot be pickled.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.WorkerPool(path, workers=2, durability="memory") as pool:
    ...     list(pool.map(len, ["a", "bb", "ccc"]))
    [1, 2, 3]
    """

    __module__ = "shoal"  # in tracebacks and pickles, as users name it

    def __init__(
        self,
        path: str | os.PathLike[str],
        workers: int | None = None,
        *,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        max_tasks_per_child: int | None = None,
        mp_context: str | BaseContext | None = "forkserver",
        retries: int = 0,
        ttl: float = 30.0,
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        count = _workers(workers, max_workers)
        check_count("retries", retries, 0)
        if initializer is not None:
            check_plain_function("initializer", initializer)
        _check_max_tasks(max_tasks_per_child)
        timeout_s, ttl_s = _timeout(timeout), check_positive_seconds("ttl", ttl)
        if mp_context is None or isinstance(mp_context, str):
            mp_context = _context(mp_context or "forkserver")
        elif not callable(getattr(mp_context, "get_start_method", None)):
            raise TypeError(
                f"mp_context has type {type(mp_context).__name__}; give the name of a start method, or a context of "
                "multiprocessing"
            )
        if not isinstance(initargs, Iterable):
            raise TypeError(f"initargs has type {type(initargs).__name__}; give a tuple of arguments")
        _check_not_importing()
        self.database: Database = open_database(path, **options)
        try:
            super().__init__(
                Recipe(mp_context, pickle.dumps(self.database), initializer, tuple(initargs)),
                PoolOptions(count, retries, ttl_s, timeout_s, max_tasks_per_child, self.database.close),
            )
        except BaseException:
            self.database.close()
            raise


def _workers(workers: int | None, max_workers: int | None) -> int:
    if workers is not None and max_workers is not None and workers != max_workers:
        raise ValueError(f"workers is {workers!r} and max_workers is {max_workers!r}; give one of them")
    count = workers if workers is not None else max_workers
    if count is None:
        return os.cpu_count() or 1
    return check_count("max_workers" if workers is None else "workers", count, 1)


def _context(name: str) -> BaseContext:
    try:
        return multiprocessing.get_context(name)
    except ValueError as error:
        names = ", ".join(sorted(multiprocessing.get_all_start_methods()))
        raise ValueError(f"mp_context is {name!r:.60}; give one of {names}, or a context of multiprocessing") from error


def _check_max_tasks(count: int | None) -> None:
    if count is not None:
        hint = ", or None"
        check_int("max_tasks_per_child", count, "a whole number from 1" + hint)
        check_count("max_tasks_per_child", count, 1, hint)


def _timeout(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    timeout_s = check_positive_seconds("timeout", timeout, ", or None to let a task run for ever")
    return None if timeout_s == FOREVER_S else timeout_s


def _check_not_importing() -> None:
    """Raise while a worker imports the main module: a pool made by that would start workers that import it again."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "a WorkerPool is made while a worker imports the main module; in the main module, make it below "
            '`if __name__ == "__main__":`, or in a function that is called there'
        )
