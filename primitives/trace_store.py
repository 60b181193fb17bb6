"""TraceStore: what an agent did and why, with indices by type, tag, parent and time."""

from __future__ import annotations

from shoal.primitives.facade import Facade
from shoal.primitives.key_space import Namespace
from shoal.workers.transaction import Engine


class TraceView:
    """The methods of ``TraceStore`` for one run, over one engine."""

    __slots__ = ("_engine", "_prefix")

    def __init__(self, engine: Engine, namespace: Namespace, run_id: str) -> None:
        self._engine = engine
        self._prefix = namespace.run_prefix(run_id)


class TraceStore(Facade[TraceView]):
    """Facade of ``TraceView``."""

    __slots__ = ()
    view = TraceView
