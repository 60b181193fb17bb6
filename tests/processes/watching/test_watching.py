"""Watches of several processes over writers and coordinators that are killed, over checkpoints, and over a restart."""

from __future__ import annotations

import gc
import itertools
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.shm.limits import MIB
from tests.processes.holders.test_waiting import cpu_s
from tests.support.slow import slow
from tests.support.workers.crash_workers import DEADLINE_S, kill, wait_for

pytestmark = pytest.mark.long

RUN = "run"
_WATCHER = """
import json, sys, shoal
db = shoal.open(sys.argv[1], timeout=60)
changes = shoal.KVStore(db).watch("run", sys.argv[2], since=int(sys.argv[3]), timeout=60)
for change in changes:
    print(json.dumps(change), flush=True)
    if change.key.endswith("end"):
        break
"""
_FOLLOWER = """
import json, sys, shoal
db = shoal.open(sys.argv[1], timeout=60)
for event in shoal.EventLog(db).follow("run", timeout=60):
    print(json.dumps([event.sequence, event.payload]), flush=True)
    if event.payload == "end":
        break
"""


def _write(path: str, name: str, seed: int, seconds: float) -> None:
    """Overwrite, delete and clear keys, in commits of several; note in the log which commit it was."""
    rng = random.Random(seed)
    with shoal.open(path, timeout=DEADLINE_S, linger=0.2) as db:
        runs, numbers, until_s = shoal.RunIndex(db), itertools.count(), time.monotonic() + seconds
        while time.monotonic() < until_s:
            with db.transaction(RUN) as txn:
                txn.kv.put(f"{name}/commits", next(numbers))
                for key in rng.sample("abcdef", rng.randint(1, 3)):
                    if rng.random() < 0.2:
                        txn.kv.delete(f"{name}/{key}")
                    else:
                        txn.kv.put(f"{name}/{key}", next(numbers))
            if rng.random() < 0.3:
                shoal.EventLog(db).append(RUN, "wrote", [name, txn.version])
            if rng.random() < 0.05:
                shoal.KVStore(db).put("other " + name, "k", 1)
                runs.delete_run("other " + name)


class _Reading:
    """A process that prints what it is told, to a file: a pipe that nobody reads would soon hold it up."""

    def __init__(self, program: str, *arguments: object) -> None:
        self._out = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as this is)
        self._process = subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdout=self._out)
        self.pid = self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._out.close()

    def told(self) -> list[list[Any]]:
        """All that it was told, when it has ended."""
        self._process.wait(DEADLINE_S)
        self._out.seek(0)
        return [json.loads(line) for line in self._out]


def _hammer(db: shoal.Database, path: Path, seconds: float, kills: int, writers: int) -> None:
    """Have processes write for a while, and kill the coordinator meanwhile."""
    seed, begun = random.randrange(1 << 30), db.info().commit_version
    print("seed", seed)
    context = multiprocessing.get_context("forkserver")
    processes = [
        context.Process(target=_write, args=(str(path), "abcdefgh"[i], seed + i, seconds)) for i in range(writers)
    ]
    for process in processes:
        process.start()
    wait_for(lambda: db.info().commit_version > begun + 100, "what the first processes write")
    for _ in range(kills):
        time.sleep(seconds / (kills + 1))
        kill(db.info().coordinator_pid)
    for process in processes:
        process.join(DEADLINE_S)
        assert process.exitcode == 0


def test_from_now_on_is_from_the_call_on(memory_db: shoal.Database, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits and reclaiming while a watch begins take nothing from it, though no log could tell what they changed."""
    kv = shoal.KVStore(memory_db)
    kv.put(run, "k", 0)
    store: Any = memory_db._store
    connection = store.connection
    ask = connection.ask

    def late(name: str, *arguments: Any) -> Any:
        if name == "keep":
            for value in range(1, 4):
                kv.put(run, "k", value)
            time.sleep(0.5)  # obsolete versions are freed between commits, as far as nothing keeps them
        return ask(name, *arguments)

    monkeypatch.setattr(connection, "ask", late)
    changes = kv.watch(run, timeout=1.0)
    monkeypatch.undo()
    assert [change.value for change in itertools.islice(changes, 3)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("seconds", "kills", "watchers", "writers"),
    [(1.2, 2, 3, 2), pytest.param(60, 5, 8, 4, marks=pytest.mark.slow)],
)
def test_each_change_once_and_in_order(
    db: shoal.Database, store: Path, seconds: float, kills: int, watchers: int, writers: int
) -> None:
    """Whatever dies, all watches tell the same changes, and the last of each key is what it holds."""
    kv, log = shoal.KVStore(db), shoal.EventLog(db)
    since = db.info().commit_version
    watching = [_Reading(_WATCHER, store, prefix, since) for prefix in ["", "a/", *[""] * (watchers - 2)]]
    following = [_Reading(_FOLLOWER, store) for _ in range(max(1, watchers // 2))]
    try:
        _hammer(db, store, seconds, kills, writers)
        log.append(RUN, "wrote", "end")
        with db.transaction(RUN) as txn:
            txn.kv.put("end", 1)
            txn.kv.put("a/end", 1)
        every, of_a, *others = [process.told() for process in watching]
        logs = [process.told() for process in following]
    finally:
        for process in (*watching, *following):
            process.kill()
    assert len(every) > 50
    positions = [(version, key) for version, key, _ in every]
    assert positions == sorted(set(positions))
    assert [change for change in every if change[1].startswith("a/")] == of_a
    for other in others:
        assert other[:-1] == every[: len(other) - 1]  # one of them ends with "a/end", which is of the same commit
        assert len(every) - len(other) in (-1, 0, 1)
    last = {key: value for _, key, value in every}
    last["end"] = last["a/end"] = 1
    assert {key: value for key, value in last.items() if value is not None} == dict(kv.list_with_values(RUN))
    versions = {version for version, _, _ in every}
    for told in logs:
        assert [sequence for sequence, _ in told] == list(range(log.len(RUN)))
        assert {version for _, (_, version) in told[:-1]} <= versions


def test_what_was_overwritten_before_the_coordinator_died(db: shoal.Database) -> None:
    """Versions between the first and the last are told after its death, too: from the log."""
    kv, runs = shoal.KVStore(db), shoal.RunIndex(db)
    since = db.info().commit_version
    expected: list[tuple[str, object]] = []
    for n in range(300):
        kv.put(RUN, f"k{n % 3}", n)
        expected.append((f"k{n % 3}", n))
    runs.delete_run(RUN)
    expected += [(f"k{n}", None) for n in range(3)]
    kv.put(RUN, "k1", "new")
    expected.append(("k1", "new"))
    for _ in range(2):
        assert [tuple(change[1:]) for change in kv.watch(RUN, since=since, timeout=0)] == expected
        kill(db.info().coordinator_pid)
        kv.put("other run", "k", 1)
    runs.delete_run(RUN)
    expected.append(("k1", None))
    kill(db.info().coordinator_pid)
    kv.put("other run", "k", 1)
    assert [tuple(change[1:]) for change in kv.watch(RUN, since=since, timeout=0)] == expected


def _checkpoint(db: shoal.Database, store: Path) -> None:
    """Write until a checkpoint has taken the place of the log so far."""
    oldest = min(store.glob("wal-*.log"))
    for _ in range(36):
        shoal.KVStore(db).put("large", "k", bytes(MIB))
    wait_for(lambda: not oldest.exists(), "a checkpoint")


def test_a_watch_that_waits_goes_on_after_checkpoints_and_deaths(db: shoal.Database, store: Path) -> None:
    """Its position moves on while nothing comes, so log files that go are none that it needs."""
    kv = shoal.KVStore(db)
    kv.put(RUN, "k", 0)
    since = db.info().commit_version
    watching = _Reading(_WATCHER, store, "", since)
    try:
        for n in range(2):
            kv.put(RUN, "k", n)
            time.sleep(0.3)
            _checkpoint(db, store)
            kill(db.info().coordinator_pid)
            kv.put(RUN, "k", -n)
        kv.put(RUN, "end", 1)
        assert [change[1:] for change in watching.told()] == [["k", 0], ["k", 0], ["k", 1], ["k", -1], ["end", 1]]
    finally:
        watching.kill()
    with pytest.raises(shoal.SnapshotExpiredError, match=f"the change after version {since} is"):
        list(kv.watch(RUN, since=since, timeout=0))


def test_a_range_cleared_after_a_checkpoint(db: shoal.Database, store: Path) -> None:
    """The keys that went with their run are known after the death of the coordinator, those of a checkpoint, too."""
    kv = shoal.KVStore(db)
    kv.put(RUN, "old", 1)
    kv.put(RUN, "gone", 1)
    _checkpoint(db, store)
    time.sleep(0.3)
    since = db.info().commit_version
    kv.delete(RUN, "gone")
    kv.put(RUN, "new", 1)
    shoal.RunIndex(db).delete_run(RUN)
    kill(db.info().coordinator_pid)
    kv.put(RUN, "last", 1)
    told = [change[1:] for change in kv.watch(RUN, since=since, timeout=0)]
    assert told == [("gone", None), ("new", 1), ("new", None), ("old", None), ("last", 1)]


def test_a_slow_watch_keeps_no_memory_for_ever(store: Path) -> None:
    """What it has not taken is kept while there is room, then it is in the log, and then it is lost: never a gap."""
    with shoal.open(store, max_bytes=64 * MIB, linger=0.2) as db:
        kv = shoal.KVStore(db)
        changes = kv.watch(RUN, timeout=0)
        told, begin_s = [], time.monotonic()
        for n in range(3_600):
            kv.put(RUN, "k", [n, bytes(20_000)])
            if n == 400:
                told = [next(changes).value[0]]
        time.sleep(max(0.0, begin_s + 1.2 - time.monotonic()))
        kv.put(RUN, "k", [3_600, bytes(20_000)])
        wait_for(lambda: db.info().bytes_used < 50 * MIB, "memory to be freed", 10)
        with pytest.raises(shoal.SnapshotExpiredError):  # noqa: PT012 (as many as there are)
            for change in changes:
                told.append(change.value[0])
        assert 5 < len(told) < 3_600
        assert told == list(range(len(told)))


def test_a_watch_that_is_given_up_keeps_nothing(db: shoal.Database) -> None:
    """Whether it ends, is closed, or is dropped before it began."""
    kv = shoal.KVStore(db)
    for give_up in (lambda changes: next(changes), lambda changes: changes.close(), lambda changes: None):
        changes = kv.watch(RUN)
        kv.put(RUN, "k", 1)
        give_up(changes)
        del changes
        gc.collect()
        for _ in range(3):
            kv.put(RUN, "k", bytes(MIB))
        wait_for(lambda: db.info().bytes_used < 3 * MIB, "memory to be freed", 10)


def test_a_watch_that_is_dropped_waits_for_nobody(db: shoal.Database) -> None:
    """The collector may drop a watch in any thread, also while another one has the connection: nothing waits for it."""
    watch: list[Any] = [shoal.KVStore(db).watch(RUN)]  # the coordinator keeps history for it from now on
    lock = db._store.auto_commit._connection._lock  # type: ignore[attr-defined]
    dropping = threading.Thread(target=watch.clear, daemon=True)
    with lock:
        dropping.start()
        dropping.join(DEADLINE_S)
        assert not dropping.is_alive()
    shoal.KVStore(db).put(RUN, "k", 1)
    assert shoal.KVStore(db).get(RUN, "k") == 1


def test_waiting_costs_no_processor_time(db: shoal.Database, store: Path) -> None:
    """Neither the process that watches nor the coordinator does anything while nothing happens."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("no figures of processes here")
    watching = _Reading(_WATCHER, store, "", db.info().commit_version)
    try:
        wait_for(lambda: db.info().clients == 2, "the watching process")
        time.sleep(0.5)
        pids = watching.pid, db.info().coordinator_pid
        before = [cpu_s(pid) for pid in pids]
        time.sleep(1.0)
        assert max(cpu_s(pid) - start for pid, start in zip(pids, before, strict=True)) < 0.1
    finally:
        watching.kill()


def test_a_reader_of_a_store_at_rest(store: Path) -> None:
    """It is told what the files have, or nothing of that, then what a process commits that serves the store later."""
    with shoal.open(store, linger=0.0) as db:
        for n in range(5):
            shoal.KVStore(db).put(RUN, "k", n)
        pid = db.info().coordinator_pid
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the coordinator")
    with shoal.open(store, read_only=True) as reader:
        changes, newer = (shoal.KVStore(reader).watch(RUN, since=since, timeout=DEADLINE_S) for since in (0, None))
        assert [next(changes).value for _ in range(5)] == [0, 1, 2, 3, 4]
        with shoal.open(store, linger=0.2) as db:
            shoal.KVStore(db).put(RUN, "k", "new")
            assert (next(changes).value, next(newer).value) == ("new", "new")


@pytest.mark.parametrize("coordinator", ["lives", *slow("dies, too")])
def test_the_death_of_a_consumer(db: shoal.Database, store: Path, coordinator: str) -> None:
    """Another process goes on at once, from the event after the last one that was committed.

    If the coordinator died meanwhile, and the consumer did not turn to the next one, it goes on after 30 s.
    """
    program = """
import sys, shoal
db = shoal.open(sys.argv[1])
consumer = shoal.EventLog(db).consumer("run", "c")
for event in consumer:
    print(event.sequence, flush=True)
    if event.sequence == 3:
        sys.stdin.read()
    consumer.commit(event.sequence)
"""
    log = shoal.EventLog(db)
    log.append_many(RUN, [("n", n) for n in range(6)])
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(4)] == ["0\n", "1\n", "2\n", "3\n"]
    with pytest.raises(shoal.LeaseHeldError) as caught:
        log.consumer(RUN, "c")
    assert caught.value.pids == (process.pid,)
    if coordinator != "lives":
        kill(db.info().coordinator_pid)
        with pytest.raises(shoal.LeaseHeldError):
            log.consumer(RUN, "c")
    os.kill(process.pid, 9)
    process.communicate()
    with log.consumer(RUN, "c", wait=20 if coordinator == "lives" else DEADLINE_S) as consumer:
        assert consumer.position == 3
        assert next(iter(consumer)).sequence == 3
