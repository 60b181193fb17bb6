"""shoal for asyncio: the classes and names of ``shoal``, with coroutines for methods.

from shoal import aio

async with await aio.open("fleet.db") as db:
    kv = aio.KVStore(db)
    await kv.put("run-1", "status", "running")
    async with db.transaction("run-1") as txn:
        txn.kv.put("attempts", txn.kv.get("attempts", 0) + 1)

Inside ``async with db.transaction(...)`` the calls of ``txn`` are plain ones: they touch only memory. Everything else
is awaited, and every iterator is asynchronous. ``db.lease(...)`` and the like can be awaited or used in ``async with``.

No call blocks the event loop for longer than a memory read takes. No call takes a thread, but for attaching to a store,
``check``, ``backup`` and ``verify_chain``. A task that is cancelled leaves nothing half done: if its commit was sent
already, it waits for the answer, for a second at most, before ``CancelledError`` is raised.
"""

from __future__ import annotations

import importlib.util as _importlib_util

if _importlib_util.find_spec("greenlet") is None:
    raise ModuleNotFoundError("shoal.aio needs the package greenlet; install shoal[asyncio]", name="greenlet")

import shoal as _shoal
from shoal.aio.faces import facade_of as _facade_of
from shoal.aio.faces import face_of as _face_of
from shoal.aio.opening import opening as _opening

# One line for each class; what methods return stands before the classes that have these methods.
Consumer = _face_of(_shoal.Consumer)
Lease = _face_of(_shoal.Lease)
Reservation = _face_of(_shoal.Reservation)
Task = _face_of(_shoal.Task)
Database = _face_of(_shoal.Database, blocking=("backup", "check"), calls_back=("once",), without=("pipeline",))
KVStore = _facade_of(_shoal.KVStore)
EventLog = _facade_of(_shoal.EventLog, blocking=("verify_chain",))
StateCell = _facade_of(_shoal.StateCell)
TraceStore = _facade_of(_shoal.TraceStore)
RunIndex = _facade_of(_shoal.RunIndex)
TaskQueue = _facade_of(_shoal.TaskQueue)
Budget = _facade_of(_shoal.Budget)
open = _opening(_shoal.open, Database)  # noqa: A001 (the contract's name)

# Values, errors and ``Transaction`` are those of ``shoal``.
_OF_PROCESSES = {"Pipeline", "WorkerPool", "current_database"}
__all__ = [name for name in _shoal.__all__ if name not in _OF_PROCESSES]
globals().update({name: getattr(_shoal, name) for name in __all__ if name not in globals()})
