"""A store with something of every primitive, and all of it as every kind of read finds it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import shoal

RUN = "run"


def fill(db: shoal.Database) -> None:
    """Something of every primitive, some of it deleted again."""
    kv, events, state, traces, runs = facades(db)
    runs.create_run(run_id=RUN, tags=["t"])
    for i in range(20):
        kv.put(RUN, f"k{i:02}", i)
    kv.delete(RUN, "k00")
    kv.put(RUN, "gone", 1, ttl=0.05)
    kv.put(RUN, "stays", 1, ttl=3600)
    for i in range(5):
        events.append(RUN, "step", {"i": i})
    state.init(RUN, "cell", "a")
    state.set(RUN, "cell", "b")
    root = traces.record(RUN, shoal.TraceType.Thought("root"))
    traces.record_child(RUN, root, shoal.TraceType.Thought("child"))
    kv.put("deleted", "k", 1)
    runs.delete_run("deleted")
    time.sleep(0.06)


def facades(
    db: shoal.Database,
) -> tuple[shoal.KVStore, shoal.EventLog, shoal.StateCell, shoal.TraceStore, shoal.RunIndex]:
    return shoal.KVStore(db), shoal.EventLog(db), shoal.StateCell(db), shoal.TraceStore(db), shoal.RunIndex(db)


def contents(db: shoal.Database) -> dict[str, Any]:
    """All of it, as every kind of read finds it."""
    kv, events, state, traces, runs = facades(db)
    with db.snapshot(RUN) as view:
        in_snapshot = view.kv.list_with_values()
    with db.transaction(RUN) as txn:
        in_transaction = {"keys": txn.kv.list_with_values(), "events": list(txn.events.iter())}
    return {
        "keys": kv.list_with_values(RUN),
        "get": [kv.get(RUN, f"k{i:02}") for i in range(20)],
        "expired": kv.exists(RUN, "gone"),
        "ttl": (kv.ttl(RUN, "stays") or 0) > 3000,
        "snapshot": in_snapshot,
        "transaction": in_transaction,
        "events": list(events.iter(RUN)),
        "by type": events.read_by_type(RUN, "step"),
        "head": events.head(RUN),
        "verified": events.verify_chain(RUN),
        "cells": [state.read(RUN, name) for name in state.list(RUN)],
        "traces": [traces.get(RUN, trace_id) for trace_id in traces.list(RUN)],
        "runs": runs.query_runs(shoal.RunQuery()),
        "stats": runs.get_stats(),
        "deleted": kv.list("deleted"),
    }


FOUND: dict[Path, dict[str, Any]] = {}


def coordinators(path: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if entry.name.isdecimal() and "shoal.coordinator_main" in line and str(path) in line:
                found.append(entry.name)
    return found
