"""The base of the facades. A facade holds a database and a namespace, and caches views; it has no other state.

So a program may make any number of facades, threads may share them, and a pickled facade is as good as a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

from shoal.primitives.engine import Engine, Transactions
from shoal.primitives.keys import Namespace, check_namespace
from shoal.primitives.retry import retry_for
from shoal.primitives.transaction import Fence, Transaction
from shoal.shm.arguments import text_of
from shoal.shm.limits import SINGLE_CALL_TIMEOUT_S

RunViewT = TypeVar("RunViewT")
T = TypeVar("T")

_VIEWS_KEPT = 4096


class DatabaseLike(Protocol):
    """What a facade needs of a database."""

    @property
    def _store(self) -> Transactions:
        """The engine."""
        ...

    def transaction(self, run_id: str, *, fence: Fence | None = ..., namespace: Namespace = ...) -> Transaction:
        """A transaction on a run."""
        ...

    def snapshot(self, run_id: str, *, namespace: Namespace = ...) -> Transaction:
        """A transaction that only reads."""
        ...


class _Views(dict[str, RunViewT]):
    """Cached views by run id; a view is made when it is first used. This saves 0.4 us a call."""

    def __init__(
        self, make: Callable[[Engine, Namespace, str], RunViewT], engine: Engine, namespace: Namespace
    ) -> None:
        super().__init__()
        self._make = make
        self._engine = engine
        self._namespace = namespace

    def __missing__(self, run_id: str) -> RunViewT:
        view = self._make(self._engine, self._namespace, run_id)
        if len(self) >= _VIEWS_KEPT:
            self.clear()
        self[text_of(run_id)] = view
        return view


def no_database(db: object, opener: str) -> TypeError:
    """The error for a facade that is made with something else than what ``opener`` returns."""
    kind = type(db)
    return TypeError(f"db has type {kind.__name__} of {kind.__module__}; give what {opener} returns")


class BoundFacade:
    """A database and a namespace, and transactions on them: what all facades share.

    It pickles and copies as its database does. Views are not pickled: the receiver makes them anew (``_bind``).
    """

    __slots__ = ("_db", "_views", "namespace")

    def __init__(self, db: Any, *, namespace: Namespace = Namespace()) -> None:  # noqa: B008 (frozen, shared on purpose)
        if not (hasattr(db, "_store") and hasattr(db, "transaction")):  # a transaction has the first of them
            raise no_database(db, "shoal.open")
        self._db: DatabaseLike = db
        self.namespace = check_namespace(namespace)
        self._bind()

    def __getstate__(self) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        attributes, slots = cast(tuple[dict[str, Any] | None, dict[str, Any]], super().__getstate__())
        return attributes, {name: value for name, value in slots.items() if name != "_views"}

    def __setstate__(self, state: tuple[dict[str, Any] | None, dict[str, Any]]) -> None:
        for attributes in state:
            for name, value in (attributes or {}).items():
                object.__setattr__(self, name, value)
        self._bind()

    def _bind(self) -> None:
        """Make ``_views``, which calls without a transaction use."""
        raise NotImplementedError

    def transaction(self, run_id: str, *, fence: Fence | None = None) -> Transaction:
        """A transaction on a run of this facade's namespace, as ``Database.transaction``.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        return self._db.transaction(run_id, fence=fence, namespace=self.namespace)

    def _snapshot(self, run_id: str) -> Transaction:
        """One snapshot for a call that reads more than once."""
        return self._db.snapshot(run_id, namespace=self.namespace)

    def _transact(self, run_id: str, call: Callable[[Transaction], T], timeout_s: float = SINGLE_CALL_TIMEOUT_S) -> T:
        """Run a call that reads and then writes in a transaction of its own; repeat it while it conflicts."""

        def attempt() -> T:
            with self.transaction(run_id) as txn:
                return call(txn)

        return retry_for(attempt, timeout_s, self._db._store)


class Facade(BoundFacade, Generic[RunViewT]):
    """Base of the facades of one run's contents. ``_view`` makes the methods for one run."""

    __slots__ = ()
    _view: Callable[[Engine, Namespace, str], RunViewT]
    _views: _Views[RunViewT]

    def _bind(self) -> None:
        self._views = _Views(self._view, self._db._store.auto_commit, self.namespace)
