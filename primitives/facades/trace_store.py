"""TraceStore: what an agent did and why, with indices by type, tag, parent and time. Layout: ``trace_index``.

A trace is recorded by one deferred operation: its id must be new and its parent there when it is decided. A call that
reads an index and then the records it names does so at one snapshot.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator
from typing import TypeVar

from shoal.primitives.engine import Engine
from shoal.primitives.facades.facade import Facade
from shoal.primitives.identifiers import new_id
from shoal.primitives.keys import Namespace, Tag, after, decode_text, encode_text
from shoal.primitives.rules import registry as operations
from shoal.primitives.trace_index import BY_TIME, RECORD, Query, check_integer, decode_trace, encode_trace, make_query
from shoal.primitives.trace_types import Trace, TraceOptions, TraceTree, TraceType
from shoal.shm.clock import now_ms
from shoal.shm.codec import Value
from shoal.shm.errors import CorruptionError, NotFoundError

T = TypeVar("T")

_TAG = bytes((Tag.TRACE,))
_TIME_BYTES = 8
_LATEST_MS = 2**63 - 1


class TraceView:
    """The methods of ``TraceStore`` for one run, over one engine: ``txn.traces``, and every facade call."""

    __slots__ = ("_engine", "_prefix")

    def __init__(self, engine: Engine, namespace: Namespace, run_id: str) -> None:
        self._engine = engine
        self._prefix = namespace.run_prefix(run_id) + _TAG

    def record(
        self,
        trace_type: TraceType,
        *,
        id: str | None = None,  # noqa: A002
        parent_id: str | None = None,
        tags: Iterable[str] = (),
        metadata: Value = None,
    ) -> str:
        """Record a trace, now, and return its id: ``id``, or one made for it."""
        return self._insert(trace_type, TraceOptions(id, parent_id, tags, metadata), now_ms())

    def record_child(
        self,
        parent_id: str,
        trace_type: TraceType,
        *,
        id: str | None = None,  # noqa: A002
        tags: Iterable[str] = (),
        metadata: Value = None,
    ) -> str:
        """``record`` below a parent, which must be given."""
        if parent_id is None:
            raise TypeError("parent_id is None; give the id of a trace, or use record for a root")
        return self._insert(trace_type, TraceOptions(id, parent_id, tags, metadata), now_ms())

    def record_with_options(self, trace_type: TraceType, options: TraceOptions) -> str:
        """``record`` with what it takes in one object."""
        if not isinstance(options, TraceOptions):
            raise TypeError(f"options has type {type(options).__name__}; give a TraceOptions")
        return self._insert(trace_type, options, now_ms())

    def get(self, trace_id: str) -> Trace | None:
        """The trace of that id, or None."""
        found = self._engine.find(self._prefix + RECORD + encode_text("trace_id", trace_id))
        return None if found is None else decode_trace(trace_id, found.value)

    def query_by_type(self, type: str | type[TraceType]) -> builtins.list[Trace]:  # noqa: A002
        """The traces whose ``type_name()`` this is; given a class as ``TraceType.Error``, the traces that are one."""
        return self._find(make_query(type=_given("type", type)))

    def query_by_tag(self, tag: str) -> builtins.list[Trace]:
        """The traces that have a tag."""
        return self._find(make_query(tag=_given("tag", tag)))

    def query_by_time(self, start: int, end: int) -> builtins.list[Trace]:
        """The traces recorded in ``[start, end)``, integer ms since the epoch."""
        return self._find(make_query(start=_given("start", start), end=_given("end", end)))

    def query(
        self,
        *,
        type: str | type[TraceType] | None = None,  # noqa: A002
        tag: str | None = None,
        start: int | None = None,
        end: int | None = None,
        parent_id: str | None = None,
        limit: int | None = None,
    ) -> builtins.list[Trace]:
        """The traces that are all of what is given, the first ``limit`` of them."""
        return self._find(make_query(type, tag, start, end, parent_id, limit))

    def get_children(self, parent_id: str) -> builtins.list[Trace]:
        """The traces recorded directly below one; none for an id nobody used."""
        return self._find(make_query(parent_id=_given("parent_id", parent_id)))

    def get_tree(self, root_id: str) -> TraceTree:
        """A trace and all its descendants. Raises ``NotFoundError`` if there is no such trace."""
        root = self.get(root_id)
        if root is None:
            raise NotFoundError(f"trace {root_id!r} does not exist in the run; list gives the ids there are")
        tree = TraceTree(root, [])
        pending, given = [tree], {root_id}
        while pending:
            node = pending.pop()
            for child in self.get_children(node.root.id):
                if child.id in given:
                    raise _circle(child.id)
                given.add(child.id)
                node.children.append(TraceTree(child, []))
            pending.extend(node.children)
        return tree

    def list(self) -> builtins.list[str]:
        """The ids of all traces, by time, then id."""
        index = self._prefix + BY_TIME
        return list(self._ids(index, index, after(index)))

    def count(self) -> int:
        """How many traces there are."""
        index = self._prefix + BY_TIME
        return sum(1 for _ in self._engine.scan(index, after(index)))

    def dump(self) -> Iterator[Trace]:
        """Every trace, a parent before its children, for ``restore``. Not of the public face: export and import.

        Reads on as it is iterated: call it on a snapshot's ``traces``.
        """
        given: set[str] = set()
        for trace_id in self.list():
            pending, above = [trace_id], {trace_id}
            # A clock set back puts children before their parents.
            while pending:
                trace = None if pending[-1] in given else self._load(pending[-1])
                if trace is not None and trace.parent_id is not None and trace.parent_id not in given:
                    if trace.parent_id in above:
                        raise _circle(trace.parent_id)
                    above.add(trace.parent_id)
                    pending.append(trace.parent_id)
                    continue
                given.add(pending.pop())
                if trace is not None:
                    yield trace

    def restore(self, trace: Trace) -> None:
        """Record a trace exactly as ``dump`` gave it, with its id and timestamp. Raises as ``record`` does."""
        check_integer("timestamp", trace.timestamp)
        if not 0 <= trace.timestamp <= _LATEST_MS:
            raise ValueError(f"timestamp is {trace.timestamp}; give 0 to 2**63 - 1 milliseconds since the epoch")
        options = TraceOptions(_given("id", trace.id), trace.parent_id, trace.tags, trace.metadata)
        self._insert(trace.trace_type, options, trace.timestamp)

    def _insert(self, trace_type: TraceType, options: TraceOptions, timestamp: int) -> str:
        trace_id = new_id() if options.id is None else options.id
        writes = encode_trace(self._prefix, trace_id, trace_type, options, timestamp)
        exists = f"trace {trace_id!r} exists already in the run; give another id, or none to have one made"
        required: list[bytes | str] = []
        parent_id = options.parent_id
        if parent_id is not None:
            missing = f"parent trace {parent_id!r} does not exist in the run; record it first, or leave parent_id out"
            required = [self._prefix + RECORD + parent_id.encode(), missing]
        self._engine.perform(operations.INSERT, [writes[0], exists, required, writes])
        return trace_id

    def _find(self, query: Query) -> builtins.list[Trace]:
        traces: list[Trace] = []
        if query.nothing():
            return traces
        index = query.index_prefix(self._prefix)
        for trace_id in self._ids(index, *query.bounds(index)):
            trace = self._load(trace_id)
            if query.matches(trace):
                traces.append(trace)
                # Stop here, not at the next key: what comes after was not read and need not stay as it is.
                if len(traces) == query.limit:
                    break
        return traces

    def _ids(self, index: bytes, lower: bytes, upper: bytes) -> Iterator[str]:
        start = len(index) + _TIME_BYTES
        for key, _ in self._engine.scan(lower, upper):
            yield decode_text(key[start:])

    def _load(self, trace_id: str) -> Trace:
        found = self._engine.find(self._prefix + RECORD + trace_id.encode())
        if found is None:
            raise CorruptionError("an index of the traces", 0, f"the record of trace {trace_id!r}", "none")
        return decode_trace(trace_id, found.value)


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

    Made for finding out later what happened, not for telemetry: a trace is 3 keys, one more for each tag and one for
    its parent, so recording one costs a few times a ``put``.

    Ids, tags, type names are strings of 1 to 1,024 bytes of UTF-8, any character; what a trace says, with its
    metadata, is at most 16 MiB. Timestamps are integer ms since the epoch, of the recording process's clock. Results
    are ordered by time, then id. Raises ``TypeError`` or ``ValueError`` for a bad argument and ``LimitExceededError``
    for one too large, before anything is sent; ``StoreFullError`` if there is no room.
    """

    __slots__ = ()
    view = TraceView

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
        """Record a trace and return its id: ``id``, or one made for it (a UUIDv7). Never conflicts.

        ``tags`` keep their order, each once; ``metadata`` is any value. Raises ``AlreadyExistsError`` for an id used
        before in the run, ``NotFoundError`` for a parent that is not there.
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
        """``record`` below a parent, which must be given; ``NotFoundError`` if it is not there."""
        return self._views[run_id].record_child(parent_id, trace_type, id=id, tags=tags, metadata=metadata)

    def record_with_options(self, run_id: str, trace_type: TraceType, options: TraceOptions) -> str:
        """``record`` with what it takes in one object."""
        return self._views[run_id].record_with_options(trace_type, options)

    def get(self, run_id: str, trace_id: str) -> Trace | None:
        """The trace of that id, or None."""
        return self._views[run_id].get(trace_id)

    def query_by_type(self, run_id: str, type: str | type[TraceType]) -> builtins.list[Trace]:  # noqa: A002
        """The traces whose ``type_name()`` is ``type``: of a ``Custom`` that is its own ``trace_type``.

        Given a class (``TraceType.Error``, ``TraceType.Custom``), the traces that are one, whatever their name.
        """
        with self._snapshot(run_id) as txn:
            return txn.traces.query_by_type(type)

    def query_by_tag(self, run_id: str, tag: str) -> builtins.list[Trace]:
        """The traces that have a tag."""
        with self._snapshot(run_id) as txn:
            return txn.traces.query_by_tag(tag)

    def query_by_time(self, run_id: str, start: int, end: int) -> builtins.list[Trace]:
        """The traces recorded in ``[start, end)``, integer ms since the epoch."""
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
        """The traces that are all of what is given (None is anything), the first ``limit`` of them.

        Looks through the children of ``parent_id``, else what has ``tag``, else what has ``type``, within the time.
        """
        with self._snapshot(run_id) as txn:
            return txn.traces.query(type=type, tag=tag, start=start, end=end, parent_id=parent_id, limit=limit)

    def get_children(self, run_id: str, parent_id: str) -> builtins.list[Trace]:
        """The traces recorded directly below one; none for an id nobody used."""
        with self._snapshot(run_id) as txn:
            return txn.traces.get_children(parent_id)

    def get_tree(self, run_id: str, root_id: str) -> TraceTree:
        """A trace and all its descendants, any depth, at one moment. ``NotFoundError`` if there is no such trace."""
        with self._snapshot(run_id) as txn:
            return txn.traces.get_tree(root_id)

    def list(self, run_id: str) -> builtins.list[str]:
        """The ids of all traces, by time, then id."""
        return self._views[run_id].list()

    def count(self, run_id: str) -> int:
        """How many traces there are."""
        return self._views[run_id].count()


def _circle(trace_id: str) -> CorruptionError:
    """A parent is there before its children, so no primitive writes such records."""
    return CorruptionError("the records of traces", 0, "no trace below itself", f"trace {trace_id!r} there")


def _given(what: str, value: T) -> T:
    """Refuse None where it does not mean anything."""
    if value is None:
        raise TypeError(f"{what} is None; it must be given")
    return value
