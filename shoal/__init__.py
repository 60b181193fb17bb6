"""shoal: a shared-memory store for fleets of agent processes on one machine.

import shoal

with shoal.open("fleet.db") as db:
    kv = shoal.KVStore(db)
    kv.put("run-1", "status", "running")
    with db.transaction("run-1") as txn:
        txn.kv.put("attempts", txn.kv.get("attempts", 0) + 1)
"""

from __future__ import annotations

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any
from typing import get_type_hints as _get_type_hints

from shoal.database import Database, StoreInfo, open
from shoal.primitives.event_types import Anchor, Appended, ChainVerification, Event
from shoal.primitives.facades.consumers import Consumer
from shoal.primitives.facades.event_log import EventLog
from shoal.primitives.facades.fleet.budget import Budget, Reservation
from shoal.primitives.facades.kv_store import KVStore
from shoal.primitives.facades.leases import Lease, LeaseInfo
from shoal.primitives.facades.run_index import RunIndex
from shoal.primitives.facades.state_cell import StateCell
from shoal.primitives.facades.task import Task
from shoal.primitives.facades.task_queue import TaskQueue
from shoal.primitives.facades.trace_store import TraceStore
from shoal.primitives.keys import Namespace
from shoal.primitives.rules.hash_chain import GENESIS_HASH
from shoal.primitives.run_types import CreateRunOptions, RetentionPolicy, RunMetadata, RunQuery, RunStats, RunStatus
from shoal.primitives.trace_types import KINDS as _KINDS
from shoal.primitives.trace_types import Trace, TraceOptions, TraceTree, TraceType
from shoal.primitives.transaction import Transaction
from shoal.primitives.views.cells import State
from shoal.primitives.views.fleet.budgets import BudgetState
from shoal.primitives.views.fleet.changes import Change, RunChange
from shoal.primitives.views.fleet.tasks import QueueStats, TaskInfo, TaskStatus
from shoal.primitives.views.run_diff import Difference, RunDiff
from shoal.shm.errors import (
    AlreadyExistsError,
    CASConflictError,
    ConfigurationError,
    ConflictError,
    CoordinatorLostError,
    CorruptionError,
    InvalidOperationError,
    InvalidStatusTransitionError,
    LeaseHeldError,
    LimitExceededError,
    NotFoundError,
    ShoalError,
    SnapshotExpiredError,
    StoreFullError,
    StoreMovedError,
    TaskTimeoutError,
    WorkerLostError,
    WorkerTaskError,
)
from shoal.shm.fleet_errors import BudgetExceededError, FencedError, InDoubtError, TaskFailedError

if _TYPE_CHECKING:
    from shoal.primitives.facades.pipeline import Pipeline
    from shoal.worker_pool import WorkerPool
    from shoal.workers.pool.worker import current_database

__all__ = [
    "AlreadyExistsError",
    "Anchor",
    "Appended",
    "Budget",
    "BudgetExceededError",
    "BudgetState",
    "CASConflictError",
    "ChainVerification",
    "Change",
    "ConfigurationError",
    "ConflictError",
    "Consumer",
    "CoordinatorLostError",
    "CorruptionError",
    "CreateRunOptions",
    "Database",
    "Difference",
    "Event",
    "EventLog",
    "FencedError",
    "GENESIS_HASH",
    "InDoubtError",
    "InvalidOperationError",
    "InvalidStatusTransitionError",
    "KVStore",
    "Lease",
    "LeaseHeldError",
    "LeaseInfo",
    "LimitExceededError",
    "Namespace",
    "NotFoundError",
    "Pipeline",
    "RetentionPolicy",
    "QueueStats",
    "Reservation",
    "RunChange",
    "RunDiff",
    "RunIndex",
    "RunMetadata",
    "RunQuery",
    "RunStats",
    "RunStatus",
    "ShoalError",
    "SnapshotExpiredError",
    "State",
    "StateCell",
    "StoreFullError",
    "StoreInfo",
    "StoreMovedError",
    "Task",
    "TaskFailedError",
    "TaskInfo",
    "TaskQueue",
    "TaskStatus",
    "TaskTimeoutError",
    "Trace",
    "TraceOptions",
    "TraceStore",
    "TraceTree",
    "TraceType",
    "Transaction",
    "WorkerLostError",
    "WorkerPool",
    "WorkerTaskError",
    "current_database",
    "open",
]
__version__ = "0.1.0"

# Public names whose modules are imported when they are first used. They need ``concurrent.futures`` and
# ``multiprocessing``, which take a third of the time of all imports together; many programs use neither. Everything
# else is imported at once, so that a program may give up descriptors and rights, or fork, after ``import shoal``.
_IMPORTED_LATER = {
    "Pipeline": "shoal.primitives.facades.pipeline",
    "WorkerPool": "shoal.worker_pool",
    "current_database": "shoal.workers.pool.worker",
}


def __getattr__(name: str) -> _Any:
    if name == "aio":  # imported when it is first used, because it needs greenlet
        return _importlib.import_module("shoal.aio")
    if name not in _IMPORTED_LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    public = getattr(_importlib.import_module(_IMPORTED_LATER[name]), name)
    globals()[name] = public
    return public


def __dir__() -> list[str]:
    return sorted({*globals(), *_IMPORTED_LATER})


def _name_as_users_do() -> None:
    """Have tracebacks, pickles and help say ``shoal.KVStore``, wherever the class is defined."""
    here = [globals()[name] for name in __all__ if name not in _IMPORTED_LATER]
    for public in [*here, *_KINDS.values()]:
        if isinstance(public, type):
            # Annotations are text, and only the defining module says what the names in it mean.
            if "__annotations__" in vars(public):
                public.__annotations__ = _get_type_hints(public)
            public.__module__ = __name__
        elif callable(public):
            public.__module__ = __name__


_name_as_users_do()
