"""The base of the views: a view belongs to the transaction it came from, and cannot be copied or pickled."""

from __future__ import annotations

from typing import NoReturn

from shoal.primitives.engine import Engine

NOT_MOVABLE = (
    "a transaction, a snapshot or what it gave out (txn.kv, say) belongs to the thread and process that began it and "
    "cannot be copied or pickled; hand on the database and a run id, and begin one there"
)


class View:
    """The methods of one primitive over an engine: of a transaction, or one that commits every call."""

    __slots__ = ("_engine",)

    _engine: Engine

    def __copy__(self) -> View:
        return self  # a second name for the same thing is harmless

    def __reduce__(self) -> NoReturn:
        raise TypeError(NOT_MOVABLE)
