"""StateCell: versioned cells of a run, changed by compare-and-swap."""

from __future__ import annotations

from shoal.primitives.facade import Facade
from shoal.primitives.key_space import Namespace
from shoal.workers.transaction import Engine


class StateView:
    """The methods of ``StateCell`` for one run, over one engine."""

    __slots__ = ("_engine", "_prefix")

    def __init__(self, engine: Engine, namespace: Namespace, run_id: str) -> None:
        self._engine = engine
        self._prefix = namespace.run_prefix(run_id)


class StateCell(Facade[StateView]):
    """Facade of ``StateView``."""

    __slots__ = ()
    view = StateView
