"""RunIndex: the runs of a namespace, their lifecycle, tags and descent."""

from __future__ import annotations

from shoal.primitives.key_space import Namespace
from shoal.workers.transaction import Engine


class RunsView:
    """The methods of ``RunIndex`` over one engine transaction."""

    __slots__ = ("_engine", "_namespace")

    def __init__(self, engine: Engine, namespace: Namespace) -> None:
        self._engine = engine
        self._namespace = namespace
