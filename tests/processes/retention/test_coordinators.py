"""A coordinator that serves a store applies its policies by itself, and goes on with it after a SIGKILL at any time."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

import shoal
from shoal import EventLog, RetentionPolicy, RunIndex, TraceStore, TraceType
from tests.support.slow import slow
from tests.support.workers.crash_workers import wait_for

pytestmark = pytest.mark.long


@pytest.mark.parametrize("durability", ["strict", *slow("memory", "buffered")])
def test_policies_are_applied(tmp_path: Path, durability: str) -> None:
    """Events, traces, old tasks and archived runs go within a minute; who follows a log goes on; the store is sound."""
    with shoal.open(tmp_path / "store", durability=durability) as db:
        log, traces, runs, kv = EventLog(db), TraceStore(db), RunIndex(db), shoal.KVStore(db)
        log.append_many("run", [("e", number) for number in range(2_000)])
        anchor = log.anchor("run")
        root = traces.record("run", TraceType.Thought("x"), tags=["a"])
        for _ in range(50):
            traces.record_child("run", root, TraceType.Thought("y"))
        runs.create_run(run_id="old")
        runs.archive_run("old")
        kv.put("old", "k", 1)
        kv.put("run", "k", 1)
        queue = shoal.TaskQueue(db)
        ids = queue.put_many("run", "q", range(400))
        delayed = queue.put("run", "q", "delayed", delay=3600)
        for task in queue.claim_many("run", "q", 300):
            task.complete(task.payload)
        claimed = queue.claim("run", "q")
        assert claimed is not None
        assert queue.result("run", ids[0]) == 0
        runs.set_retention(RetentionPolicy(events=10, trace_age=0.01, archived_age=0, task_age=0.01))
        wait_for(lambda: runs.list_runs() == [] and traces.count("run") == 0, "upkeep", 60)
        wait_for(lambda: log.first_sequence("run") == 1_990, "upkeep", 60)
        assert (kv.list("old"), kv.list("run")) == ([], ["k"])
        wait_for(lambda: queue.stats("run", "q").done == 0, "upkeep", 60)
        assert queue.stats("run", "q") == shoal.QueueStats(99, 1, 1, 0, 0)
        assert {info.id for info in queue.list("run", "q")} == {*ids[300:], delayed}
        claimed.complete("late")
        assert queue.result("run", claimed.id) == "late"
        assert log.verify_chain("run", anchor).is_valid
        log.append_many("run", [("e", number) for number in range(100)])
        wait_for(lambda: log.first_sequence("run") == 2_090, "the next pass", 60)
        assert db.check() == []


@pytest.mark.uncompiled
def test_the_coordinator_is_killed_in_the_middle(tmp_path: Path) -> None:
    """Whenever it dies, each log verifies against its anchor, and each trace has all that is above it."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    runs_there = [f"run {number}" for number in range(4)]
    with shoal.open(tmp_path / "store", linger=0.2) as db:
        log, traces = EventLog(db), TraceStore(db)
        for run in runs_there:
            log.append_many(run, [(f"type {number % 7}", number) for number in range(3_000)])
            parent = None
            for number in range(60):
                parent = traces.record(run, TraceType.Thought(str(number)), parent_id=parent)
        anchors = {run: log.anchor(run) for run in runs_there}
        RunIndex(db).set_retention(RetentionPolicy(events=1_000, trace_age=0.5))
        began = wait_for(lambda: [run for run in runs_there if log.first_sequence(run)], "upkeep", 60)
        assert began
        kills = 0
        while any(log.first_sequence(run) < 2_000 for run in runs_there):
            os.kill(db.info().coordinator_pid, signal.SIGKILL)
            kills += 1
            log.append("another", "e", kills)
            for run in runs_there:
                found = log.verify_chain(run, anchors[run])
                assert found.is_valid, found
                with db.snapshot(run) as view:
                    there = {trace_id: view.traces.get(trace_id) for trace_id in view.traces.list()}
                assert all(it and (it.parent_id is None or it.parent_id in there) for it in there.values())
            time.sleep(chance.random() * 0.3)
            assert kills < 200
        wait_for(lambda: not any(traces.count(run) for run in runs_there), "traces to go", 60)
        assert [log.len(run) for run in runs_there] == [3_000] * 4
        assert db.check() == []
    with shoal.open(tmp_path / "store") as db:
        for run in runs_there:
            assert EventLog(db).verify_chain(run, anchors[run]).is_valid
            assert EventLog(db).first_sequence(run) == 2_000


@pytest.mark.uncompiled
def test_it_goes_on_under_load(tmp_path: Path) -> None:
    """Appends that never pause do not keep it from trimming, and the log stays as short as it is to be."""
    with shoal.open(tmp_path / "store", durability="memory") as db:
        log = EventLog(db)
        RunIndex(db).set_retention(RetentionPolicy(events=100))
        until_s = time.monotonic() + 30
        kept: list[int] = []
        while len(kept) < 3 and time.monotonic() < until_s:
            before = log.first_sequence("run")
            for number in range(200):
                log.append("run", "e", number)
            if log.first_sequence("run") != before:
                kept.append(log.len("run") - log.first_sequence("run"))
        assert len(kept) == 3, "it was never trimmed"
        wait_for(lambda: log.len("run") - log.first_sequence("run") == 100, "what came last", 60)
        assert log.verify_chain("run").is_valid


@pytest.mark.slow
def test_a_full_store_gets_room(tmp_path: Path) -> None:
    """What no policy keeps is removed also when no commit of a user finds room any more, and then they do."""
    with shoal.open(tmp_path / "store", durability="memory", max_bytes=24 << 20) as db:
        log = EventLog(db)
        RunIndex(db).set_retention(RetentionPolicy(event_age=15))
        while _fits(log, 50, 3_000):
            pass
        while _fits(log, 1, 1):
            pass
        length = log.len("run")
        assert log.first_sequence("run") == 0, "it took too long to fill the store"
        wait_for(lambda: log.first_sequence("run") == length, "upkeep", 60)
        wait_for(lambda: _fits(log, 50, 3_000), "room for events", 60)
        assert log.verify_chain("run").is_valid
        assert db.check() == []


def _fits(log: EventLog, count: int, size: int) -> bool:
    try:
        log.append_many("run", [("e", "x" * size) for _ in range(count)])
    except shoal.StoreFullError:
        return False
    return True
