"""What every facade is: a database and a namespace, and nothing else. Any number may exist side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from shoal.primitives.key_space import Namespace
from shoal.workers.transaction import AutoCommit

if TYPE_CHECKING:
    from shoal.primitives.transaction import Transaction


class DatabaseLike(Protocol):
    """What a facade needs of a database."""

    @property
    def engine(self) -> AutoCommit:
        """Reads and writes outside any transaction."""
        ...

    def transaction(self, run_id: str, *, namespace: Namespace = ...) -> Transaction:
        """A transaction on a run."""
        ...


class Facade:
    """Base of ``KVStore`` and its kin."""

    __slots__ = ("_db", "namespace")

    def __init__(self, db: Any, *, namespace: Namespace = Namespace()) -> None:  # noqa: B008 (frozen, shared on purpose)
        if not hasattr(db, "engine"):
            raise TypeError(f"db has type {type(db).__name__}; give what shoal.open returns")
        if not isinstance(namespace, Namespace):
            raise TypeError(f"namespace has type {type(namespace).__name__}; give a shoal.Namespace")
        self._db: DatabaseLike = db
        self.namespace = namespace

    def transaction(self, run_id: str) -> Transaction:
        """A transaction on a run of this facade's namespace, as ``db.transaction``."""
        return self._db.transaction(run_id, namespace=self.namespace)
