"""The pipeline users hold: calls that commit one by one and are sent without waiting for the one before."""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn

from shoal.primitives.engine import EnginePipeline, Transactions
from shoal.primitives.keys import Namespace, check_namespace
from shoal.primitives.views.pipelined import (
    PIPELINE_NOT_MOVABLE,
    PipelinedEvents,
    PipelinedKV,
    PipelinedState,
    PipelinedTraces,
)
from shoal.shm.errors import InvalidOperationError


class RunPipeline:
    """The calls of one run in a pipeline: what ``Pipeline.on`` returns.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     with db.pipeline("run-1") as pipe:
    ...         total = pipe.on("run-2").kv.increment("children")
    ...     total.result()
    1

    Every property raises ``InvalidOperationError`` if the pipeline was not entered.
    """

    def __init__(self, owner: Pipeline | None, namespace: Namespace, run_id: str) -> None:
        check_namespace(namespace)._run_prefix(run_id)  # bad arguments are refused here
        self._owner = owner  # None of a pipeline itself: a cycle would keep its pipes until it is collected
        self._namespace = namespace
        self._run_id = run_id

    def __reduce__(self) -> NoReturn:
        raise TypeError(PIPELINE_NOT_MOVABLE)

    def _begun(self) -> EnginePipeline:
        assert self._owner is not None
        return self._owner._begun()

    @property
    def kv(self) -> PipelinedKV:
        """put, put_with_ttl, delete and increment. Raises ``InvalidOperationError`` before the pipeline was entered."""
        return PipelinedKV(self._begun(), self._namespace, self._run_id)

    @property
    def events(self) -> PipelinedEvents:
        """Append and append_many. Raises ``InvalidOperationError`` before the pipeline was entered."""
        return PipelinedEvents(self._begun(), self._namespace, self._run_id)

    @property
    def state(self) -> PipelinedState:
        """init, cas, set and delete. Raises ``InvalidOperationError`` before the pipeline was entered."""
        return PipelinedState(self._begun(), self._namespace, self._run_id)

    @property
    def traces(self) -> PipelinedTraces:
        """Record and its variants. Raises ``InvalidOperationError`` before the pipeline was entered."""
        return PipelinedTraces(self._begun(), self._namespace, self._run_id)


class Pipeline(RunPipeline):
    """Calls that commit one by one and are sent without waiting for the one before: what ``Database.pipeline`` returns.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     with db.pipeline("run-1") as pipe:
    ...         put = pipe.kv.put("status", "running")
    ...         last = [pipe.events.append("step", n) for n in range(10)][-1]
    ...     put.result(), last.result().sequence
    (None, 9)

    A context manager, entered once. Each call is a commit of its own, decided in the order of the calls and exactly
    once, over the death of coordinators too. It returns a ``concurrent.futures.Future``, which cannot be cancelled.
    When ``depth`` commits are under way, a call waits for the answer to the oldest.

    A commit that fails is the error of its future, and those behind it go on. Only if the store is full
    (``StoreFullError``), those sent before the first refusal was known are refused, too. The exit waits for all and
    raises the error of the first one that failed, also if its future was asked. An exception in the block goes on
    after what was sent is decided. What was sent is not taken back.

    A call may raise ``InvalidOperationError`` (the pipeline has ended, the database is closed or only reads, or this
    process was forked from the one that opened it), ``CoordinatorLostError`` or ``StoreMovedError``; it is not sent
    then. A future may raise these for a commit that was under way: whether it is done is open then, as for any commit.

    Threads may share it: their calls are sent one after the other, and a callback of a future runs in the thread that
    reads its answer. It cannot be copied or pickled (``TypeError``).
    """

    __module__ = "shoal"  # in tracebacks and pickles, as users name it

    def __init__(self, store: Transactions, namespace: Namespace, run_id: str, depth: int) -> None:
        super().__init__(None, namespace, run_id)
        self._store = store
        self._depth = depth
        self._engine: EnginePipeline | None = None

    def __enter__(self) -> Pipeline:
        if self._engine is not None:
            raise InvalidOperationError("the pipeline was entered already; open another")
        self._engine = self._store.pipeline(self._depth)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            failure = self._begun().finish()
        except Exception:  # in a forked process, say: the exception of the block is the one to see
            if kind is None:
                raise
            return
        if failure is not None and kind is None:
            raise failure

    def on(self, run_id: str) -> RunPipeline:
        """Another run of the same namespace, in this same pipeline.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return RunPipeline(self, self._namespace, run_id)

    def _begun(self) -> EnginePipeline:
        if self._engine is None:
            raise InvalidOperationError("the pipeline has not begun; use it in a with statement")
        return self._engine
