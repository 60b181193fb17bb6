"""kill -9 of anything at any moment: nothing acknowledged is lost, nothing is done twice, nothing is left behind."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.support.histories.history_workers import seed_from
from tests.support.workers.crash_workers import (
    DEADLINE_S,
    RUN,
    Crew,
    descriptors,
    kill,
    processes_of,
    shoal_mappings,
    strangers,
    wait_for,
    wait_until_left,
)
from tests.support.workers.forked import alone

pytestmark = pytest.mark.long


@pytest.fixture
def tidy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A path for a store; afterwards no process and no temporary file of it may be left."""
    path, temporary = tmp_path / "db", tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    try:
        yield path
        wait_until_left(path)
    finally:
        for pid in processes_of(path):
            kill(pid)
    assert strangers(path) == []
    assert list(temporary.iterdir()) == []


def leaves_nothing_open(test: Callable[..., None]) -> Callable[..., None]:
    """Run the test in a forked child, and fail if a descriptor or a mapping of shoal's memory is left there."""

    @alone
    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        gc.collect()
        resource_tracker.ensure_running()  # else a start of a process makes it, and it stays
        before, mapped = descriptors(), shoal_mappings()
        test(*arguments, **named)
        gc.collect()
        assert {fd: what for fd, what in descriptors().items() if before.get(fd) != what} == {}
        assert [line for line in shoal_mappings() if line not in mapped] == []

    return run


def _open(path: Path, durability: str | None = None) -> shoal.Database:
    return shoal.open(path, durability=durability, timeout=DEADLINE_S, linger=0.05)


def _kill_coordinator(db: shoal.Database) -> int:
    pid = db.info().coordinator_pid
    kill(pid)
    return pid


def _kill_coordinators(tidy: Path, tmp_path: Path, durability: str, kills: int) -> None:
    rng = random.Random(seed_from(21))
    with _open(tidy, durability) as db:
        with Crew(tidy, tmp_path, 4) as crew:
            crew.progress()
            for _ in range(kills):
                time.sleep(rng.random() * 0.05)
                killed = _kill_coordinator(db)
                crew.progress()
                assert db.check() == []
                assert db.info().coordinator_pid != killed
            crew.stop()
            assert crew.settle(db) == []
        assert db.info().durability == durability
    del db
    wait_until_left(tidy)
    with _open(tidy) as db:
        assert crew.settle(db) == []
        assert db.check() == []


@pytest.mark.parametrize("durability", ["buffered", "strict"])
@leaves_nothing_open
def test_coordinator_killed_under_writers(tidy: Path, tmp_path: Path, durability: str) -> None:
    """After each kill -9 of the coordinator the workers go on by themselves; no commit is lost or done twice."""
    _kill_coordinators(tidy, tmp_path, durability, 2)


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["buffered", "strict"])
@leaves_nothing_open
def test_coordinator_killed_200_times_under_writers(tidy: Path, tmp_path: Path, durability: str) -> None:
    """The same, 200 times over."""
    _kill_coordinators(tidy, tmp_path, durability, 200)


def _kill_during_take_over(tidy: Path, tmp_path: Path, kills: int) -> None:
    rng = random.Random(seed_from(22))
    with _open(tidy) as db, Crew(tidy, tmp_path, 3) as crew:
        crew.progress(more=10)
        _kill_coordinator(db)
        for _ in range(kills):
            pids = wait_for(lambda: processes_of(tidy), "somebody to start a coordinator")
            time.sleep(rng.random() * 0.3)
            for pid in {*pids, *processes_of(tidy)}:
                kill(pid)
        crew.progress()
        assert db.check() == []
        crew.stop()
        assert crew.settle(db) == []


@leaves_nothing_open
def test_coordinator_killed_while_it_starts_and_recovers(tidy: Path, tmp_path: Path) -> None:
    """A coordinator killed at any point of its start or recovery costs nothing but the next start."""
    _kill_during_take_over(tidy, tmp_path, 4)


@pytest.mark.slow
@leaves_nothing_open
def test_coordinator_killed_while_it_starts_and_recovers_many_times(tidy: Path, tmp_path: Path) -> None:
    """The same, 100 times over."""
    _kill_during_take_over(tidy, tmp_path, 100)


def _kill_workers(tidy: Path, tmp_path: Path, count: int) -> None:
    rng = random.Random(seed_from(23))
    with _open(tidy) as db, Crew(tidy, tmp_path, count) as crew:
        crew.progress()
        coordinator = db.info().coordinator_pid
        *victims, survivor = crew.names
        for victim in victims:
            time.sleep(rng.random() * 0.05)
            crew.processes[victim].kill()
            crew.processes[victim].join()
            crew.progress([survivor])
            assert db.check() == []
        wait_for(lambda: db.info().clients == 2, "the coordinator to forget the dead")
        crew.stop(killed=tuple(victims))
        assert db.info().coordinator_pid == coordinator
        assert crew.settle(db) == []


@leaves_nothing_open
def test_workers_killed_while_they_commit(tidy: Path, tmp_path: Path) -> None:
    """kill -9 of a worker touches nobody else; what it was committing is there whole or not at all."""
    _kill_workers(tidy, tmp_path, 4)


@pytest.mark.slow
@leaves_nothing_open
def test_many_workers_killed_while_they_commit(tidy: Path, tmp_path: Path) -> None:
    """The same with 40 of them."""
    _kill_workers(tidy, tmp_path, 41)


@leaves_nothing_open
def test_linger_of_nothing_still_lets_the_first_client_in(tidy: Path) -> None:
    """``linger=0``: the coordinator ends with its last client, not before its first."""
    with shoal.open(tidy, linger=0.0, timeout=DEADLINE_S) as db:
        shoal.KVStore(db).put(RUN, "key", "value")
    wait_until_left(tidy)
    with shoal.open(tidy, linger=0.0, timeout=DEADLINE_S) as db:
        assert shoal.KVStore(db).get(RUN, "key") == "value"


@leaves_nothing_open
def test_memory_store_dies_with_its_coordinator(tidy: Path) -> None:
    """Durability memory: an open snapshot reads on, a commit is CoordinatorLostError, opening anew an empty store."""
    with _open(tidy, "memory") as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "key", "value")
        with db.snapshot(RUN) as view:
            _kill_coordinator(db)
            assert view.kv.get("key") == "value"
        for _ in range(2):
            with pytest.raises(shoal.CoordinatorLostError):
                kv.put(RUN, "key", "other")
        with _open(tidy) as fresh:
            assert fresh.info().durability == "memory"
            assert shoal.KVStore(fresh).get(RUN, "key") is None
            with pytest.raises(shoal.CoordinatorLostError):  # never silently another store's data
                kv.increment(RUN, "key")


class _OpenTransaction:
    """A transaction that has read and written and is still open, in a run of its own."""

    def __init__(self, db: shoal.Database, read: str, touched: bool) -> None:
        self._db, self._kv, self._touched = db, shoal.KVStore(db), touched
        self._run = f"{RUN}-{read}-{touched}"
        self._other = ("seen/there" if read == "point" else "seen/absent") if touched else "apart"
        self._kv.put(self._run, "seen/there", 1)
        self._transaction = db.transaction(self._run)
        self._transaction.__enter__()
        if read == "point":
            assert self._transaction.kv.get("seen/there") == 1
        elif read == "absence":
            assert self._transaction.kv.get("seen/absent") is None
        else:
            assert self._transaction.kv.list("seen/") == ["seen/there"]
        self._transaction.kv.put("written", 2)

    def meanwhile(self) -> None:
        """Another commit, which touches what was read or does not."""
        self._kv.put(self._run, self._other, "new")

    def end(self) -> None:
        """It commits, or conflicts if what it read was touched."""
        assert self._transaction.kv.get("seen/there") == 1  # still its own snapshot
        if self._touched:
            with pytest.raises(shoal.ConflictError) as caught:
                self._transaction.__exit__(None, None, None)
            assert caught.value.key == self._other
            assert self._kv.get(self._run, "written") is None
        else:
            before = self._db.info().commit_version
            self._transaction.__exit__(None, None, None)
            assert before < self._transaction.version <= self._db.info().commit_version
            assert self._kv.get(self._run, "written") == 2


def _outlive_the_coordinator(tidy: Path, written: str, readings: list[tuple[str, bool]]) -> None:
    with _open(tidy) as db:
        transactions = [_OpenTransaction(db, read, touched) for read, touched in readings]
        if written == "before":
            for transaction in transactions:
                transaction.meanwhile()
        _kill_coordinator(db)
        if written == "after":
            for transaction in transactions:
                transaction.meanwhile()
            time.sleep(0.2)  # the new coordinator's upkeep must not forget what they may conflict with
        for transaction in transactions:
            transaction.end()


READINGS = [("point", False), ("scan", False), ("point", True), ("absence", True), ("scan", True)]


@pytest.mark.parametrize("written", ["before", "after"])
@pytest.mark.parametrize("touched", [False, True], ids=["unrelated", "related"])
@leaves_nothing_open
def test_open_transactions_outlive_the_coordinator(tidy: Path, written: str, touched: bool) -> None:
    """Transactions open when the coordinator died commit, or conflict, as if it had not died.

    Another commit comes ``before`` or ``after`` the death; only if it touched what was read is there a conflict.
    """
    _outlive_the_coordinator(tidy, written, [reading for reading in READINGS if reading[1] == touched])


@pytest.mark.slow
@pytest.mark.parametrize("written", ["before", "after"])
@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: f"{reading[0]}-{reading[1]}")
@leaves_nothing_open
def test_every_open_transaction_outlives_the_coordinator(tidy: Path, written: str, reading: tuple[str, bool]) -> None:
    """The same one by one: each is the first that the new coordinator hears of."""
    _outlive_the_coordinator(tidy, written, [reading])


@leaves_nothing_open
def test_read_only_process_sees_the_next_coordinators_commits(tidy: Path) -> None:
    """A process that never commits finds the new coordinator with its next snapshot; old snapshots stay as they are."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()

    def read_only() -> None:
        with _open(tidy) as db:
            view = db.snapshot(RUN)
            there.send(view.kv.get("key"))
            there.recv()
            with db.snapshot(RUN) as fresh:
                there.send((view.kv.get("key"), fresh.kv.get("key"), shoal.KVStore(db).get(RUN, "key")))
            view.close()

    with _open(tidy) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "key", "old")
        reader = fork.Process(target=read_only)
        reader.start()
        try:
            assert here.poll(DEADLINE_S)
            assert here.recv() == "old"
            _kill_coordinator(db)
            kv.put(RUN, "key", "new")
            here.send("look again")
            assert here.poll(DEADLINE_S)
            assert here.recv() == ("old", "new", "new")
            reader.join(DEADLINE_S)
            assert reader.exitcode == 0
        finally:
            reader.kill()
            reader.join()
            reader.close()
            here.close()
            there.close()


def test_a_killed_helper_of_a_coordinator_whose_starter_ignores_sigchld(tidy: Path) -> None:
    """Its checkpoint does not count as written: the log stays; nothing is lost if the coordinator is killed then."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        db = shoal.open(tidy, linger=0.2)
    finally:
        signal.signal(signal.SIGCHLD, before)
    with db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "first", 1)
        coordinator = db.info().coordinator_pid
        helpers: list[str] = []
        while not helpers:
            kv.put(RUN, "large", bytes(1 << 20))
            helpers = Path(f"/proc/{coordinator}/task/{coordinator}/children").read_text().split()
        kill(int(helpers[0]))
        give_up_s = time.monotonic() + 0.5
        while (tidy / "wal-000000000001.log").exists() and time.monotonic() < give_up_s:
            time.sleep(0.005)
        kill(coordinator)
        kv.put(RUN, "last", 2)
        assert (kv.get(RUN, "first"), kv.get(RUN, "last"), db.check()) == (1, 2, [])
