"""The base of the views: the methods of one primitive for one run, over an engine.

A view keeps an engine and a key prefix, and no data. Over a transaction's engine it belongs to that transaction and its
thread. Over an ``AutoCommit`` it commits every call, and threads share it; the facades keep such views. No view can be
pickled, because an engine belongs to its process.
"""

from __future__ import annotations

import weakref
from typing import NoReturn

from shoal.primitives.engine import Engine, EngineTransaction

NOT_MOVABLE = (
    "a transaction, a snapshot or what it gave out (txn.kv, say) belongs to the thread and process that began it and "
    "cannot be copied or pickled; hand on the database and a run id, and begin one there"
)


class View:
    """Base class of the views."""

    __slots__ = ("_engine",)

    _engine: Engine

    def __copy__(self) -> View:
        return self  # a view has no state to copy

    def __reduce__(self) -> NoReturn:
        raise TypeError(NOT_MOVABLE)


class Held:
    """Base class of what this process holds, where a transaction may say what becomes of it.

    ``said_in``: the last transaction that says so, None if none did.
    """

    __slots__ = ("said_in",)

    def __init__(self) -> None:
        self.said_in: weakref.ref[EngineTransaction] | None = None

    def is_said(self) -> bool:
        """Whether a transaction that is open still says what becomes of it."""
        transaction = None if self.said_in is None else self.said_in()
        return transaction is not None and not transaction.has_ended
