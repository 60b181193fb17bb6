"""EventLog: an append-only, hash-chained log of a run."""

from __future__ import annotations

from shoal.primitives.facade import Facade
from shoal.primitives.key_space import Namespace
from shoal.workers.transaction import Engine


class EventView:
    """The methods of ``EventLog`` for one run, over one engine."""

    __slots__ = ("_engine", "_prefix")

    def __init__(self, engine: Engine, namespace: Namespace, run_id: str) -> None:
        self._engine = engine
        self._prefix = namespace.run_prefix(run_id)


class EventLog(Facade[EventView]):
    """Facade of ``EventView``."""

    __slots__ = ()
    view = EventView
