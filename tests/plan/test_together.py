"""Acceptance of the primitives together: one transaction over all, isolation of runs, recovery.

Each test is a line of docs/acceptance.md.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shoal
from shoal import TraceType
from tests.support.present import present


class Stores:
    """One facade of each kind."""

    def __init__(self, db: shoal.Database) -> None:
        self.kv, self.events, self.state = shoal.KVStore(db), shoal.EventLog(db), shoal.StateCell(db)
        self.traces, self.runs = shoal.TraceStore(db), shoal.RunIndex(db)


@pytest.fixture
def of(memory_db: shoal.Database) -> Stores:
    """Facades of the shared store."""
    return Stores(memory_db)


def test_32_kv_event_state_atomic(memory_db: shoal.Database, of: Stores, run: str) -> None:
    """Four primitives written in one transaction are all there, at one commit version."""
    of.state.init(run, "workflow", "step0")
    with memory_db.transaction(run) as txn:
        txn.kv.put("task/status", "running")
        sequence = txn.events.append("task_started", {"task_id": 1}).sequence
        version = txn.state.cas("workflow", 1, "step1")
        trace = txn.traces.record(TraceType.Thought("Starting task"))
    assert (sequence, version) == (0, 2)
    assert of.kv.get(run, "task/status") == "running"
    assert present(of.events.read(run, 0)).payload == {"task_id": 1}
    assert present(of.state.read(run, "workflow")).value == "step1"
    assert present(of.traces.get(run, trace)).trace_type == TraceType.Thought("Starting task")


def test_32_cross_primitive_rollback(memory_db: shoal.Database, of: Stores, run: str) -> None:
    """A compare-and-swap at the wrong version takes the whole transaction back."""
    of.state.init(run, "cell", 1)
    with pytest.raises(shoal.CASConflictError), memory_db.transaction(run) as txn:  # noqa: PT012
        txn.kv.put("key", "value")
        txn.events.append("event", None)
        txn.traces.record(TraceType.Thought("lost"))
        txn.runs.create_run(run_id=run)
        txn.state.cas("cell", 7, 2)
    assert not of.kv.exists(run, "key")
    assert of.events.is_empty(run)
    assert of.traces.count(run) == 0
    assert of.runs.get_run(run) is None
    assert present(of.state.read(run, "cell")).version == 1


def test_32_all_extension_traits_compose(memory_db: shoal.Database, of: Stores, run: str) -> None:
    """All five primitives, on two runs, see each other's writes inside a transaction and are whole outside."""
    other = f"{run}-other"
    with memory_db.transaction(run) as txn:
        txn.runs.create_run(run_id=run)
        txn.kv.put("a", 1)
        txn.events.append_many([("x", 1), ("y", 2)])
        txn.state.set("cell", "v")
        parent = txn.traces.record(TraceType.Thought("parent"), tags=["t"])
        txn.traces.record_child(parent, TraceType.Thought("child"))
        txn.on(other).kv.put("a", txn.kv.get("a") + 1)
        txn.on(other).events.append("z", 3)
        assert txn.kv.list() == ["a"]
        assert [event.event_type for event in txn.events.read_range(0, 9)] == ["x", "y"]
        assert txn.state.list() == ["cell"]
        assert len(txn.traces.get_children(parent)) == 1
        assert present(txn.runs.get_run(run)).status is shoal.RunStatus.Active
    assert of.kv.get(other, "a") == 2
    assert of.events.len(run) == 2
    assert of.events.verify_chain(run).is_valid
    assert of.events.read_by_type(other, "z")[0].payload == 3
    assert [t.id for t in of.traces.query_by_tag(run, "t")] == [parent]


def test_33_kv_isolation(of: Stores, run: str) -> None:
    """The same key in two runs is two keys."""
    of.kv.put(run, "key", 1)
    of.kv.put(f"{run}-2", "key", 2)
    assert (of.kv.get(run, "key"), of.kv.get(f"{run}-2", "key")) == (1, 2)


def test_33_event_log_isolation(of: Stores, run: str) -> None:
    """Each run's log counts from 0 and has a chain of its own."""
    assert of.events.append(run, "a", 1).sequence == 0
    assert of.events.append(f"{run}-2", "a", 1).sequence == 0
    assert of.events.append(run, "a", 1).sequence == 1
    assert (of.events.len(run), of.events.len(f"{run}-2")) == (2, 1)


def test_33_state_cell_isolation(of: Stores, run: str) -> None:
    """Each run's cells have versions of their own."""
    of.state.init(run, "cell", "a")
    of.state.init(f"{run}-2", "cell", "b")
    of.state.set(run, "cell", "c")
    assert (present(of.state.read(run, "cell")).version, present(of.state.read(f"{run}-2", "cell")).version) == (2, 1)
    assert present(of.state.read(f"{run}-2", "cell")).value == "b"


def test_33_trace_store_isolation(of: Stores, run: str) -> None:
    """The same trace id in two runs is two traces; a parent is looked up in its own run only."""
    of.traces.record(run, TraceType.Thought("one"), id="t")
    of.traces.record(f"{run}-2", TraceType.Thought("two"), id="t")
    assert present(of.traces.get(f"{run}-2", "t")).trace_type == TraceType.Thought("two")
    with pytest.raises(shoal.NotFoundError):
        of.traces.record_child(f"{run}-3", "t", TraceType.Thought("three"))


def test_33_cross_run_query_isolation(of: Stores, run: str) -> None:
    """Queries, lists and counts see their own run only, whatever other runs are called."""
    for name in (run, f"{run}\0", f"{run}0", run[:-1]):
        of.kv.put(name, "k", name)
        of.events.append(name, "type", name)
        of.state.set(name, "cell", name)
        of.traces.record(name, TraceType.Thought(name), tags=["tag"])
    assert of.kv.list_with_values(run) == [("k", run)]
    assert [event.payload for event in of.events.read_by_type(run, "type")] == [run]
    assert of.state.list(run) == ["cell"]
    assert [t.trace_type for t in of.traces.query_by_tag(run, "tag")] == [TraceType.Thought(run)]
    assert [t.trace_type for t in of.traces.query_by_type(run, "Thought")] == [TraceType.Thought(run)]
    assert of.traces.count(run) == 1


Reopen = Callable[[], Stores]


@pytest.fixture
def recovered(store: Path, wait_for_end: Callable[[int], None]) -> Iterator[tuple[Stores, Reopen]]:
    """A fresh store's facades, and a function that kills the coordinator and gives those of the recovered store."""
    opened = [shoal.open(store, linger=0.2)]

    def reopen() -> Stores:
        pid = opened[-1].info().coordinator_pid
        os.kill(pid, signal.SIGKILL)
        opened.pop().close()
        wait_for_end(pid)
        opened.append(shoal.open(store, linger=0.2))
        assert opened[-1].check() == []
        return Stores(opened[-1])

    yield Stores(opened[0]), reopen
    opened[-1].close()


def test_34_kv_survives_recovery(recovered: tuple[Stores, Reopen], run: str) -> None:
    """A key that was put before a kill -9 is there after recovery."""
    of, reopen = recovered
    of.kv.put(run, "key", "value")
    assert reopen().kv.get(run, "key") == "value"


def test_34_event_log_chain_survives_recovery(recovered: tuple[Stores, Reopen], run: str) -> None:
    """After recovery a chain is valid, continues where it was, and its anchor still holds."""
    of, reopen = recovered
    of.events.append(run, "event1", 1)
    of.events.append(run, "event2", {"b": 2})
    anchor = of.events.anchor(run)
    of = reopen()
    assert of.events.verify_chain(run, anchor=anchor).is_valid
    assert of.events.len(run) == 2
    assert of.events.append(run, "event3", 3).sequence == 2
    assert of.events.verify_chain(run, anchor=anchor).is_valid


def test_34_state_cell_version_survives_recovery(recovered: tuple[Stores, Reopen], run: str) -> None:
    """After recovery a cell has its version; a deleted cell's versions continue above its last."""
    of, reopen = recovered
    of.state.init(run, "cell", "initial")
    assert of.state.cas(run, "cell", 1, "new") == 2
    of.state.init(run, "gone", 1)
    of.state.delete(run, "gone")
    of = reopen()
    assert (present(of.state.read(run, "cell")).value, present(of.state.read(run, "cell")).version) == ("new", 2)
    assert of.state.read(run, "gone") is None
    assert of.state.init(run, "gone", 2) > 1


def test_34_trace_indices_survive_recovery(recovered: tuple[Stores, Reopen], run: str) -> None:
    """After recovery every index finds the trace."""
    of, reopen = recovered
    root = of.traces.record(run, TraceType.Thought("root"))
    child = of.traces.record_child(run, root, TraceType.Error("E", "m", True), tags=["t"])
    when = present(of.traces.get(run, child)).timestamp
    of = reopen()
    assert [t.id for t in of.traces.query_by_type(run, "Error")] == [child]
    assert [t.id for t in of.traces.query_by_tag(run, "t")] == [child]
    assert child in [t.id for t in of.traces.query_by_time(run, when, when + 1)]
    assert [t.id for t in of.traces.get_children(run, root)] == [child]
    assert of.traces.get_tree(run, root).children[0].root.id == child


def test_34_run_status_survives_recovery(recovered: tuple[Stores, Reopen], run: str) -> None:
    """After recovery a run's status, its index and the statistics are as they were."""
    of, reopen = recovered
    of.runs.create_run(run_id=run, tags=["t"])
    of.runs.update_status(run, shoal.RunStatus.Completed)
    before = of.runs.get_run(run)
    of = reopen()
    assert of.runs.get_run(run) == before
    assert [r.run_id for r in of.runs.query_runs(shoal.RunQuery(status=shoal.RunStatus.Completed))] == [run]
    assert of.runs.get_stats().completed_runs == 1
