"""``shoal runs``, ``events`` and ``trace``: the contents of a store as text; with ``--json`` as lines of an export."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from shoal.database import Database
from shoal.fleet import without_worker
from shoal.primitives.engine import Engine
from shoal.primitives.event_types import Event
from shoal.primitives.facades.event_log import EventLog
from shoal.primitives.facades.run_index import RunIndex
from shoal.primitives.keys import Namespace
from shoal.primitives.rules.retention.upkeep import upkeep
from shoal.primitives.run_contents import holds_anything
from shoal.primitives.run_scan import namespaces, runs_held
from shoal.primitives.run_types import RunMetadata, RunQuery
from shoal.primitives.trace_types import Trace
from shoal.primitives.views.cells import State
from shoal.primitives.views.runs import RunsView
from shoal.shm.clock import now_ms
from shoal.shm.errors import NotFoundError
from shoal.transfer import json_lines, records
from shoal.transfer.records import ExportRecord

_NO_BOUND = 1 << 62  # of the keys that are looked at
_LONGEST_VALUE = 300  # characters shown of a value
_DEEPEST_INDENT = 32  # levels of a tree that are indented further than the one before
_HEADS = ("RUN", "PARENT", "STATUS", "CREATED", "UPDATED", "TAGS")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def run_lines(db: Database, only: Namespace | None, as_json: bool) -> Iterator[str]:
    """A table of the runs of the namespace ``only``, or one table per namespace, each below its name.

    Registered runs come first, in order of registration, then runs that hold something and were never registered.
    """
    view = db._store.begin(read_only=True)
    try:
        spaces = list(namespaces(view)) if only is None else [only]
        for namespace in spaces:
            registered, others = _runs(view, namespace)
            if as_json:
                yield from (_as_json("run", namespace, run.run_id, run) for run in registered)
                continue
            if len(spaces) > 1 or namespace != Namespace():
                yield f"namespace {'/'.join(map(plain, (namespace.tenant, namespace.app, namespace.agent)))}"
            alone = without_worker(db, view, registered) if namespace == Namespace() else set()
            yield from _table(
                [_row(run, run.run_id in alone) for run in registered]
                + [(plain(run_id), "", "-", "", "", "") for run_id in others]
            )
    finally:
        view.abandon()


def event_lines(db: Database, namespace: Namespace, run_id: str, as_json: bool) -> Iterator[str]:
    """One line for each event of a run; ``NotFoundError`` if there is no such run."""
    _must_exist(db, namespace, run_id)
    for event in EventLog(db, namespace=namespace).iter(run_id):
        if as_json:
            yield _as_json("event", namespace, run_id, event)
        else:
            kind, payload = plain(event.event_type), short(event.payload)
            yield f"{event.sequence:<6} {timestamp_text(event.timestamp)}  {kind}  {payload}"


def trace_lines(db: Database, namespace: Namespace, run_id: str, root_id: str | None, as_json: bool) -> Iterator[str]:
    """The tree of ``root_id``, or all trees of a run; ``NotFoundError`` if there is no such run or trace."""
    _must_exist(db, namespace, run_id)
    with db.snapshot(run_id, namespace=namespace) as view:
        if root_id is not None and view.traces.get(root_id) is None:  # the primitive's error names a method
            raise NotFoundError(
                f"there is no trace {root_id!r} in run {run_id!r}; without ROOT shoal trace shows all, with their ids"
            )
        for trace_id in view.traces.list() if root_id is None else [root_id]:
            if root_id is None:
                trace = view.traces.get(trace_id)
                if trace is None or trace.parent_id is not None:
                    continue
            for depth, trace in view.traces.get_tree(trace_id).walk():
                yield _as_json("trace", namespace, run_id, trace) if as_json else _trace_line(depth, trace)


def reclaimable(db: Database) -> str:
    """What the retention policies of a store do not keep and is still there, in words."""
    snapshot = db._store.begin(read_only=True)
    try:
        removed = upkeep(snapshot.find, snapshot.scan, b"", now_ms(), _NO_BOUND).removed
    finally:
        snapshot.abandon()
    counts = [f"{count:,} {name if count != 1 else name[:-1]}" for name, count in sorted(removed.items()) if count]
    return ", ".join(counts) or "nothing"


def diff_lines(db: Database, namespace: Namespace, run_a: str, run_b: str, as_json: bool) -> Iterator[str]:
    """One line for each thing that two runs differ in; ``NotFoundError`` if there is no such run."""
    found = RunIndex(db, namespace=namespace).diff(run_a, run_b)
    for kind, differences in found._asdict().items():
        for name, a, b in differences:
            if as_json:
                yield json_lines.dump_text({"kind": kind, "name": name, "a": _as_value(a), "b": _as_value(b)})
            else:
                yield f"{kind:7} {plain(str(name))}: {_as_text(a)} -> {_as_text(b)}"


def _as_value(found: Any) -> Any:
    """What a run has of a difference, as JSON takes it: a cell, an event or a trace as an object."""
    if isinstance(found, Trace):
        return records.show_trace(found)
    return vars(found) if isinstance(found, (State, Event)) else found


def _as_text(found: Any) -> str:
    if found is None:
        return "-"
    if isinstance(found, State):
        return f"{short(found.value)} (version {found.version})"
    if isinstance(found, Event):
        return f"{plain(found.event_type)} {short(found.payload)}"
    return _trace_line(0, found) if isinstance(found, Trace) else short(found)


def plain(text: str) -> str:
    """A text as it is if all of it is printable, else as JSON: control characters would act on the terminal."""
    return text if text.isprintable() else json_lines.dump_text(text)


def short(value: Any) -> str:
    """A value as JSON, cut after 300 characters."""
    text = json_lines.readable(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}... ({len(text):,} characters)"


def timestamp_text(ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601 in UTC; beyond the year 9999 the number itself."""
    try:
        return (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError:
        return str(ms)


def _runs(view: Engine, namespace: Namespace) -> tuple[list[RunMetadata], list[str]]:
    registered = RunsView(view, namespace).query_runs(RunQuery(include_archived=True))
    known = {run.run_id for run in registered}
    return registered, [run_id for run_id, _ in runs_held(view, namespace) if run_id not in known]


def _row(run: RunMetadata, is_alone: bool) -> tuple[str, ...]:
    parent = "" if run.parent_run is None else plain(run.parent_run)
    tags = ", ".join(map(plain, run.tags))
    return (
        plain(run.run_id),
        parent,
        f"{run.status.value}, its worker is gone" if is_alone else run.status.value,
        timestamp_text(run.created_at),
        timestamp_text(run.updated_at),
        tags,
    )


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in [_HEADS, *rows]) for i in range(len(_HEADS))]
    for row in [_HEADS, *rows]:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _trace_line(depth: int, trace: Trace) -> str:
    kind, fields = plain(trace.trace_type.type_name()), records.show_trace(trace)["fields"]
    shown = " ".join(f"{name}={short(value)}" for name, value in fields.items() if value is not None)
    level = f"({depth}) " if depth > _DEEPEST_INDENT else ""
    tags = f"  [{', '.join(map(plain, trace.tags))}]" if trace.tags else ""
    indent = "  " * min(depth, _DEEPEST_INDENT)
    return f"{indent}{level}{timestamp_text(trace.timestamp)} {kind} {shown}{tags}  {plain(trace.id)}"


def _as_json(kind: str, namespace: Namespace, run_id: str, item: Any) -> str:
    return json_lines.dump_text(records.to_fields(ExportRecord(kind, namespace, run_id, item)))


def _must_exist(db: Database, namespace: Namespace, run_id: str) -> None:
    engine = db._store.auto_commit
    registered = RunsView(engine, namespace).get_run(run_id) is not None
    if not registered and not holds_anything(engine, namespace._run_prefix(run_id)):
        raise NotFoundError(f"there is no run {run_id!r} here; shoal runs lists those there are")
