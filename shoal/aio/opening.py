"""``shoal.aio.open``: attaches in a thread, because that may start a coordinator."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

from shoal.aio.calls import Entering
from shoal.aio.faces import Face, faced
from shoal.database import Database
from shoal.shared_memory_store import SharedMemoryStore
from shoal.shm.limits import IDLE_TIMEOUT_S, OPEN_TIMEOUT_S
from shoal.workers.tasks.greenlets import in_thread, run, running


def opening(sync_open: Callable[..., Database], face: type[Face]) -> Callable[..., Entering[Any]]:
    """``shoal.aio.open``."""

    def open(  # noqa: A001 (the contract's name)
        path: str | os.PathLike[str],
        *,
        durability: str | None = None,
        max_bytes: int | None = None,
        timeout: float = OPEN_TIMEOUT_S,
        linger: float = IDLE_TIMEOUT_S,
        read_only: bool = False,
    ) -> Entering[Any]:
        def attach() -> Database:
            store = SharedMemoryStore(
                path,
                durability=durability,
                max_bytes=max_bytes,
                timeout=timeout,
                linger=linger,
                read_only=read_only,
                for_tasks=True,
            )
            return Database(store)

        def attach_in_thread() -> Database:
            task = running()
            assert task is not None
            return task.wait_for(in_thread(task.loop, attach))

        async def opened() -> Any:
            return faced(await run(attach_in_thread))

        return Entering(opened(), lambda database: database)

    open.__doc__ = sync_open.__doc__
    open.__module__ = open.__qualname__ = face.__module__
    open.__qualname__ = "open"
    open.__signature__ = inspect.signature(sync_open)  # type: ignore[attr-defined]
    return open
