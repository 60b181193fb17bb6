"""The traces of one run over one engine; ``trace_index`` has their keys and records.

A trace is recorded by one operation, which checks that its id is new and its parent there. A call that reads
an index and then the records it names does so at one snapshot.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator
from typing import TypeVar

from shoal.primitives.engine import Engine
from shoal.primitives.identifiers import new_id
from shoal.primitives.keys import Namespace, after, decode_text, encode_text
from shoal.primitives.rules import requests
from shoal.primitives.rules.layouts.trace_keys import BY_TIME, RECORD
from shoal.primitives.rules.tags import Tag
from shoal.primitives.trace_index import Query, check_time, decode_trace, encode_trace, make_query
from shoal.primitives.trace_types import Trace, TraceOptions, TraceTree, TraceType
from shoal.primitives.views.view import View
from shoal.shm.arguments import check_type, text_of
from shoal.shm.clock import now_ms
from shoal.shm.codec import Value
from shoal.shm.errors import CorruptionError, NotFoundError
from shoal.shm.limits import MAX_TIME_MS

T = TypeVar("T")

_TAG = bytes((Tag.TRACE,))
_TIME_BYTES = 8


class TraceView(View):
    """The methods of ``TraceStore`` for one run, without ``run_id``: ``txn.traces``.

    >>> import shoal, tempfile
    >>> from shoal import TraceType
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     with db.transaction("run-1") as txn:
    ...         root = txn.traces.record(TraceType.Thought("look at the log"), tags=["debug"])
    ...         child = txn.traces.record_child(root, TraceType.Query("grep", "error", 3))
    ...         [trace.trace_type.query for trace in txn.traces.get_children(root)], txn.traces.count()
    (['error'], 2)

    What a method returns is known at once and validated at commit. Any call may also raise ``InvalidOperationError``
    (the transaction has ended, or only reads), ``SnapshotExpiredError`` (its snapshot was revoked) and
    ``CorruptionError`` (a record is none). ``Transaction`` says what the commit may raise.
    """

    __slots__ = ("_prefix",)

    def __init__(self, engine: Engine, namespace: Namespace, run_id: str) -> None:
        self._engine = engine
        self._prefix = namespace._run_prefix(run_id) + _TAG

    def record(
        self,
        trace_type: TraceType,
        *,
        id: str | None = None,  # noqa: A002
        parent_id: str | None = None,
        tags: Iterable[str] = (),
        metadata: Value = None,
    ) -> str:
        """Record a trace with the time of now, and return its id: ``id``, or one made for it (a UUIDv7).

        Raises ``AlreadyExistsError`` for an id used before in the run, ``NotFoundError`` for a parent that is not
        there, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
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
        """``record`` below a parent, which must be given.

        Raises ``NotFoundError`` if the parent is not there, ``AlreadyExistsError`` for an id used before in the run,
        and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        if parent_id is None:
            raise TypeError("parent_id is None; give the id of a trace, or use record for a root")
        return self._insert(trace_type, TraceOptions(id, parent_id, tags, metadata), now_ms())

    def record_with_options(self, trace_type: TraceType, options: TraceOptions) -> str:
        """``record`` with its keywords in one object.

        Raises ``AlreadyExistsError`` for an id used before in the run, ``NotFoundError`` for a parent that is not
        there, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        check_type("options", options, TraceOptions, "a TraceOptions")
        return self._insert(trace_type, options, now_ms())

    def get(self, trace_id: str) -> Trace | None:
        """The trace of that id, or None.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad id.
        """
        found = self._engine.find(self._prefix + RECORD + encode_text("trace_id", trace_id))
        return None if found is None else decode_trace(text_of(trace_id), found.value)

    def query_by_type(self, type: str | type[TraceType]) -> builtins.list[Trace]:  # noqa: A002
        """The traces with this ``type_name()``, or of this class (``TraceType.Error``).

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad type.
        """
        return self._find(make_query(type=_given("type", type)))

    def query_by_tag(self, tag: str) -> builtins.list[Trace]:
        """The traces that have a tag.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad tag.
        """
        return self._find(make_query(tag=_given("tag", tag)))

    def query_by_time(self, start: int, end: int) -> builtins.list[Trace]:
        """The traces recorded in ``[start, end)``, integer ms since the epoch. ``TypeError`` for other bounds."""
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
        """The traces that match all given arguments, the first ``limit`` of them; None matches any trace.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        return self._find(make_query(type, tag, start, end, parent_id, limit))

    def get_children(self, parent_id: str) -> builtins.list[Trace]:
        """The traces recorded directly below one; none for an id that was never used.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad id.
        """
        return self._find(make_query(parent_id=_given("parent_id", parent_id)))

    def get_tree(self, root_id: str) -> TraceTree:
        """A trace and all its descendants, at any depth.

        Raises ``NotFoundError`` if there is no such trace, and ``TypeError``, ``ValueError`` or ``LimitExceededError``
        for a bad id.
        """
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

    def _insert(self, trace_type: TraceType, options: TraceOptions, timestamp: int) -> str:
        trace_id = new_id() if options.id is None else options.id
        writes = encode_trace(self._prefix, trace_id, trace_type, options, timestamp)
        exists = f"trace {trace_id!r} exists already in the run; give another id, or none to have one made"
        required: list[bytes | str] = []
        parent_id = options.parent_id
        if parent_id is not None:
            missing = f"parent trace {parent_id!r} does not exist in the run; record it first, or leave parent_id out"
            required = [self._prefix + RECORD + parent_id.encode(), missing]
        return self._ask(text_of(trace_id), exists, required, writes)

    def _ask(
        self, trace_id: str, exists: str, required: builtins.list[bytes | str], writes: builtins.list[bytes]
    ) -> str:
        requests.insert(self._engine, exists, required, writes)
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


def dump(view: TraceView) -> Iterator[Trace]:
    """Every trace, a parent before its children, for ``restore``. It reads on as it is iterated: use a snapshot.

    A clock that was set back gives children an earlier time than their parents, so order by time is not enough.
    """
    given: set[str] = set()
    for trace_id in view.list():
        pending, above = [trace_id], {trace_id}
        while pending:
            trace = None if pending[-1] in given else view._load(pending[-1])
            if trace is not None and trace.parent_id is not None and trace.parent_id not in given:
                if trace.parent_id in above:
                    raise _circle(trace.parent_id)
                above.add(trace.parent_id)
                pending.append(trace.parent_id)
                continue
            given.add(pending.pop())
            if trace is not None:
                yield trace


def restore(view: TraceView, trace: Trace) -> None:
    """Record a trace of an export as ``dump`` gave it, with its id and timestamp. Raises what ``record`` does."""
    if not 0 <= check_time("timestamp", trace.timestamp) <= MAX_TIME_MS:
        raise ValueError(f"timestamp is {trace.timestamp}; give 0 to 2**63 - 1 milliseconds since the epoch")
    options = TraceOptions(_given("id", trace.id), trace.parent_id, trace.tags, trace.metadata)
    view._insert(trace.trace_type, options, trace.timestamp)


def _circle(trace_id: str) -> CorruptionError:
    """A parent is recorded before its children, so no primitive writes such records."""
    return CorruptionError("the records of traces", 0, "no trace below itself", f"trace {trace_id!r} there")


def _given(what: str, value: T) -> T:
    """``value``; ``TypeError`` for None, where it does not mean anything."""
    if value is None:
        raise TypeError(f"{what} is None; it must be given")
    return value
