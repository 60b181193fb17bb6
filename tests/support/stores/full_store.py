"""A store with something of every kind in it, and what goes wrong most easily."""

from __future__ import annotations

import contextlib
import datetime
import io
import itertools
import math
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_hexdigest

import shoal
from shoal import TraceType
from shoal.transfer import json_lines
from shoal.transfer.export_file import export_store
from shoal.transfer.import_check import Contents
from shoal.transfer.import_file import import_store
from tests.support.present import present

VALUES: list[Any] = [
    None, True, 0, 2**53 + 1, 2**64 - 1, -(2**63), 1.5, 1e300, math.nan, math.inf, -math.inf, -0.0,
    "", "x\0y\r\n\u2028", "\ud800", "\ud83d\ude00", "🦀", b"", b"\0\xff", [], {},
    {"$bytes": "eA=="}, {"$": {"$$": 1, "\udfff": 2, "$\udfff": 3}},
    datetime.datetime(2024, 1, 2, 3, 4, 5, 678901, datetime.UTC), datetime.datetime(1, 1, 1, tzinfo=datetime.UTC),
    {"b": [1, (2.0, [True])], "a": {"": b"x"}},
]  # fmt: skip
NASTY = ["\0", "a\nb", "__idx_", "é", "🦀", '"', "\x1b[2J", "k" * 1024]


def fill(db: shoal.Database, namespace: shoal.Namespace = shoal.Namespace()) -> None:  # noqa: B008 (frozen)
    """Something of every kind, in runs registered or not, deleted and expiring too."""
    runs = shoal.RunIndex(db, namespace=namespace)
    runs.create_run(run_id="parent", tags=NASTY, metadata=VALUES)
    runs.create_run(run_id="a child\n", parent_run="parent", metadata=-0.0)
    runs.complete_run("a child\n")
    runs.create_run(run_id="failed", parent_run="parent", tags=["t"])
    runs.fail_run("failed", "bad \ud800 thing\n")
    runs.create_run(run_id="lost", parent_run="a child\n")
    runs.archive_run("lost")
    runs.delete_run("a child\n")
    runs.create_run(run_id="paused")
    runs.pause_run("paused")
    with db.transaction("parent", namespace=namespace) as txn:
        _fill_run(txn)
    shoal.EventLog(db, chain="sha256", namespace=namespace).append_many("sealed", [("e", i) for i in range(5)])
    log = shoal.EventLog(db, namespace=namespace)
    log.append_many("trimmed", [("e", i) for i in range(5)])
    log.trim("trimmed", 3)
    runs.set_retention(shoal.RetentionPolicy(events=1_000, trace_age=86_400.5), run_id="trimmed")
    for run_id, name in itertools.product(("parent", "sealed"), NASTY):
        with shoal.EventLog(db, namespace=namespace).consumer(run_id, name) as consumer:
            consumer.commit(len(name) % 5)
    _fill_queues(shoal.TaskQueue(db, namespace=namespace))
    for name in NASTY:
        db.transact("parent", lambda _: VALUES, idempotency_key=name, namespace=namespace)
        db.once("parent", name, lambda: VALUES, namespace=namespace)
    db.transact("parent", lambda txn: None, idempotency_key="for good", idempotency_ttl=math.inf, namespace=namespace)
    budget = shoal.Budget(db, namespace=namespace)
    for i, name in enumerate(NASTY):
        budget.create("parent", name, 10**i, refill_per_s=i / 10**9)
        budget.reserve("parent", name, 1).settle(2 / 3)
    with contextlib.suppress(KeyboardInterrupt):
        db.once("parent", "in doubt", _interrupted, namespace=namespace)


def _fill_run(txn: shoal.Transaction) -> None:
    for i, value in enumerate(VALUES):
        txn.kv.put(f"key-{i}", value)
        txn.events.append(f"type-{i % 3}", value)
        txn.state.set(f"cell-{i}", value)
        custom = TraceType.Custom("mine", value)
        parent_id = f"trace-{(i - 1) // 2}" if i else None
        txn.traces.record(custom, id=f"trace-{i}", parent_id=parent_id, tags=["tag", f"tag-{i}"], metadata=value)
    for name in NASTY:
        txn.kv.put(name, name)
        txn.events.append(name, name)
        txn.state.set(name, name)
        txn.traces.record(TraceType.Thought(name), id=name, tags=[name])
    for said in (
        TraceType.ToolCall("read", {"path": b"x"}, [None], 3),
        TraceType.Decision("which?", ("a", "b"), "a"),
        TraceType.Query("text", "q", 0),
        TraceType.Thought("hm", math.nan),
        TraceType.Error("E", "m", False),
    ):
        txn.traces.record(said, id=said.type_name())
    txn.kv.put("expires", 1, ttl=3600)
    txn.state.delete("cell-1")
    txn.state.set("cell-2", "again")
    txn.state.delete("cell-3")
    txn.state.init("cell-3", "reborn")
    other = txn.on("🦀 never registered")
    for i in range(5):
        other.kv.increment("n", i)
        other.events.append("e", {"z": i, "a": [i]})


def _interrupted() -> None:
    raise KeyboardInterrupt


def export(db: shoal.Database) -> bytes:
    """All there is in a store."""
    out = io.BytesIO()
    export_store(db, out)
    return out.getvalue()


def bring(db: shoal.Database, directory: Path, raw: bytes, give_up: bool = False) -> Contents:
    """Import an export into an open store, from a file in ``directory``."""
    path = directory / "import.jsonl"
    path.write_bytes(raw)
    with path.open("rb") as file:
        return import_store(lambda: shoal.open(db.path, linger=0.2), file, path.name, give_up)


def sealed(lines: list[bytes]) -> bytes:
    """Header and records with a closing line that fits them."""
    body = b"".join(lines)
    return body + json_lines.dump({"kind": "end", "records": len(lines) - 1, "xxh3": xxh3_128_hexdigest(body)})


def _fill_queues(queue: shoal.TaskQueue) -> None:
    """Tasks of every status but Claimed, with long and short parts."""
    for value in [*VALUES[:3], "long" * 1000]:
        queue.put("parent", "work", value, priority=7)
        with present(queue.claim("parent", "work")) as task:
            task.complete(value)
    queue.put("parent", "work", "dies", max_attempts=1)
    present(queue.claim("parent", "work")).fail("bad \U0001f980 thing\n")
    queue.put("parent", "work", "tried")
    present(queue.claim("parent", "work")).fail("again")
    queue.cancel("parent", queue.put("parent", "work", None, delay=3600))
    queue.put("parent", "work", "later", delay=3600, priority=-1)
    for name in NASTY:
        queue.put("parent", name, name, key=name)
