"""The calls of a pipeline on one run: those methods of the views that need no read, each giving a future.

They are the methods of the views over an engine whose ``perform`` returns a future, so arguments are checked and
operations asked for in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, cast

from shoal.primitives.engine import Engine, EnginePipeline
from shoal.primitives.event_types import Appended
from shoal.primitives.keys import Namespace
from shoal.primitives.rules import requests
from shoal.primitives.rules.event_rules import METADATA
from shoal.primitives.trace_types import TraceOptions, TraceType
from shoal.primitives.views.cells import StateView
from shoal.primitives.views.events import EventView
from shoal.primitives.views.kv import KVView, check_ttl_given
from shoal.primitives.views.traces import TraceView
from shoal.shm.codec import Value

T = TypeVar("T")

PIPELINE_NOT_MOVABLE = (
    "a pipeline or what it gave out (pipe.kv, say) belongs to the process that opened it and cannot be copied or "
    "pickled; hand on the database and a run id, and open one there"
)


class _AskingEvents(EventView):
    """Gives futures of what ``EventView`` gives. Its engine is the pipeline."""

    __slots__ = ()

    def _append(self, entries: list[list[Any]], convert: Callable[[list[list[Any]]], T]) -> T:
        if not entries:  # no event, so no commit
            nothing: Future[T] = Future()
            nothing.set_result(convert([]))
            return cast(T, nothing)
        engine = requests.asking(cast(EnginePipeline, self._engine), convert)
        return cast(T, requests.append_events(engine, self._prefix + METADATA, self._chain, entries))


class _AskingTraces(TraceView):
    """Gives futures of what ``TraceView`` gives. Its engine is the pipeline."""

    __slots__ = ()

    def _ask(self, trace_id: str, exists: str, required: list[bytes | str], writes: list[bytes]) -> str:
        engine = requests.asking(cast(EnginePipeline, self._engine), lambda _: trace_id)
        return cast(str, requests.insert(engine, exists, required, writes))


class _Calls:
    """The calls of one primitive for one run, each a commit of its own."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise TypeError(PIPELINE_NOT_MOVABLE)


class PipelinedKV(_Calls):
    """The methods of ``KVStore`` that need no read, without ``run_id``: ``pipe.kv``. Each returns a ``Future``.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     with db.pipeline("run-1") as pipe:
    ...         put, total = pipe.kv.put("a", 1), pipe.kv.increment("n", 2)
    ...         deleted = pipe.kv.delete("a")
    ...     put.result(), total.result(), deleted.result()
    (None, 2, True)

    A bad argument raises before anything is sent. ``Pipeline`` says what else a call and a future may raise.
    """

    __slots__ = ("_engine", "_view")

    def __init__(self, engine: EnginePipeline, namespace: Namespace, run_id: str) -> None:
        self._engine = engine
        self._view = KVView(requests.asking(engine), namespace, run_id)

    def put(self, key: str, value: Value, *, ttl: float | timedelta | None = None) -> Future[None]:
        """``KVStore.put``; the future's result is None.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad key, value or ttl.
        """
        return self._engine.put(*self._view._to_put(key, value, ttl))

    def put_with_ttl(self, key: str, value: Value, ttl: float | timedelta) -> Future[None]:
        """``KVStore.put_with_ttl``; the future's result is None.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad key, value or ttl.
        """
        check_ttl_given(ttl)
        return self.put(key, value, ttl=ttl)

    def delete(self, key: str) -> Future[bool]:
        """``KVStore.delete``; the future tells whether the key was there.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad key.
        """
        return cast("Future[bool]", self._view.delete(key))

    def increment(self, key: str, by: int = 1) -> Future[int]:
        """``KVStore.increment``; the future has the sum.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad key or ``by``. The future raises
        ``TypeError`` if the value is no integer, and ``LimitExceededError`` if the sum is too large.
        """
        return cast("Future[int]", self._view.increment(key, by))


class PipelinedEvents(_Calls):
    """The methods of ``EventLog`` that append, without ``run_id``: ``pipe.events``. Each returns a ``Future``.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     with db.pipeline("run-1") as pipe:
    ...         appended = [pipe.events.append("step", n) for n in range(3)]
    ...     [future.result().sequence for future in appended]
    [0, 1, 2]

    A bad argument raises before anything is sent. ``Pipeline`` says what else a call and a future may raise.
    """

    __slots__ = ("_view",)

    def __init__(self, engine: EnginePipeline, namespace: Namespace, run_id: str) -> None:
        self._view = _AskingEvents(cast(Engine, engine), namespace, run_id)

    def append(self, event_type: str, payload: Value) -> Future[Appended]:
        """``EventLog.append``; the future has the ``Appended``.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad type or payload.
        """
        return cast("Future[Appended]", self._view.append(event_type, payload))

    def append_many(self, events: Iterable[tuple[str, Value]]) -> Future[list[Appended]]:
        """``EventLog.append_many``, all in one commit; the future has the list of ``Appended``.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad pair, type or payload, or for more than
        one commit holds.
        """
        return cast("Future[list[Appended]]", self._view.append_many(events))


class PipelinedState(_Calls):
    """The methods of ``StateCell`` that need no read, without ``run_id``: ``pipe.state``. Each returns a ``Future``.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     with db.pipeline("run-1") as pipe:
    ...         versions = [pipe.state.init("step", 1), pipe.state.cas("step", 1, 2), pipe.state.set("step", 3)]
    ...     [future.result() for future in versions]
    [1, 2, 3]

    A bad argument raises before anything is sent. ``Pipeline`` says what else a call and a future may raise.
    """

    __slots__ = ("_view",)

    def __init__(self, engine: EnginePipeline, namespace: Namespace, run_id: str) -> None:
        self._view = StateView(requests.asking(engine), namespace, run_id)

    def init(self, name: str, value: Value) -> Future[int]:
        """``StateCell.init``; the future has the version, or raises ``AlreadyExistsError``.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad name or value.
        """
        return cast("Future[int]", self._view.init(name, value))

    def cas(self, name: str, expected_version: int, value: Value) -> Future[int]:
        """``StateCell.cas``; the future has the version, or raises ``CASConflictError`` or ``NotFoundError``.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad name, version or value.
        """
        return cast("Future[int]", self._view.cas(name, expected_version, value))

    def set(self, name: str, value: Value) -> Future[int]:
        """``StateCell.set``; the future has the version.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad name or value.
        """
        return cast("Future[int]", self._view.set(name, value))

    def delete(self, name: str) -> Future[bool]:
        """``StateCell.delete``; the future tells whether the cell was there.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad name.
        """
        return cast("Future[bool]", self._view.delete(name))


class PipelinedTraces(_Calls):
    """The methods of ``TraceStore`` that record, without ``run_id``: ``pipe.traces``. Each returns a ``Future``.

    >>> import shoal, tempfile
    >>> from shoal import TraceType
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     with db.pipeline("run-1") as pipe:
    ...         root = pipe.traces.record(TraceType.Thought("look"), id="root")
    ...         child = pipe.traces.record_child("root", TraceType.Thought("found"), id="child")
    ...     root.result(), child.result()
    ('root', 'child')

    A bad argument raises before anything is sent. ``Pipeline`` says what else a call and a future may raise.
    """

    __slots__ = ("_view",)

    def __init__(self, engine: EnginePipeline, namespace: Namespace, run_id: str) -> None:
        self._view = _AskingTraces(cast(Engine, engine), namespace, run_id)

    def record(
        self,
        trace_type: TraceType,
        *,
        id: str | None = None,  # noqa: A002
        parent_id: str | None = None,
        tags: Iterable[str] = (),
        metadata: Value = None,
    ) -> Future[str]:
        """``TraceStore.record``; the future has the id, or raises ``AlreadyExistsError`` or ``NotFoundError``.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        traced = self._view.record(trace_type, id=id, parent_id=parent_id, tags=tags, metadata=metadata)
        return cast("Future[str]", traced)

    def record_child(
        self,
        parent_id: str,
        trace_type: TraceType,
        *,
        id: str | None = None,  # noqa: A002
        tags: Iterable[str] = (),
        metadata: Value = None,
    ) -> Future[str]:
        """``TraceStore.record_child``; the future has the id, or raises ``NotFoundError`` or ``AlreadyExistsError``.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        traced = self._view.record_child(parent_id, trace_type, id=id, tags=tags, metadata=metadata)
        return cast("Future[str]", traced)

    def record_with_options(self, trace_type: TraceType, options: TraceOptions) -> Future[str]:
        """``TraceStore.record_with_options``; the future has the id, or raises what that of ``record`` does.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        return cast("Future[str]", self._view.record_with_options(trace_type, options))
