"""``shoal.aio.open``: attaches in a thread, because that may start a coordinator."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from shoal.aio.calls import Entering
from shoal.aio.faces import Face, faced
from shoal.database import Database
from shoal.shared_memory_store import opened
from shoal.workers.tasks.greenlets import apart, run


def opening(sync_open: Callable[..., Database], face: type[Face]) -> Callable[..., Entering[Any]]:
    """``shoal.aio.open``: the arguments are those of ``sync_open``."""
    signature = inspect.signature(sync_open)

    def open(*arguments: Any, **options: Any) -> Entering[Any]:  # noqa: A001 (the contract's name)
        given = signature.bind(*arguments, **options)
        given.apply_defaults()

        def attach() -> Database:
            return Database(opened(**given.arguments, for_tasks=True))

        async def entered() -> Any:
            return faced(await run(partial(apart, attach)))

        return Entering(entered(), lambda database: database)

    open.__doc__ = sync_open.__doc__
    open.__module__ = face.__module__
    open.__qualname__ = "open"
    open.__signature__ = signature  # type: ignore[attr-defined]
    return open
