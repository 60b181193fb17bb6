"""The records of an export: their form as JSON objects, how they are read from a store and written back.

    line 1      {"shoal_export":1}                  the format
    record      {"kind":KIND,"run_id":ID, ...}      one line each; "namespace":[tenant,app,agent] if not the default one
    last line   {"kind":"end","records":N,"xxh3":hex}    xxh3-128 of all bytes before it

    kind        fields beside kind, run_id and namespace
    run         parent_run status created_at updated_at completed_at tags metadata error       a registered run
    kv          key value expires_at
    trimmed     first_sequence prev_hash origin chain timestamp                                 see ``trimmed_records``
    event       sequence event_type payload timestamp prev_hash hash                            hashes in hex
    state       name version updated_at value            without value: deleted, its version stays used up
    trace       id parent_id type fields timestamp tags metadata
    task        id sequence status priority attempt max_attempts created_at due_at payload result error key
    lease       name token slot pid ttl_ms                                                      see ``lease_records``
    consumer    name position                                                                   see ``consumer_records``
    result      key value expires_at                                                     see ``idempotency_records``
    effect      key started_at result                                                    see ``idempotency_records``
    budget      name limit used refill_per_s refilled_at                                      see ``budget_records``
    retention   events event_age trace_age archived_age task_age           run_id may be null, see ``retention_records``

Times are integer ms since the epoch (UTC); values are written as ``json_lines`` says. Order: by namespace; in each
namespace first all records of kind run, then its retention policy, then run by run the other kinds, in the order above.
Events are in sequence from 0 or from where the log was trimmed, a trace comes after its parent, and all others are
sorted by key or name. Nothing else is in an export, so the same contents give the same bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from shoal.primitives import trace_index
from shoal.primitives.engine import Engine
from shoal.primitives.event_types import Event
from shoal.primitives.keys import Namespace, encode_text
from shoal.primitives.rules.cell_rules import CellRecord, encode_record
from shoal.primitives.rules.hash_chain import canonical
from shoal.primitives.rules.tags import Tag
from shoal.primitives.run_scan import namespaces, runs_held
from shoal.primitives.run_types import RunMetadata, RunQuery, RunStatus, encode_run
from shoal.primitives.trace_types import KINDS as TRACE_KINDS
from shoal.primitives.trace_types import Trace, TraceOptions
from shoal.primitives.views import cells, events, kv, runs, traces
from shoal.primitives.views.cells import StateView
from shoal.primitives.views.events import EventView
from shoal.primitives.views.kv import KVView, Pair
from shoal.primitives.views.runs import RunsView
from shoal.primitives.views.traces import TraceView
from shoal.shm import codec
from shoal.shm.errors import CorruptionError
from shoal.transfer import (
    budget_records,
    consumer_records,
    idempotency_records,
    lease_records,
    retention_records,
    task_records,
    trimmed_records,
)
from shoal.transfer.fields import Fields, RecordKind, check_names, check_tags, check_whole, hash_of

FORMAT = 1
HEADER = {"shoal_export": FORMAT}
END = "end"

# A bound of a record's size in a commit beside the texts of its keys and its values.
_RECORD_BYTES = 256


class Cell(NamedTuple):
    """A cell with its name."""

    name: str
    record: CellRecord


class ExportRecord(NamedTuple):
    """One line of an export. ``item``: a RunMetadata, Pair, Trimmed, Event, Cell, Trace and so on, as ``kind`` says.

    ``run_id`` is "" of the retention policy of a namespace, which no run has.
    """

    kind: str
    namespace: Namespace
    run_id: str
    item: Any


def read_all(engine: Engine) -> Iterator[ExportRecord]:
    """Every record that ``engine`` shows, in the order of an export; ``CorruptionError`` for a broken event log."""
    for namespace in namespaces(engine):
        for run in RunsView(engine, namespace).query_runs(RunQuery(include_archived=True)):
            yield ExportRecord("run", namespace, run.run_id, run)
        for policy in retention_records.facts(engine, namespace, ""):
            yield ExportRecord("retention", namespace, "", policy)
        for run_id, source in runs_held(engine, namespace):
            for name, kind in KINDS.items():
                for item in kind.read(source, namespace, run_id):
                    yield ExportRecord(name, namespace, run_id, item)


def to_fields(record: ExportRecord) -> Fields:
    """The JSON object of a record."""
    fields: Fields = {"kind": record.kind}
    if record.namespace != _DEFAULT_NAMESPACE:
        fields["namespace"] = [record.namespace.tenant, record.namespace.app, record.namespace.agent]
    return fields | {"run_id": record.run_id or None} | KINDS[record.kind].show(record.item)


def from_fields(fields: Any) -> ExportRecord:
    """The record of a JSON object; ``TypeError``, ``ValueError`` or ``ShoalError`` if it is not a record."""
    if not isinstance(fields, dict):
        raise TypeError(f"it is a {type(fields).__name__}, not an object")
    rest = dict(fields)
    kind = rest.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"its kind is {kind!r:.100}, not one of {', '.join(KINDS)}")
    namespace = _namespace(rest.pop("namespace")) if "namespace" in rest else _DEFAULT_NAMESPACE
    run_id = rest.pop("run_id", None)
    if kind == "retention" and run_id is None:
        run_id = ""
    else:
        namespace._run_prefix(run_id)
    return ExportRecord(kind, namespace, run_id, KINDS[kind].make(run_id, rest))


def size_of(record: ExportRecord) -> int:
    """A bound of the record's size in a commit, in bytes. Checks all of it, as the primitives do before they write."""
    namespace, run_id = record.namespace, record.run_id
    prefix = namespace._run_prefix(run_id) if run_id else namespace._runs_prefix()
    return KINDS[record.kind].size(prefix, record.item)


def restore(engine: Engine, record: ExportRecord) -> None:
    """Write a record with its indices through the primitives; ``AlreadyExistsError`` if what it names is there."""
    KINDS[record.kind].restore(engine, record.namespace, record.run_id, record.item)


# --- run ------------------------------------------------------------------------------------------------------------


def _show_run(run: RunMetadata) -> Fields:
    return {name: getattr(run, name) for name in _RUN_NAMES} | {"status": run.status.value}


def _make_run(run_id: str, fields: Fields) -> RunMetadata:
    check_names("run", fields, _RUN_NAMES)
    check_tags(fields["tags"])
    return RunMetadata(**{**fields, "run_id": run_id, "status": RunStatus(fields["status"])})


def _read_run(engine: Engine, namespace: Namespace, run_id: str) -> Iterator[RunMetadata]:
    return iter(())  # of all runs of a namespace together: ``read_all``


def _restore_run(engine: Engine, namespace: Namespace, run_id: str, run: RunMetadata) -> None:
    runs.restore(RunsView(engine, namespace), run)


def _size_run(prefix: bytes, run: RunMetadata) -> int:
    keys = [*run.tags, run.parent_run or "", "", "", ""]
    return len(encode_run(run)) + sum(2 * len(prefix) + _RECORD_BYTES + len(key.encode()) for key in keys)


# --- kv -------------------------------------------------------------------------------------------------------------


def _show_pair(pair: Pair) -> Fields:
    return {"key": pair.key, "value": pair.value, "expires_at": pair.expires_ms or None}


def _make_pair(run_id: str, fields: Fields) -> Pair:
    check_names("kv", fields, _KV_NAMES)
    expires_ms = fields["expires_at"]
    if expires_ms is not None:
        check_whole("expires_at", expires_ms, 1)
    return Pair(fields["key"], fields["value"], expires_ms or 0)


def _read_pairs(engine: Engine, namespace: Namespace, run_id: str) -> Iterator[Pair]:
    return kv.pairs(KVView(engine, namespace, run_id))


def _restore_pair(engine: Engine, namespace: Namespace, run_id: str, pair: Pair) -> None:
    kv.restore(KVView(engine, namespace, run_id), pair)


def _size_pair(prefix: bytes, pair: Pair) -> int:
    return _RECORD_BYTES + len(prefix) + len(encode_text("key", pair.key)) + len(codec.encode(pair.value))


# --- event ----------------------------------------------------------------------------------------------------------


def _show_event(event: Event) -> Fields:
    hashes = {"prev_hash": event.prev_hash.hex(), "hash": event.hash.hex()}
    return {name: getattr(event, name) for name in _EVENT_NAMES} | hashes


def _make_event(run_id: str, fields: Fields) -> Event:
    check_names("event", fields, _EVENT_NAMES)
    check_whole("sequence", fields["sequence"], 0)
    check_whole("timestamp", fields["timestamp"], 0)
    return Event(**{**fields, "prev_hash": hash_of(fields["prev_hash"]), "hash": hash_of(fields["hash"])})


def _read_events(engine: Engine, namespace: Namespace, run_id: str) -> Iterator[Event]:
    log = EventView(engine, namespace, run_id)
    found = log.verify_chain()
    if not found.is_valid:
        raise CorruptionError(f"the event log of run {run_id!r}", 0, "events that fit each other", str(found.error))
    yield from log.iter()


def _restore_event(engine: Engine, namespace: Namespace, run_id: str, event: Event) -> None:
    events.restore(EventView(engine, namespace, run_id), [event])


def _size_event(prefix: bytes, event: Event) -> int:
    return (
        _RECORD_BYTES
        + 3 * len(prefix)
        + 2 * len(encode_text("event_type", event.event_type))
        + len(canonical(event.payload))
    )


# --- state ----------------------------------------------------------------------------------------------------------


def _show_cell(cell: Cell) -> Fields:
    version, updated_at, value = cell.record
    fields = {"name": cell.name, "version": version, "updated_at": updated_at}
    return fields if value is None else fields | {"value": codec.stored(value, f"cell {cell.name!r}")}


def _make_cell(run_id: str, fields: Fields) -> Cell:
    is_deleted = "value" not in fields
    check_names("state", fields, _STATE_NAMES[:-1] if is_deleted else _STATE_NAMES)
    check_whole("version", fields["version"], 1)
    check_whole("updated_at", fields["updated_at"], 0)
    value = None if is_deleted else codec.encode(fields["value"])
    return Cell(fields["name"], CellRecord(fields["version"], fields["updated_at"], value))


def _read_cells(engine: Engine, namespace: Namespace, run_id: str) -> Iterator[Cell]:
    for name, record in cells.records(StateView(engine, namespace, run_id)):
        yield Cell(name, record)


def _restore_cell(engine: Engine, namespace: Namespace, run_id: str, cell: Cell) -> None:
    cells.restore(StateView(engine, namespace, run_id), cell.name, cell.record)


def _size_cell(prefix: bytes, cell: Cell) -> int:
    return _RECORD_BYTES + len(prefix) + len(encode_text("name", cell.name)) + len(encode_record(cell.record))


# --- trace ----------------------------------------------------------------------------------------------------------


def show_trace(trace: Trace) -> Fields:
    """The fields of a trace; its type's own attributes are in ``fields``."""
    trace_type = trace.trace_type
    fields = {name: getattr(trace_type, name) for name in type(trace_type).__dataclass_fields__}  # type: ignore[attr-defined]
    return {
        "id": trace.id,
        "parent_id": trace.parent_id,
        "type": type(trace_type).__name__,
        "fields": fields,
        "timestamp": trace.timestamp,
        "tags": trace.tags,
        "metadata": trace.metadata,
    }


def _make_trace(run_id: str, fields: Fields) -> Trace:
    check_names("trace", fields, _TRACE_NAMES)
    check_whole("timestamp", fields["timestamp"], 0)
    check_tags(fields["tags"])
    kind, attributes = fields["type"], fields["fields"]
    if not isinstance(kind, str) or kind not in TRACE_KINDS:
        raise ValueError(f"type of the trace is {kind!r:.100}; it is one of {', '.join(TRACE_KINDS)}")
    names = tuple(TRACE_KINDS[kind].__dataclass_fields__)  # type: ignore[attr-defined]
    if not isinstance(attributes, dict):
        raise TypeError(f"fields of the trace has type {type(attributes).__name__}; it is an object")
    check_names(kind, attributes, names)
    trace_type = TRACE_KINDS[kind](**attributes)
    encode_text("id", fields["id"])
    timestamp, tags, metadata = fields["timestamp"], fields["tags"], fields["metadata"]
    return Trace(fields["id"], fields["parent_id"], trace_type, timestamp, tags, metadata)


def _read_traces(engine: Engine, namespace: Namespace, run_id: str) -> Iterator[Trace]:
    return traces.dump(TraceView(engine, namespace, run_id))


def _restore_trace(engine: Engine, namespace: Namespace, run_id: str, trace: Trace) -> None:
    traces.restore(TraceView(engine, namespace, run_id), trace)


def _size_trace(prefix: bytes, trace: Trace) -> int:
    options = TraceOptions(trace.id, trace.parent_id, trace.tags, trace.metadata)
    tag = bytes((Tag.TRACE,))
    writes = trace_index.encode_trace(prefix + tag, trace.id, trace.trace_type, options, trace.timestamp)
    return _RECORD_BYTES * len(writes) + sum(map(len, writes))


# --- shared by all kinds --------------------------------------------------------------------------------------------


def _namespace(parts: object) -> Namespace:
    if not isinstance(parts, list) or len(parts) != 3 or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"namespace is {parts!r:.100}, not a list [tenant, app, agent]")
    return _known_namespace(*parts)


# The same object for the same namespace, because a Namespace caches the prefixes of its runs.
_known_namespace = functools.lru_cache(maxsize=16)(Namespace)


_DEFAULT_NAMESPACE = Namespace()
_RUN_NAMES = ("parent_run", "status", "created_at", "updated_at", "completed_at", "tags", "metadata", "error")
_KV_NAMES = ("key", "value", "expires_at")
_EVENT_NAMES = ("sequence", "event_type", "payload", "timestamp", "prev_hash", "hash")
_STATE_NAMES = ("name", "version", "updated_at", "value")
_TRACE_NAMES = ("id", "parent_id", "type", "fields", "timestamp", "tags", "metadata")


def _unsorted(_item: Any) -> tuple[str, int]:
    return "", 0


KINDS = {
    "run": RecordKind(_show_run, _make_run, _size_run, _read_run, _restore_run, _unsorted),
    "kv": RecordKind(_show_pair, _make_pair, _size_pair, _read_pairs, _restore_pair, lambda pair: (pair.key, 0)),
    "trimmed": trimmed_records.KIND,
    "event": RecordKind(_show_event, _make_event, _size_event, _read_events, _restore_event, _unsorted),
    "state": RecordKind(_show_cell, _make_cell, _size_cell, _read_cells, _restore_cell, lambda cell: (cell.name, 0)),
    "trace": RecordKind(show_trace, _make_trace, _size_trace, _read_traces, _restore_trace, _unsorted),
    "task": task_records.KIND,
    "lease": lease_records.KIND,
    "result": idempotency_records.RESULT,
    "effect": idempotency_records.EFFECT,
    "budget": budget_records.KIND,
    "retention": retention_records.KIND,
    "consumer": consumer_records.KIND,
}
