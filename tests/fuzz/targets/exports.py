"""What ``shoal import`` is given."""

from __future__ import annotations

import io
from typing import Any

from shoal.primitives.trace_types import TraceType
from shoal.primitives.views.cells import StateView
from shoal.primitives.views.events import EventView
from shoal.primitives.views.kv import KVView
from shoal.primitives.views.runs import RunsView
from shoal.primitives.views.traces import TraceView
from shoal.shm.errors import ShoalError
from shoal.transfer import json_lines, records
from shoal.transfer.import_check import Contents, ExportFormatError, read
from tests.fuzz.target import encoded, parts_of, script, target
from tests.fuzz.targets.stored import NAMESPACE, DictEngine
from tests.support.stores.full_store import NASTY, VALUES, sealed


def _lines() -> list[bytes]:
    engine = DictEngine()
    RunsView(engine, NAMESPACE).create_run(run_id="r", tags=["t"], metadata={"k": 1})
    kv = KVView(engine, NAMESPACE, "r")
    events = EventView(engine, NAMESPACE, "r")
    cells = StateView(engine, NAMESPACE, "r")
    traces = TraceView(engine, NAMESPACE, "r")
    for i, value in enumerate(VALUES):
        kv.put(f"key-{i}", value)
        events.append(NASTY[i % len(NASTY)], value)
        cells.set(f"cell-{i}", value)
    cells.delete("cell-1")
    traces.record(TraceType.ToolCall("read", {"p": b"x"}), id="a", tags=["t"])
    traces.record(TraceType.Thought("hm"), id="b", parent_id="a")
    return [json_lines.dump(records.to_fields(record)) for record in records.read_all(engine)]


def _seeds() -> list[bytes]:
    lines = _lines()
    header = json_lines.dump(records.HEADER)
    few = [line for line in lines if b"key-1" in line or b"cell-1" in line or b'"run"' in line or b'"trace"' in line]
    return [
        script(*lines),
        script(*few),
        *(script(line) for line in lines[:: max(1, len(lines) // 20)]),
        sealed([header, *few]),
        b"[" * 100_000,
        script(b'{"kind":' * 3000),
    ]


@target(_seeds)
def export(data: bytes) -> None:
    """A file is checked whole before anything is written: ExportFormatError, or records that a store takes back."""
    parts = parts_of(data)
    raw = data
    if parts is not None:
        lines = [encoded(line).rstrip(b"\n").replace(b"\n", b" ") + b"\n" for line in parts]
        raw = sealed([json_lines.dump(records.HEADER), *lines])
    found: list[Any] = []
    try:
        for record, size in read(io.BytesIO(raw), "f", Contents()):
            assert size >= 0
            found.append(record)
    except ExportFormatError:
        return
    engine = DictEngine()
    for record in found:
        try:
            records.restore(engine, record)
        except ShoalError as error:
            raise AssertionError(f"what the check let pass was refused: {error}") from error
    again = [json_lines.dump(records.to_fields(record)) for record in records.read_all(engine)]
    assert len(again) <= len(found)


@target(lambda: [json_lines.dump(value) for value in VALUES])
def json_line(data: bytes) -> None:
    """A line of JSON is a value that ``dump`` writes again, or ValueError."""
    try:
        found = json_lines.load(data)
    except ValueError:
        return
    line = json_lines.dump(found)
    assert json_lines.dump(json_lines.load(line)) == line
