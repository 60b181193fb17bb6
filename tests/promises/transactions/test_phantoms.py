"""What scans read is validated: whatever appears in or leaves a scanned range is a conflict; blind calls never are."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import shoal
from shoal import TraceType
from shoal.primitives.keys import after
from shoal.primitives.rules.tags import Tag

DB = shoal.Database
Txn = shoal.Transaction


def _thought(run: str, db: DB, **options: Any) -> str:
    return shoal.TraceStore(db).record(run, TraceType.Thought("t"), **options)


# name -> a scanning call in a transaction, and a change by somebody else that it would have seen
SCANS: dict[str, tuple[Callable[[Txn], object], Callable[[DB, str], object]]] = {
    "kv.list": (lambda t: t.kv.list("a/"), lambda db, run: shoal.KVStore(db).put(run, "a/new", 1)),
    "kv.list_with_values": (
        lambda t: t.kv.list_with_values("a/"),
        lambda db, run: shoal.KVStore(db).increment(run, "a/new"),
    ),
    "events.read_range": (
        lambda t: t.events.read_range(0, 100),
        lambda db, run: shoal.EventLog(db).append(run, "x", 1),
    ),
    "events.len": (lambda t: t.events.len(), lambda db, run: shoal.EventLog(db).append(run, "x", 1)),
    "events.head": (lambda t: t.events.head(), lambda db, run: shoal.EventLog(db).append(run, "x", 1)),
    "events.is_empty": (lambda t: t.events.is_empty(), lambda db, run: shoal.EventLog(db).append(run, "x", 1)),
    "events.iter": (lambda t: list(t.events.iter()), lambda db, run: shoal.EventLog(db).append(run, "x", 1)),
    "events.read_by_type": (
        lambda t: t.events.read_by_type("x"),
        lambda db, run: shoal.EventLog(db).append(run, "x", 1),
    ),
    "events.append": (lambda t: t.events.append("y", 2), lambda db, run: shoal.EventLog(db).append(run, "x", 1)),
    "state.list": (lambda t: t.state.list("c"), lambda db, run: shoal.StateCell(db).init(run, "cell", 1)),
    "traces.list": (lambda t: t.traces.list(), lambda db, run: _thought(run, db)),
    "traces.count": (lambda t: t.traces.count(), lambda db, run: _thought(run, db)),
    "traces.query_by_type": (lambda t: t.traces.query_by_type("Thought"), lambda db, run: _thought(run, db)),
    "traces.query_by_tag": (lambda t: t.traces.query_by_tag("g"), lambda db, run: _thought(run, db, tags=["g"])),
    "traces.query_by_time": (lambda t: t.traces.query_by_time(0, 2**62), lambda db, run: _thought(run, db)),
    "traces.query": (lambda t: t.traces.query(type="Thought", tag="g"), lambda db, run: _thought(run, db, tags=["g"])),
    "traces.get_children": (
        lambda t: t.traces.get_children("root"),
        lambda db, run: _thought(run, db, parent_id="root"),
    ),
    "traces.get_tree": (lambda t: t.traces.get_tree("root"), lambda db, run: _thought(run, db, parent_id="root")),
    "runs.list_runs": (lambda t: t.runs.list_runs(), lambda db, run: shoal.RunIndex(db).create_run()),
    "runs.get_stats": (lambda t: t.runs.get_stats(), lambda db, run: shoal.RunIndex(db).create_run()),
    "runs.query_runs": (
        lambda t: t.runs.query_runs(shoal.RunQuery(tags=["g"])),
        lambda db, run: shoal.RunIndex(db).create_run(tags=["g"]),
    ),
    "runs.get_child_runs": (
        lambda t: t.runs.get_child_runs("parent"),
        lambda db, run: shoal.RunIndex(db).create_run(parent_run="parent"),
    ),
}


@pytest.fixture(scope="module")
def scanned(memory_db: DB) -> DB:
    """The shared store with a parent run."""
    if shoal.RunIndex(memory_db).get_run("parent") is None:
        shoal.RunIndex(memory_db).create_run(run_id="parent")
    return memory_db


@pytest.mark.parametrize("name", SCANS)
def test_a_phantom_is_a_conflict(scanned: DB, run: str, name: str) -> None:
    """A transaction that scanned does not commit once somebody has added to what it would have seen."""
    scan, change = SCANS[name]
    _thought(run, scanned, id="root")
    with pytest.raises(shoal.ConflictError), scanned.transaction(run) as txn:  # noqa: PT012
        scan(txn)
        txn.kv.put("decided", 1)
        change(scanned, run)
    assert not shoal.KVStore(scanned).exists(run, "decided")


@pytest.mark.parametrize("name", SCANS)
def test_a_reader_alone_never_conflicts(scanned: DB, run: str, name: str) -> None:
    """The same scan in a transaction that writes nothing commits, and sees the change in the next one."""
    scan, change = SCANS[name]
    _thought(run, scanned, id="root")
    with scanned.transaction(run) as txn:
        before = scan(txn) if name != "events.append" else None
        change(scanned, run)
        if name != "events.append":
            assert scan(txn) == before
    with scanned.snapshot(run) as later:
        if name != "events.append":
            assert scan(later) != before


BLIND: dict[str, Callable[[Txn], object]] = {
    "kv.put": lambda t: t.kv.put("k", 1),
    "record": lambda t: t.traces.record(TraceType.Thought("t"), tags=["g"]),
}


@pytest.mark.parametrize("name", BLIND)
def test_blind_writes_never_conflict(scanned: DB, run: str, name: str) -> None:
    """A transaction that read nothing commits whatever others have written meanwhile."""
    with scanned.transaction(run) as txn:
        BLIND[name](txn)
        for other in ("kv.list", "events.append", "state.list", "traces.query_by_tag", "runs.list_runs"):
            SCANS[other][1](scanned, run)
        shoal.KVStore(scanned).put(run, "k", 2)


SINGLE_CALLS: dict[str, Callable[[DB, str], object]] = {
    "kv.increment": lambda db, run: shoal.KVStore(db).increment(run, "k"),
    "kv.delete": lambda db, run: shoal.KVStore(db).delete(run, "k"),
    "events.append": lambda db, run: shoal.EventLog(db).append(run, "x", 1),
    "events.append_many": lambda db, run: shoal.EventLog(db).append_many(run, [("x", 1), ("y", 2)]),
    "state.set": lambda db, run: shoal.StateCell(db).set(run, "cell", 1),
    "state.transition": lambda db, run: shoal.StateCell(db).transition(run, "turn", lambda s: (s.value + 1, None)),
    "traces.record": lambda db, run: _thought(run, db, tags=["g"]),
    "runs.add_tags": lambda db, run: shoal.RunIndex(db).add_tags("parent", [run]),
}


@pytest.mark.parametrize("name", SINGLE_CALLS)
def test_single_calls_of_facades_never_conflict(scanned: DB, run: str, name: str) -> None:
    """Threads that make the same call on the same thing all succeed."""
    from concurrent.futures import ThreadPoolExecutor

    shoal.StateCell(scanned).init(run, "turn", 0)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(SINGLE_CALLS[name], scanned, run) for _ in range(24)]:
            future.result()


@pytest.mark.long
def test_what_was_not_read_may_expire(memory_db: DB, run: str) -> None:
    """A scan that stops early counts on nothing behind: the commit is done though a key there has expired."""
    with memory_db.transaction(run) as txn:
        for number in range(20):
            txn.kv.put(f"{number:02}", number, ttl=0.2 if number > 5 else None)
    prefix = shoal.Namespace()._run_prefix(run) + bytes((Tag.KV,))
    transaction = memory_db._store.begin()
    scan = transaction.scan(prefix, after(prefix))
    assert [next(scan)[0][-2:] for _ in range(5)] == [b"00", b"01", b"02", b"03", b"04"]
    scan.close()  # type: ignore[attr-defined] # a generator
    transaction.put(prefix + b"read", b"\x05")
    time.sleep(0.3)
    transaction.commit()
    assert shoal.KVStore(memory_db).get(run, "read") == 5
