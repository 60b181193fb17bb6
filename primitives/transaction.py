"""The transaction users hold: every primitive of a run, and of other runs, over one engine transaction."""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn, Protocol

from shoal.primitives.engine import EngineTransaction, Transactions
from shoal.primitives.keys import Namespace, check_namespace, user_text
from shoal.primitives.rules.hash_chain import DEFAULT_CHAIN
from shoal.primitives.views.cells import StateView
from shoal.primitives.views.events import EventView
from shoal.primitives.views.fleet.budgets import BudgetView
from shoal.primitives.views.fleet.queue import QueueView
from shoal.primitives.views.kv import KVView
from shoal.primitives.views.runs import RunsView
from shoal.primitives.views.traces import TraceView
from shoal.primitives.views.view import NOT_MOVABLE
from shoal.shm.errors import ConflictError, InvalidOperationError
from shoal.shm.operation import Past


class RunView:
    """The primitives of one run inside a transaction: what ``Transaction.on`` returns.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     with db.transaction("run-1") as txn:
    ...         other = txn.on("run-2")
    ...         other.kv.increment("children"), other.events.len(), other.state.list(), other.traces.count()
    (1, 0, [], 0)

    Every property raises ``InvalidOperationError`` if the transaction has not begun.
    """

    def __init__(
        self, owner: Transaction | None, namespace: Namespace, run_id: str, chain: str = DEFAULT_CHAIN
    ) -> None:
        # Bad arguments are refused here, before anything begins.
        check_namespace(namespace)._run_prefix(run_id)
        self._owner = owner  # None of a transaction itself: a cycle would keep its segment until it is collected
        self._namespace = namespace
        self._run_id = run_id
        self._chain = chain  # of event logs that begin in this transaction
        self._kv: KVView | None = None  # kept, as making it takes as long as a get

    def __reduce__(self) -> NoReturn:
        raise TypeError(NOT_MOVABLE)

    def _begun(self) -> EngineTransaction:
        assert self._owner is not None
        return self._owner._begun()

    @property
    def kv(self) -> KVView:
        """The run's keys and values: the methods of ``KVStore`` without ``run_id``.

        Raises ``InvalidOperationError`` before the transaction has begun.
        """
        view = self._kv
        if view is None:
            view = self._kv = KVView(self._begun(), self._namespace, self._run_id)
        return view

    @property
    def events(self) -> EventView:
        """The run's event log: the methods of ``EventLog`` without ``run_id``.

        Raises ``InvalidOperationError`` before the transaction has begun.
        """
        return EventView(self._begun(), self._namespace, self._run_id, self._chain)

    @property
    def state(self) -> StateView:
        """The run's cells: the methods of ``StateCell`` without ``run_id``.

        Raises ``InvalidOperationError`` before the transaction has begun.
        """
        return StateView(self._begun(), self._namespace, self._run_id)

    @property
    def traces(self) -> TraceView:
        """The run's traces: the methods of ``TraceStore`` without ``run_id``.

        Raises ``InvalidOperationError`` before the transaction has begun.
        """
        return TraceView(self._begun(), self._namespace, self._run_id)

    @property
    def budget(self) -> BudgetView:
        """The run's budgets: to read them, and to settle a reservation in this commit.

        Raises ``InvalidOperationError`` before the transaction has begun.
        """
        return BudgetView(self._begun(), self._namespace, self._run_id)

    @property
    def queue(self) -> QueueView:
        """The run's queues: ``put``, ``complete`` and ``fail`` of ``TaskQueue``, done by this commit.

        Raises ``InvalidOperationError`` before the transaction has begun.
        """
        return QueueView(self._begun(), self._namespace, self._run_id)

    @property
    def runs(self) -> RunsView:
        """The runs of the namespace: the methods of ``RunIndex``.

        Raises ``InvalidOperationError`` before the transaction has begun.
        """
        return RunsView(self._begun(), self._namespace)


class Fence(Protocol):
    """What a transaction may be fenced with: a lease, a task."""

    def _require(self, transaction: EngineTransaction) -> None:
        """Have the commit of ``transaction`` raise ``FencedError`` if this is not held any more by then."""
        ...


class Transaction(RunView):
    """Reads at one snapshot and commits all its writes at once, or nothing.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     with db.transaction("run-1") as txn:
    ...         txn.kv.put("status", "running")
    ...         version = txn.state.init("step", 1)
    ...         txn.on("run-2").kv.put("parent", "run-1")
    ...     txn.version
    1

    A context manager: the snapshot is taken at entry, the commit made at exit. An exception in the block writes
    nothing. ``db.transaction`` makes one that writes, ``db.snapshot`` one that only reads and has begun already.

    The exit raises ``ConflictError`` if anything that was read has changed since: keys, absent keys and listings. It
    raises ``LimitExceededError`` for more than 64 MiB, ``StoreFullError`` if there is no room, and
    ``CoordinatorLostError`` or ``StoreMovedError`` if the store cannot be reached. Nothing is written then, but for a
    ``CoordinatorLostError`` or ``StoreMovedError`` that says it is in doubt. The entry raises ``InvalidOperationError``
    if the database is closed.

    It belongs to the thread and process that began it, and cannot be copied or pickled (``TypeError``).
    """

    def __init__(
        self,
        store: Transactions,
        namespace: Namespace,
        run_id: str,
        read_only: bool = False,
        fence: Fence | None = None,
        past: Past | None = None,
    ) -> None:
        super().__init__(None, namespace, run_id)
        self._fence = fence
        self._store = store
        self._engine: EngineTransaction | None = store.begin(True, past) if read_only else None

    def __enter__(self) -> Transaction:
        if self._engine is None:
            self._engine = self._store.begin()
            if self._fence is not None:
                self._fence._require(self._engine)
        elif not self._engine.read_only:
            raise InvalidOperationError("the transaction was entered already; start a new one")
        elif self._engine.has_ended:
            raise InvalidOperationError("the snapshot has ended; start a new one")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        transaction = self._begun()
        if kind is not None or transaction.read_only:
            transaction.abandon()
            return
        try:
            transaction.commit()
        except ConflictError as conflict:
            # The engine names the key as it is stored; the user knows it by the name in it.
            key, *versions = conflict.args
            raise ConflictError(user_text(key), *versions) from None

    @property
    def version(self) -> int:
        """The commit version, once committed; of a snapshot, its own from the start.

        Commits of a store have versions that are unique and only rise. A transaction that wrote nothing has that of its
        snapshot. Raises ``InvalidOperationError`` before the commit.
        """
        version = self._begun().version
        if version is None:
            raise InvalidOperationError("the transaction has not committed; its version is known after the with block")
        return version

    def on(self, run_id: str) -> RunView:
        """Another run of the same namespace, in this same transaction.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return RunView(self, self._namespace, run_id, self._chain)

    def close(self) -> None:
        """End a snapshot, or a transaction without committing it. A second time does nothing."""
        if self._engine is not None:
            self._engine.abandon()

    def _with_chain(self, chain: str) -> Transaction:
        """The same transaction; event logs that begin in it have ``chain``."""
        self._chain = chain
        return self

    def _begun(self) -> EngineTransaction:
        if self._engine is None:
            raise InvalidOperationError("the transaction has not begun; use it in a with statement")
        return self._engine
