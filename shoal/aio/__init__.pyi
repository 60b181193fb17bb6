"""Made by ``python -m tests.support.aio_stub`` from the synchronous classes: do not edit."""

import builtins
import os
from datetime import datetime
from datetime import timedelta
from shoal.primitives.facades.fleet.idempotency import OnDoubt
from shoal.primitives.transaction import Fence
from shoal.shm.codec import Value
from shoal.aio.calls import Entering, Items
from shoal.aio.faces import EnteredTransaction
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, NoReturn, TypeVar, overload

from shoal import AlreadyExistsError as AlreadyExistsError
from shoal import Anchor as Anchor
from shoal import Appended as Appended
from shoal import BudgetExceededError as BudgetExceededError
from shoal import BudgetState as BudgetState
from shoal import CASConflictError as CASConflictError
from shoal import ChainVerification as ChainVerification
from shoal import Change as Change
from shoal import ConfigurationError as ConfigurationError
from shoal import ConflictError as ConflictError
from shoal import CoordinatorLostError as CoordinatorLostError
from shoal import CorruptionError as CorruptionError
from shoal import CreateRunOptions as CreateRunOptions
from shoal import Difference as Difference
from shoal import Event as Event
from shoal import FencedError as FencedError
from shoal import GENESIS_HASH as GENESIS_HASH
from shoal import InDoubtError as InDoubtError
from shoal import InvalidOperationError as InvalidOperationError
from shoal import InvalidStatusTransitionError as InvalidStatusTransitionError
from shoal import LeaseHeldError as LeaseHeldError
from shoal import LeaseInfo as LeaseInfo
from shoal import LimitExceededError as LimitExceededError
from shoal import Namespace as Namespace
from shoal import NotFoundError as NotFoundError
from shoal import QueueStats as QueueStats
from shoal import RetentionPolicy as RetentionPolicy
from shoal import RunChange as RunChange
from shoal import RunDiff as RunDiff
from shoal import RunMetadata as RunMetadata
from shoal import RunQuery as RunQuery
from shoal import RunStats as RunStats
from shoal import RunStatus as RunStatus
from shoal import ShoalError as ShoalError
from shoal import SnapshotExpiredError as SnapshotExpiredError
from shoal import State as State
from shoal import StoreFullError as StoreFullError
from shoal import StoreInfo as StoreInfo
from shoal import StoreMovedError as StoreMovedError
from shoal import TaskFailedError as TaskFailedError
from shoal import TaskInfo as TaskInfo
from shoal import TaskStatus as TaskStatus
from shoal import TaskTimeoutError as TaskTimeoutError
from shoal import Trace as Trace
from shoal import TraceOptions as TraceOptions
from shoal import TraceTree as TraceTree
from shoal import TraceType as TraceType
from shoal import Transaction as Transaction
from shoal import WorkerLostError as WorkerLostError
from shoal import WorkerTaskError as WorkerTaskError

T = TypeVar("T")

class Consumer:
    name: str
    position: int
    async def close(
        self,
    ) -> None: ...
    async def commit(
        self,
        sequence: int,
    ) -> None: ...
    _log_prefix: bytes
    def _commit_in(self, transaction: Any, position: int) -> None: ...
    async def __aenter__(self) -> Consumer: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...
    def __aiter__(self) -> Items[Event]: ...

class Lease:
    name: str
    token: int
    slot: int
    async def release(
        self,
    ) -> None: ...
    def _require(self, transaction: Any) -> None: ...
    async def __aenter__(self) -> Lease: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...

class Reservation:
    amount: Any
    name: Any
    async def settle(
        self,
        used: float,
    ) -> None: ...
    async def __aenter__(self) -> Reservation: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...

class Task:
    run_id: str
    queue: str
    payload: Value
    attempt: int
    id: Any
    token: Any
    async def complete(
        self,
        result: Value = ...,
    ) -> None: ...
    async def fail(
        self,
        error: str | BaseException,
        *,
        retry_in: float | None = ...,
    ) -> None: ...
    async def release(
        self,
    ) -> None: ...
    def _require(self, transaction: Any) -> None: ...
    async def __aenter__(self) -> Task: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...

class Database:
    path: str
    async def backup(
        self,
        dest: str | os.PathLike[str],
    ) -> int: ...
    async def check(
        self,
    ) -> list[str]: ...
    async def close(
        self,
    ) -> None: ...
    async def info(
        self,
    ) -> StoreInfo: ...
    def lease(
        self,
        run_id: str,
        name: str,
        ttl: float = ...,
        wait: float | None = ...,
        *,
        slots: int = ...,
        namespace: Namespace = ...,
    ) -> Entering[Lease]: ...
    async def leases(
        self,
        run_id: str,
        *,
        namespace: Namespace = ...,
    ) -> list[LeaseInfo]: ...
    @overload
    async def once(
        self,
        run_id: str,
        key: str,
        fn: Callable[[], Coroutine[Any, Any, T]],
        *,
        on_doubt: OnDoubt = ...,
        namespace: Namespace = ...,
    ) -> T: ...
    @overload
    async def once(
        self,
        run_id: str,
        key: str,
        fn: Callable[[], T],
        *,
        on_doubt: OnDoubt = ...,
        namespace: Namespace = ...,
    ) -> T: ...
    def snapshot(
        self,
        run_id: str,
        *,
        version: int | None = ...,
        at: datetime | None = ...,
        namespace: Namespace = ...,
    ) -> Entering[Transaction]: ...
    async def transact(
        self,
        run_id: str,
        fn: Callable[[Transaction], T],
        retries: int = ...,
        *,
        fence: Fence | None = ...,
        idempotency_key: str | None = ...,
        idempotency_ttl: float | timedelta = ...,
        namespace: Namespace = ...,
    ) -> T: ...
    def transaction(
        self,
        run_id: str,
        *,
        fence: Fence | None = ...,
        namespace: Namespace = ...,
    ) -> EnteredTransaction: ...
    async def __aenter__(self) -> Database: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...

class KVStore:
    def __init__(
        self,
        db: Database,
        *,
        namespace: Namespace = ...,
    ) -> None: ...
    namespace: Namespace
    async def delete(
        self,
        run_id: str,
        key: str,
    ) -> bool: ...
    async def exists(
        self,
        run_id: str,
        key: str,
    ) -> bool: ...
    async def get(
        self,
        run_id: str,
        key: str,
        default: Any = ...,
    ) -> Any: ...
    async def increment(
        self,
        run_id: str,
        key: str,
        by: int = ...,
    ) -> int: ...
    async def list(
        self,
        run_id: str,
        prefix: str = ...,
    ) -> builtins.list[str]: ...
    async def list_with_values(
        self,
        run_id: str,
        prefix: str = ...,
    ) -> builtins.list[tuple[str, Any]]: ...
    async def put(
        self,
        run_id: str,
        key: str,
        value: Value,
        *,
        ttl: float | timedelta | None = ...,
    ) -> None: ...
    async def put_with_ttl(
        self,
        run_id: str,
        key: str,
        value: Value,
        ttl: float | timedelta,
    ) -> None: ...
    def transaction(
        self,
        run_id: str,
        *,
        fence: Fence | None = ...,
    ) -> EnteredTransaction: ...
    async def ttl(
        self,
        run_id: str,
        key: str,
    ) -> float | None: ...
    def watch(
        self,
        run_id: str,
        prefix: str = ...,
        since: int | None = ...,
        timeout: float | None = ...,
    ) -> Items[Change]: ...

class EventLog:
    def __init__(
        self,
        db: Database,
        *,
        chain: str = ...,
        namespace: Namespace = ...,
    ) -> None: ...
    namespace: Namespace
    async def anchor(
        self,
        run_id: str,
    ) -> Anchor: ...
    async def append(
        self,
        run_id: str,
        event_type: str,
        payload: Value,
    ) -> Appended: ...
    async def append_many(
        self,
        run_id: str,
        events: Iterable[tuple[str, Value]],
    ) -> list[Appended]: ...
    def consumer(
        self,
        run_id: str,
        name: str,
        *,
        wait: float | None = ...,
    ) -> Entering[Consumer]: ...
    async def delete(
        self,
        run_id: str,
        *_: object,
        **__: object,
    ) -> NoReturn: ...
    async def first_sequence(
        self,
        run_id: str,
    ) -> int: ...
    def follow(
        self,
        run_id: str,
        start: int = ...,
        timeout: float | None = ...,
    ) -> Items[Event]: ...
    async def head(
        self,
        run_id: str,
    ) -> Event | None: ...
    async def is_empty(
        self,
        run_id: str,
    ) -> bool: ...
    def iter(
        self,
        run_id: str,
        start: int = ...,
    ) -> Items[Event]: ...
    async def len(
        self,
        run_id: str,
    ) -> int: ...
    async def read(
        self,
        run_id: str,
        sequence: int,
    ) -> Event | None: ...
    async def read_by_type(
        self,
        run_id: str,
        event_type: str,
    ) -> list[Event]: ...
    async def read_range(
        self,
        run_id: str,
        start: int,
        end: int,
    ) -> list[Event]: ...
    def transaction(
        self,
        run_id: str,
        *,
        fence: Fence | None = ...,
    ) -> EnteredTransaction: ...
    async def trim(
        self,
        run_id: str,
        before: int,
    ) -> int: ...
    async def update(
        self,
        run_id: str,
        *_: object,
        **__: object,
    ) -> NoReturn: ...
    @staticmethod
    def verify(
        events: Iterable[Event],
        *,
        prev_hash: bytes = ...,
    ) -> ChainVerification: ...
    async def verify_chain(
        self,
        run_id: str,
        anchor: Anchor | None = ...,
    ) -> ChainVerification: ...

class StateCell:
    def __init__(
        self,
        db: Database,
        *,
        namespace: Namespace = ...,
    ) -> None: ...
    namespace: Namespace
    async def cas(
        self,
        run_id: str,
        name: str,
        expected_version: int,
        value: Value,
    ) -> int: ...
    async def delete(
        self,
        run_id: str,
        name: str,
    ) -> bool: ...
    async def exists(
        self,
        run_id: str,
        name: str,
    ) -> bool: ...
    async def init(
        self,
        run_id: str,
        name: str,
        value: Value,
    ) -> int: ...
    async def list(
        self,
        run_id: str,
        prefix: str = ...,
    ) -> builtins.list[str]: ...
    async def read(
        self,
        run_id: str,
        name: str,
    ) -> State | None: ...
    async def set(
        self,
        run_id: str,
        name: str,
        value: Value,
    ) -> int: ...
    def transaction(
        self,
        run_id: str,
        *,
        fence: Fence | None = ...,
    ) -> EnteredTransaction: ...
    async def transition(
        self,
        run_id: str,
        name: str,
        fn: Callable[[State], tuple[Value, T]],
        timeout: float | None = ...,
    ) -> T: ...
    async def wait(
        self,
        run_id: str,
        name: str,
        version: int,
        timeout: float | None = ...,
    ) -> State | None: ...

class TraceStore:
    def __init__(
        self,
        db: Database,
        *,
        namespace: Namespace = ...,
    ) -> None: ...
    namespace: Namespace
    async def count(
        self,
        run_id: str,
    ) -> int: ...
    async def get(
        self,
        run_id: str,
        trace_id: str,
    ) -> Trace | None: ...
    async def get_children(
        self,
        run_id: str,
        parent_id: str,
    ) -> builtins.list[Trace]: ...
    async def get_tree(
        self,
        run_id: str,
        root_id: str,
    ) -> TraceTree: ...
    async def list(
        self,
        run_id: str,
    ) -> builtins.list[str]: ...
    async def query(
        self,
        run_id: str,
        *,
        type: str | type[TraceType] | None = ...,
        tag: str | None = ...,
        start: int | None = ...,
        end: int | None = ...,
        parent_id: str | None = ...,
        limit: int | None = ...,
    ) -> builtins.list[Trace]: ...
    async def query_by_tag(
        self,
        run_id: str,
        tag: str,
    ) -> builtins.list[Trace]: ...
    async def query_by_time(
        self,
        run_id: str,
        start: int,
        end: int,
    ) -> builtins.list[Trace]: ...
    async def query_by_type(
        self,
        run_id: str,
        type: str | type[TraceType],
    ) -> builtins.list[Trace]: ...
    async def record(
        self,
        run_id: str,
        trace_type: TraceType,
        *,
        id: str | None = ...,
        parent_id: str | None = ...,
        tags: Iterable[str] = ...,
        metadata: Value = ...,
    ) -> str: ...
    async def record_child(
        self,
        run_id: str,
        parent_id: str,
        trace_type: TraceType,
        *,
        id: str | None = ...,
        tags: Iterable[str] = ...,
        metadata: Value = ...,
    ) -> str: ...
    async def record_with_options(
        self,
        run_id: str,
        trace_type: TraceType,
        options: TraceOptions,
    ) -> str: ...
    def transaction(
        self,
        run_id: str,
        *,
        fence: Fence | None = ...,
    ) -> EnteredTransaction: ...

class RunIndex:
    def __init__(
        self,
        db: Database,
        *,
        namespace: Namespace = ...,
    ) -> None: ...
    namespace: Namespace
    async def add_tags(
        self,
        run_id: str,
        tags: Iterable[str],
    ) -> RunMetadata: ...
    async def archive_run(
        self,
        run_id: str,
    ) -> RunMetadata: ...
    async def cancel_run(
        self,
        run_id: str,
    ) -> RunMetadata: ...
    async def complete_run(
        self,
        run_id: str,
    ) -> RunMetadata: ...
    async def create_run(
        self,
        *,
        run_id: str | None = ...,
        parent_run: str | None = ...,
        tags: Iterable[str] = ...,
        metadata: Value = ...,
    ) -> RunMetadata: ...
    async def create_run_with_options(
        self,
        options: CreateRunOptions,
    ) -> RunMetadata: ...
    async def delete_run(
        self,
        run_id: str,
        *,
        cascade_children: bool = ...,
    ) -> None: ...
    async def diff(
        self,
        run_a: str,
        run_b: str,
    ) -> RunDiff: ...
    async def fail_run(
        self,
        run_id: str,
        error: str,
    ) -> RunMetadata: ...
    def follow(
        self,
        since: int | None = ...,
        timeout: float | None = ...,
    ) -> Items[RunChange]: ...
    async def fork_run(
        self,
        run_id: str,
        *,
        new_run_id: str | None = ...,
        version: int | None = ...,
    ) -> RunMetadata: ...
    async def get_child_runs(
        self,
        parent_run: str,
    ) -> list[RunMetadata]: ...
    async def get_retention(
        self,
        run_id: str | None = ...,
    ) -> RetentionPolicy | None: ...
    async def get_run(
        self,
        run_id: str,
    ) -> RunMetadata | None: ...
    async def get_stats(
        self,
    ) -> RunStats: ...
    async def list_runs(
        self,
    ) -> list[str]: ...
    async def pause_run(
        self,
        run_id: str,
    ) -> RunMetadata: ...
    async def query_runs(
        self,
        query: RunQuery = ...,
    ) -> list[RunMetadata]: ...
    async def remove_tags(
        self,
        run_id: str,
        tags: Iterable[str],
    ) -> RunMetadata: ...
    async def resume_run(
        self,
        run_id: str,
    ) -> RunMetadata: ...
    async def set_retention(
        self,
        policy: RetentionPolicy | None,
        run_id: str | None = ...,
    ) -> None: ...
    def transaction(
        self,
        run_id: str,
        *,
        fence: Fence | None = ...,
    ) -> EnteredTransaction: ...
    async def update_metadata(
        self,
        run_id: str,
        metadata: Value,
    ) -> RunMetadata: ...
    async def update_status(
        self,
        run_id: str,
        status: RunStatus,
    ) -> RunMetadata: ...

class TaskQueue:
    def __init__(
        self,
        db: Database,
        *,
        namespace: Namespace = ...,
    ) -> None: ...
    namespace: Namespace
    async def cancel(
        self,
        run_id: str,
        task_id: str,
    ) -> bool: ...
    def claim(
        self,
        run_id: str,
        queue: str,
        *,
        ttl: float = ...,
        wait: float | None = ...,
    ) -> Entering[Task | None]: ...
    async def claim_many(
        self,
        run_id: str,
        queue: str,
        limit: int,
        *,
        ttl: float = ...,
        wait: float | None = ...,
    ) -> builtins.list[Task]: ...
    async def get(
        self,
        run_id: str,
        task_id: str,
    ) -> TaskInfo | None: ...
    async def list(
        self,
        run_id: str,
        queue: str,
        status: TaskStatus | None = ...,
        limit: int | None = ...,
    ) -> builtins.list[TaskInfo]: ...
    async def purge(
        self,
        run_id: str,
        queue: str,
        status: TaskStatus,
    ) -> int: ...
    async def put(
        self,
        run_id: str,
        queue: str,
        payload: Value,
        *,
        priority: int = ...,
        delay: float | None = ...,
        key: str | None = ...,
        max_attempts: int = ...,
    ) -> str: ...
    async def put_many(
        self,
        run_id: str,
        queue: str,
        payloads: Iterable[Value],
        *,
        priority: int = ...,
        delay: float | None = ...,
        max_attempts: int = ...,
    ) -> builtins.list[str]: ...
    async def result(
        self,
        run_id: str,
        task_id: str,
        timeout: float | None = ...,
    ) -> Any: ...
    async def retry(
        self,
        run_id: str,
        task_id: str,
    ) -> None: ...
    async def stats(
        self,
        run_id: str,
        queue: str,
    ) -> QueueStats: ...
    def transaction(
        self,
        run_id: str,
        *,
        fence: Fence | None = ...,
    ) -> EnteredTransaction: ...

class Budget:
    def __init__(
        self,
        db: Database,
        *,
        namespace: Namespace = ...,
    ) -> None: ...
    namespace: Namespace
    async def adjust(
        self,
        run_id: str,
        name: str,
        limit: float,
    ) -> None: ...
    async def create(
        self,
        run_id: str,
        name: str,
        limit: float,
        *,
        refill_per_s: float = ...,
    ) -> None: ...
    async def read(
        self,
        run_id: str,
        name: str,
    ) -> BudgetState: ...
    def reserve(
        self,
        run_id: str,
        name: str,
        amount: float,
        *,
        wait: float | None = ...,
    ) -> Entering[Reservation]: ...
    def transaction(
        self,
        run_id: str,
        *,
        fence: Fence | None = ...,
    ) -> EnteredTransaction: ...

def open(
    path: str | os.PathLike[str],
    *,
    durability: str | None = ...,
    max_bytes: int | None = ...,
    timeout: float = ...,
    linger: float = ...,
    read_only: bool = ...,
    history: float | timedelta | None = ...,
) -> Entering[Database]: ...

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
    "WorkerTaskError",
    "open",
]
