"""TraceStore: what an agent did and why, found by type, tag, parent and time."""

from __future__ import annotations

import builtins
from collections.abc import Iterable

from shoal.primitives.facades.facade import Facade
from shoal.primitives.trace_types import Trace, TraceOptions, TraceTree, TraceType
from shoal.primitives.views.traces import TraceView
from shoal.shm.codec import Value


class TraceStore(Facade[TraceView]):
    """What an agent did and why: traces of a run, each call a transaction of its own.

    >>> import shoal, tempfile
    >>> from shoal import TraceType
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     traces = shoal.TraceStore(db)
    ...     root = traces.record("run-1", TraceType.Thought("the tests fail; look at the log"), tags=["debug"])
    ...     call = traces.record_child("run-1", root, TraceType.ToolCall("read", {"path": "log"}, "disk full", 3))
    ...     traces.query_by_tag("run-1", "debug")[0].trace_type.content
    ...     traces.get_children("run-1", root)[0].trace_type.result
    ...     [(depth, trace.trace_type.type_name()) for depth, trace in traces.get_tree("run-1", root).walk()]
    'the tests fail; look at the log'
    'disk full'
    [(0, 'Thought'), (1, 'ToolCall')]

    ``db``: what ``shoal.open`` returns. ``namespace``: whose runs these are.

    Traces are for finding out later what happened, not for telemetry: a trace is 3 keys, one more for each tag and one
    for its parent, so to record one costs a few times a ``put``.

    Ids, tags and type names are str of 1 to 1,024 bytes of UTF-8, any character. What a trace says, with its metadata,
    is at most 16 MiB. Timestamps are integer ms since the epoch (UTC), of the recording process's clock. Results are
    ordered by time, then id. ``TypeError``, ``ValueError`` and ``LimitExceededError`` are raised before
    anything is sent.

    Any call may also raise ``InvalidOperationError`` (the database is closed, or a write to one that only reads),
    ``CoordinatorLostError``, ``StoreMovedError`` and ``CorruptionError`` (a record is none); a write
    ``StoreFullError``; a query ``SnapshotExpiredError`` if it takes very long. No call ever conflicts.
    """

    __slots__ = ()
    _view = TraceView

    def record(
        self,
        run_id: str,
        trace_type: TraceType,
        *,
        id: str | None = None,  # noqa: A002
        parent_id: str | None = None,
        tags: Iterable[str] = (),
        metadata: Value = None,
    ) -> str:
        """Record a trace with the time of now, and return its id: ``id``, or one made for it (a UUIDv7).

        ``tags`` keep their order, each once; ``metadata`` is any value. Raises ``AlreadyExistsError`` for an id used
        before in the run, ``NotFoundError`` for a parent that is not there, and ``TypeError``, ``ValueError`` or
        ``LimitExceededError`` for a bad argument.
        """
        return self._views[run_id].record(trace_type, id=id, parent_id=parent_id, tags=tags, metadata=metadata)

    def record_child(
        self,
        run_id: str,
        parent_id: str,
        trace_type: TraceType,
        *,
        id: str | None = None,  # noqa: A002
        tags: Iterable[str] = (),
        metadata: Value = None,
    ) -> str:
        """``record`` below a parent, which must be given.

        Raises ``NotFoundError`` if the parent is not there, ``AlreadyExistsError`` for an id used before in the run,
        and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        return self._views[run_id].record_child(parent_id, trace_type, id=id, tags=tags, metadata=metadata)

    def record_with_options(self, run_id: str, trace_type: TraceType, options: TraceOptions) -> str:
        """``record`` with its keywords in one object.

        Raises ``AlreadyExistsError`` for an id used before in the run, ``NotFoundError`` for a parent that is not
        there, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        return self._views[run_id].record_with_options(trace_type, options)

    def get(self, run_id: str, trace_id: str) -> Trace | None:
        """The trace of that id, or None.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id or id.
        """
        return self._views[run_id].get(trace_id)

    def query_by_type(self, run_id: str, type: str | type[TraceType]) -> builtins.list[Trace]:  # noqa: A002
        """The traces of a type, given as a name or as a class.

        A name finds the traces with that ``type_name()``; for a ``Custom`` that is its ``trace_type``. A class, as
        ``TraceType.Error`` or ``TraceType.Custom``, finds the traces of that class.
        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id or type.
        """
        with self._snapshot(run_id) as txn:
            return txn.traces.query_by_type(type)

    def query_by_tag(self, run_id: str, tag: str) -> builtins.list[Trace]:
        """The traces that have a tag.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id or tag.
        """
        with self._snapshot(run_id) as txn:
            return txn.traces.query_by_tag(tag)

    def query_by_time(self, run_id: str, start: int, end: int) -> builtins.list[Trace]:
        """The traces recorded in ``[start, end)``, integer ms since the epoch.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id, ``TypeError`` for other bounds.
        """
        with self._snapshot(run_id) as txn:
            return txn.traces.query_by_time(start, end)

    def query(
        self,
        run_id: str,
        *,
        type: str | type[TraceType] | None = None,  # noqa: A002
        tag: str | None = None,
        start: int | None = None,
        end: int | None = None,
        parent_id: str | None = None,
        limit: int | None = None,
    ) -> builtins.list[Trace]:
        """The traces that match all given arguments (None matches any trace), the first ``limit`` of them.

        Looks through the children of ``parent_id``, else what has ``tag``, else what has ``type``, within the time.
        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        with self._snapshot(run_id) as txn:
            return txn.traces.query(type=type, tag=tag, start=start, end=end, parent_id=parent_id, limit=limit)

    def get_children(self, run_id: str, parent_id: str) -> builtins.list[Trace]:
        """The traces recorded directly below one; none for an id that was never used.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id or id.
        """
        with self._snapshot(run_id) as txn:
            return txn.traces.get_children(parent_id)

    def get_tree(self, run_id: str, root_id: str) -> TraceTree:
        """A trace and all its descendants, at any depth, of one snapshot.

        Raises ``NotFoundError`` if there is no such trace, and ``TypeError``, ``ValueError`` or ``LimitExceededError``
        for a bad run id or id.
        """
        with self._snapshot(run_id) as txn:
            return txn.traces.get_tree(root_id)

    def list(self, run_id: str) -> builtins.list[str]:
        """The ids of all traces, by time, then id.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._views[run_id].list()

    def count(self, run_id: str) -> int:
        """How many traces there are.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id.
        """
        return self._views[run_id].count()
