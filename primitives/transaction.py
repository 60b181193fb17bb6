"""The transaction users hold: every primitive of a run, and of other runs, over one engine transaction."""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn

from shoal.primitives.facades.kv_store import KVView
from shoal.primitives.facades.run_index import RunsView
from shoal.primitives.facades.state_cell import StateView
from shoal.primitives.facades.trace_store import TraceView
from shoal.primitives.keys import Namespace, user_text
from shoal.primitives.rules.hash_chain import DEFAULT_CHAIN
from shoal.primitives.views.events import EventView
from shoal.shm.errors import ConflictError, InvalidOperationError
from shoal.workers.shared_memory import transaction as engine
from shoal.workers.shared_memory.connection import StoreConnection
from shoal.workers.shared_memory.transaction import NOT_MOVABLE


class RunView:
    """The primitives of one run inside a transaction."""

    def __init__(
        self, owner: Transaction | None, namespace: Namespace, run_id: str, chain: str = DEFAULT_CHAIN
    ) -> None:
        namespace.run_prefix(run_id)  # a bad run id is refused here, before anything begins
        self._owner = owner  # None of a transaction itself: a cycle would keep its segment until it is collected
        self._namespace = namespace
        self._run_id = run_id
        self._chain = chain  # of event logs that begin in this transaction

    def __reduce__(self) -> NoReturn:
        raise TypeError(NOT_MOVABLE)

    def _begun(self) -> engine.EngineTransaction:
        assert self._owner is not None
        return self._owner._begun()

    @property
    def kv(self) -> KVView:
        """The run's keys and values: the methods of ``KVStore`` without ``run_id``."""
        return KVView(self._begun(), self._namespace, self._run_id)

    @property
    def events(self) -> EventView:
        """The run's event log: the methods of ``EventLog`` without ``run_id``."""
        return EventView(self._begun(), self._namespace, self._run_id, self._chain)

    @property
    def state(self) -> StateView:
        """The run's cells: the methods of ``StateCell`` without ``run_id``."""
        return StateView(self._begun(), self._namespace, self._run_id)

    @property
    def traces(self) -> TraceView:
        """The run's traces: the methods of ``TraceStore`` without ``run_id``."""
        return TraceView(self._begun(), self._namespace, self._run_id)

    @property
    def runs(self) -> RunsView:
        """The runs of the namespace: the methods of ``RunIndex``."""
        return RunsView(self._begun(), self._namespace)


class Transaction(RunView):
    """Reads at one snapshot and commits all its writes at once, or nothing.

    A context manager: the snapshot is taken at entry, the commit made at exit; an exception writes nothing.
    Raises ``ConflictError`` at exit if anything it read has changed since.

    ``version`` is the commit version afterwards (a read-only transaction's is its snapshot's).
    """

    def __init__(self, connection: StoreConnection, namespace: Namespace, run_id: str, read_only: bool = False) -> None:
        super().__init__(None, namespace, run_id)
        self._connection = connection
        self._engine: engine.EngineTransaction | None = (
            engine.EngineTransaction(connection, True) if read_only else None
        )

    def __enter__(self) -> Transaction:
        if self._engine is None:
            self._engine = engine.EngineTransaction(self._connection)
        elif not self._engine.read_only:
            raise InvalidOperationError("the transaction was entered already; start a new one")
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
            # The engine knows the key as it is stored; the user knows the name he gave it.
            key, *versions = conflict.args
            raise ConflictError(user_text(key), *versions) from None

    @property
    def version(self) -> int:
        """The commit version, once committed; a snapshot's own from the start."""
        version = self._begun().version
        if version is None:
            raise InvalidOperationError("the transaction has not committed; its version is known after the with block")
        return version

    def on(self, run_id: str) -> RunView:
        """Another run of the same namespace, in this same transaction."""
        return RunView(self, self._namespace, run_id, self._chain)

    def with_chain(self, chain: str) -> Transaction:
        """The same transaction, in which event logs begin with ``chain``: a facade's own."""
        self._chain = chain
        return self

    def close(self) -> None:
        """End a snapshot, or a transaction without committing it."""
        if self._engine is not None:
            self._engine.abandon()

    def _begun(self) -> engine.EngineTransaction:
        if self._engine is None:
            raise InvalidOperationError("the transaction has not begun; use it in a with statement")
        return self._engine
