"""``WorkerPool``: processes attached to one store."""

from __future__ import annotations

import os
from multiprocessing.context import BaseContext
from typing import Any

from shoal.database import Database
from shoal.database import open as open_database
from shoal.workers.pool import ProcessPool


class WorkerPool(ProcessPool):
    """A ``concurrent.futures.Executor`` whose functions find the store with ``shoal.current_database()``.

    ``path``: the store. ``workers``: how many processes. ``retries``: how often a task runs again whose worker died;
    an exception is never retried. ``mp_context``: how processes start, as for ``ProcessPoolExecutor``. Further options
    are those of ``shoal.open``.

    A context manager: leaving it waits for all tasks; Ctrl-C ends all processes at once.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.WorkerPool(path, workers=2, durability="memory") as pool:
    ...     list(pool.map(len, ["a", "bb", "ccc"]))
    [1, 2, 3]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        workers: int = os.cpu_count() or 1,
        *,
        retries: int = 0,
        mp_context: BaseContext | None = None,
        **options: Any,
    ) -> None:
        self.database: Database = open_database(path, **options)
        try:
            super().__init__(self.database, workers, retries, mp_context)
        except BaseException:
            self.database.close()
            raise

    def _dismiss(self) -> None:
        super()._dismiss()
        self.database.close()
