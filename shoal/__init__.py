"""shoal: a shared-memory store for fleets of agent processes on one machine.

import shoal

with shoal.open("fleet.db") as db:
    kv = shoal.KVStore(db)
    kv.put("run-1", "status", "running")
    with db.transaction("run-1") as txn:
        txn.kv.put("attempts", txn.kv.get("attempts", 0) + 1)
"""

from typing import get_type_hints as _get_type_hints

from shoal.database import Database, StoreInfo, open
from shoal.primitives.event_types import Anchor, Appended, ChainVerification, Event
from shoal.primitives.facades.event_log import EventLog
from shoal.primitives.facades.kv_store import KVStore
from shoal.primitives.facades.leases import Lease, LeaseInfo
from shoal.primitives.facades.pipeline import Pipeline
from shoal.primitives.facades.run_index import RunIndex
from shoal.primitives.facades.state_cell import StateCell
from shoal.primitives.facades.trace_store import TraceStore
from shoal.primitives.keys import Namespace
from shoal.primitives.rules.hash_chain import GENESIS_HASH
from shoal.primitives.run_types import CreateRunOptions, RunMetadata, RunQuery, RunStats, RunStatus
from shoal.primitives.trace_types import KINDS as _KINDS
from shoal.primitives.trace_types import Trace, TraceOptions, TraceTree, TraceType
from shoal.primitives.transaction import Transaction
from shoal.primitives.views.cells import State
from shoal.shm.errors import (
    AlreadyExistsError,
    CASConflictError,
    ConfigurationError,
    ConflictError,
    CoordinatorLostError,
    CorruptionError,
    FencedError,
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
from shoal.worker_pool import WorkerPool
from shoal.workers.pool.worker import current_database

__all__ = [
    "AlreadyExistsError",
    "Anchor",
    "Appended",
    "CASConflictError",
    "ChainVerification",
    "ConfigurationError",
    "ConflictError",
    "CoordinatorLostError",
    "CorruptionError",
    "CreateRunOptions",
    "Database",
    "Event",
    "EventLog",
    "FencedError",
    "GENESIS_HASH",
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


def _name_as_users_do() -> None:
    """Have tracebacks, pickles and help say ``shoal.KVStore``, wherever the class is defined."""
    for public in [*(globals()[name] for name in __all__), *_KINDS.values()]:
        if isinstance(public, type):
            # Annotations are text, and only the defining module says what the names in it mean.
            if "__annotations__" in vars(public):
                public.__annotations__ = _get_type_hints(public)
            public.__module__ = __name__
        elif callable(public):
            public.__module__ = __name__


_name_as_users_do()
