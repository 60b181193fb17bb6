"""What every primitive holds, indices and chains included, is the same after any way a store can end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import RunQuery, RunStatus, TraceType
from tests.support.slow import slow

RUN = "run"


def _fill(db: shoal.Database, prefix: str) -> None:
    """Some of everything, deleted and overwritten things too."""
    kv, log, cell = shoal.KVStore(db), shoal.EventLog(db), shoal.StateCell(db)
    traces, runs = shoal.TraceStore(db), shoal.RunIndex(db)
    secured = shoal.EventLog(db, chain="sha256")
    for i in range(20):
        kv.put(RUN, f"{prefix}/{i}", {"n": [i, float(i), str(i)]})
        log.append(RUN, f"{prefix}-{i % 3}", i)
        secured.append(f"{RUN}-sha", prefix, i)
    kv.delete(RUN, f"{prefix}/3")
    kv.put(RUN, f"{prefix}/long", 1, ttl=1e6)
    cell.init(RUN, f"{prefix}-cell", 0)
    cell.init(RUN, f"{prefix}-gone", 0)
    for _ in range(3):
        cell.transition(RUN, f"{prefix}-cell", lambda s: (s.value + 1, None))
    cell.delete(RUN, f"{prefix}-gone")
    root = traces.record(RUN, TraceType.Thought("root", 0.5), id=f"{prefix}-root", tags=["a", prefix])
    child = traces.record_child(RUN, root, TraceType.ToolCall("grep", {"q": b"\0"}), id=f"{prefix}-child")
    traces.record_child(RUN, child, TraceType.Custom("mine", [1, None]), tags=["a"], metadata={"k": prefix})
    runs.create_run(run_id=f"{prefix}-parent", tags=["x"], metadata={"m": 1})
    runs.create_run(run_id=f"{prefix}-child", parent_run=f"{prefix}-parent")
    runs.fail_run(f"{prefix}-child", "broke")
    kv.put(f"{prefix}-parent", "copied", 1)
    runs.fork_run(f"{prefix}-parent", new_run_id=f"{prefix}-fork")
    kv.put(f"{prefix}-deleted", "k", 1)
    runs.delete_run(f"{prefix}-deleted")


def _contents(db: shoal.Database, prefixes: list[str]) -> dict[str, Any]:
    """Everything as the primitives tell it, through every index."""
    kv, log, cell = shoal.KVStore(db), shoal.EventLog(db), shoal.StateCell(db)
    traces, runs = shoal.TraceStore(db), shoal.RunIndex(db)
    found: dict[str, Any] = {
        "kv": kv.list_with_values(RUN),
        "events": log.read_range(RUN, 0, 10**6),
        "chain": log.verify_chain(RUN),
        "sha chain": log.verify_chain(f"{RUN}-sha"),
        "anchors": [log.anchor(RUN), log.anchor(f"{RUN}-sha")],
        "by type": [log.read_by_type(RUN, f"{prefix}-{i}") for prefix in prefixes for i in range(3)],
        "cells": [(name, cell.read(RUN, name)) for name in cell.list(RUN)],
        "traces": [traces.get(RUN, identifier) for identifier in traces.list(RUN)],
        "by tag": [traces.query_by_tag(RUN, tag) for tag in ("a", *prefixes)],
        "by trace type": [traces.query_by_type(RUN, name) for name in ("Thought", "ToolCall")],
        "trees": [traces.get_tree(RUN, f"{prefix}-root") for prefix in prefixes],
        "runs": runs.query_runs(RunQuery(include_archived=True)),
        "failed": runs.query_runs(RunQuery(status=RunStatus.Failed)),
        "tagged": runs.query_runs(RunQuery(tags=["x"])),
        "children": [runs.get_child_runs(f"{prefix}-parent") for prefix in prefixes],
        "stats": runs.get_stats(),
        "forked": [kv.list_with_values(f"{prefix}-fork") for prefix in prefixes],
        "deleted": [kv.list(f"{prefix}-deleted") for prefix in prefixes],
    }
    assert found["chain"].is_valid
    assert found["sha chain"].is_valid
    return found


def _end(db: shoal.Database, way: str, wait_for_end: Callable[[int], None]) -> None:
    pid = db.info().coordinator_pid
    if way == "kill -9":
        os.kill(pid, signal.SIGKILL)
    db.close()
    wait_for_end(pid)


@pytest.mark.long
@pytest.mark.parametrize(
    ("durability", "way"),
    [("buffered", "clean close"), ("strict", "kill -9"), *slow(("buffered", "kill -9"), ("strict", "clean close"))],
)
def test_all_primitives_recover(
    store: Path, tmp_path: Path, durability: str, way: str, wait_for_end: Callable[[int], None]
) -> None:
    """From the log, and from a checkpoint with a log on top; versions of deleted cells are not used again."""
    db = shoal.open(store, durability=durability, linger=0.05)
    _fill(db, "first")
    before = _contents(db, ["first"])
    _end(db, way, wait_for_end)
    with shoal.open(store, linger=0.05) as db:  # from the log, or the checkpoint of an orderly end
        assert _contents(db, ["first"]) == before
        assert db.check() == []
        assert shoal.StateCell(db).init(RUN, "first-gone", 1) == 2
        shoal.StateCell(db).delete(RUN, "first-gone")
        db.backup(tmp_path / "copy")  # a checkpoint of a store at work
    copy = shoal.open(tmp_path / "copy", durability=durability, linger=0.05)
    _fill(copy, "second")
    after = _contents(copy, ["first", "second"])
    _end(copy, way, wait_for_end)
    with shoal.open(tmp_path / "copy", linger=0.05) as copy:  # from the checkpoint and the log on top of it
        assert _contents(copy, ["first", "second"]) == after
        assert copy.check() == []
        assert shoal.StateCell(copy).init(RUN, "first-gone", 1) == 3
