"""shoal: a shared-memory store for fleets of agent processes on one machine.

import shoal

with shoal.open("fleet.db") as db:
    kv = shoal.KVStore(db)
    kv.put("run-1", "status", "running")
    with db.transaction("run-1") as txn:
        txn.kv.put("attempts", txn.kv.get("attempts", 0) + 1)
"""

from shoal.database import Database, StoreInfo, open
from shoal.primitives.key_space import Namespace
from shoal.primitives.kv_store import KVStore
from shoal.primitives.transaction import Transaction
from shoal.shm.errors import (
    AlreadyExistsError,
    CASConflictError,
    ConfigurationError,
    ConflictError,
    CoordinatorLostError,
    CorruptionError,
    InvalidOperationError,
    LimitExceededError,
    NotFoundError,
    ShoalError,
    SnapshotExpiredError,
    StoreFullError,
    WorkerLostError,
)
from shoal.worker_pool import WorkerPool
from shoal.workers.worker import current_database

__all__ = [
    "AlreadyExistsError",
    "CASConflictError",
    "ConfigurationError",
    "ConflictError",
    "CoordinatorLostError",
    "CorruptionError",
    "Database",
    "InvalidOperationError",
    "KVStore",
    "LimitExceededError",
    "Namespace",
    "NotFoundError",
    "ShoalError",
    "SnapshotExpiredError",
    "StoreFullError",
    "StoreInfo",
    "Transaction",
    "WorkerLostError",
    "WorkerPool",
    "current_database",
    "open",
]
__version__ = "0.1.0"
