"""A store's directory is moved, deleted or replaced while processes have it open: no commit goes anywhere else."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.shm.files import control_address, notes
from tests.support.coordinators import is_alive
from tests.support.shared_memory import store_of
from tests.support.slow import slow
from tests.support.stores.moves import (
    ALIKE,
    MOVES,
    RUN,
    deleted,
    deleted_and_made_anew,
    renamed,
    replaced_by_store,
)

DURABILITIES = ["buffered", *slow("memory", "strict")]


def _fill(db: shoal.Database, keys: int = 10) -> None:
    kv = shoal.KVStore(db)
    for i in range(keys):
        kv.put(RUN, f"k{i}", i)


def _keys(path: Path) -> list[str]:
    with shoal.open(path, linger=0) as db:
        return shoal.KVStore(db).list(RUN)


def _kill(db: shoal.Database) -> None:
    """Kill the coordinator and wait until both pipes to it have ended: nothing more can be sent to it."""
    attachment = store_of(db).connection.attachment
    os.kill(db.info().coordinator_pid, signal.SIGKILL)
    for fd in (attachment.answer_fd, attachment.request_fd):
        ended = select.poll()
        ended.register(fd, 0)
        assert ended.poll(20_000), "the coordinator's pipes do not end"


def _gone(pid: int) -> None:
    deadline_s = time.monotonic() + 20
    while is_alive(pid):
        assert time.monotonic() < deadline_s, f"process {pid} does not end"
        time.sleep(0.01)


def _looks(path: Path) -> object:
    """What is at a path: names, contents and times."""
    if path.is_file():
        return path.read_bytes()
    if not path.exists():
        return None
    return {
        str(entry.relative_to(path)): (entry.stat().st_mtime_ns, entry.read_bytes() if entry.is_file() else None)
        for entry in sorted(path.rglob("*"))
    }


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A store's path whose parents may be moved."""
    path = tmp_path / "grandparent" / "parent" / "store"
    path.parent.mkdir(parents=True)
    return path


def _moves() -> Iterator[Any]:
    """Every move, with the coordinator alive or killed, in each durability; by default the buffered ones below."""
    for move in MOVES:
        for durability in ("buffered", "memory", "strict"):
            for alive in (True, False):
                quick = durability == "buffered" and move not in ALIKE and (alive or move is renamed)
                name = f"{move.__name__}-{'alive' if alive else 'killed'}-{durability}"
                yield pytest.param(move, alive, durability, id=name, marks=[] if quick else [pytest.mark.slow])


@pytest.mark.parametrize(("move", "alive", "durability"), list(_moves()))
def test_next_commit_is_refused(deep: Path, move: Callable[[Path], Path | None], alive: bool, durability: str) -> None:
    """With the coordinator alive or dead: nothing is committed or made at the old path, and nothing is lost."""
    db = shoal.open(deep, durability=durability, linger=0.2)
    _fill(db)
    kv = shoal.KVStore(db)
    snapshot = db.snapshot(RUN)
    pid = db.info().coordinator_pid
    if not alive:
        _kill(db)
    target = move(deep)
    there = _looks(deep)
    for commit in (
        lambda: kv.put(RUN, "late", 1),
        lambda: kv.increment(RUN, "late"),
        lambda: db.transact(RUN, lambda txn: txn.kv.put("late", txn.kv.get("k1"))),
        lambda: shoal.EventLog(db).append(RUN, "late", {}),
    ):
        with pytest.raises(shoal.StoreMovedError, match="not written; close this database") as raised:
            commit()
        assert raised.value.path == str(deep)
        assert not raised.value.in_doubt
    _gone(pid)
    assert snapshot.kv.list() == [f"k{i}" for i in range(10)]
    assert kv.get(RUN, "k3") == 3
    snapshot.close()
    assert _looks(deep) == there, "something was made or changed at the old path"
    db.close()
    with pytest.raises(shoal.InvalidOperationError):
        kv.put(RUN, "late", 1)
    if target is not None:
        assert _keys(target) == ([] if durability == "memory" else [f"k{i}" for i in range(10)])
        with shoal.open(target, linger=0, read_only=True) as found:
            assert found.check() == []


@pytest.mark.parametrize("durability", DURABILITIES)
def test_it_stays_refused(deep: Path, durability: str) -> None:
    """Each further commit says the same, though the directory is moved back: the process opens the store again."""
    with shoal.open(deep, durability=durability, linger=0.2) as db:
        _fill(db)
        target = renamed(deep)
        assert target is not None
        for _ in range(2):
            with pytest.raises(shoal.StoreMovedError):
                shoal.KVStore(db).put(RUN, "late", 1)
        _gone(db.info().coordinator_pid)
        target.rename(deep)
        with pytest.raises(shoal.StoreMovedError):
            shoal.KVStore(db).put(RUN, "late", 1)
        assert "late" not in _keys(deep)


def test_moved_and_back_between_two_commits(deep: Path) -> None:
    """The store is where it was: nothing has happened."""
    with shoal.open(deep, linger=0.2) as db:
        _fill(db)
        target = renamed(deep)
        assert target is not None
        target.rename(deep)
        shoal.KVStore(db).put(RUN, "later", 1)
        assert len(_keys(deep)) == 11


@pytest.mark.parametrize("durability", ["buffered", *slow("strict")])
def test_new_path_opens_while_the_old_coordinator_serves(deep: Path, durability: str) -> None:
    """Whoever opens the store at its new path waits for the old coordinator's end and finds all of it."""
    with shoal.open(deep, durability=durability, linger=5) as db:
        _fill(db)
        pid = db.info().coordinator_pid
        target = renamed(deep)
        assert target is not None
        with shoal.open(target, linger=0) as found:
            assert len(shoal.KVStore(found).list(RUN)) == 10
            assert found.info().coordinator_pid != pid
            shoal.KVStore(found).put(RUN, "new", 1)
            with pytest.raises(shoal.StoreMovedError):
                shoal.KVStore(db).put(RUN, "late", 1)
            assert shoal.KVStore(found).list(RUN)[-1] == "new"
            assert not deep.exists()
        _gone(pid)


@pytest.mark.long
def test_idle_coordinator_ends(deep: Path) -> None:
    """Without a commit it notices by itself, and its log is closed in order."""
    with shoal.open(deep, linger=30) as db:
        _fill(db)
        pid = db.info().coordinator_pid
        target = renamed(deep)
        assert target is not None
        _gone(pid)
        assert not (target / control_address.SOCKET_FILE).exists()
        assert not (target / notes.NOTES_FILE).exists()
        assert not deep.exists()


@pytest.mark.long
def test_symbolic_link_to_another_store(tmp_path: Path) -> None:
    """The path leads to another directory: a process that had the first open does not commit into the second."""
    first, second, link = tmp_path / "first", tmp_path / "second", tmp_path / "link"
    with shoal.open(second, linger=0) as db:
        _fill(db, 1)
    first.mkdir(mode=0o700)
    link.symlink_to(first)
    with shoal.open(link, linger=0.2) as db:
        _fill(db)
        pid = db.info().coordinator_pid
        link.unlink()
        link.symlink_to(second)
        _gone(pid)
        with pytest.raises(shoal.StoreMovedError):
            shoal.KVStore(db).put(RUN, "late", 1)
    assert _keys(second) == ["k0"]
    assert len(_keys(first)) == 10


def _commit_until_moved(path: str, acknowledged: Any, ready: Any) -> None:
    with shoal.open(path, linger=0.2) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, f"{os.getpid()}-start", 0)
        ready.release()
        i = 0
        try:
            while True:
                kv.put(RUN, f"{os.getpid()}-{i}", i)
                i += 1
        except shoal.StoreMovedError:
            acknowledged.put((os.getpid(), i))


@pytest.mark.long
@pytest.mark.parametrize("durability", ["buffered", *slow("strict")])
@pytest.mark.parametrize("kill", [*slow(False), True])
def test_a_fleet_loses_nothing(deep: Path, durability: str, kill: bool) -> None:
    """Processes commit while the directory is moved: what was acknowledged is in it, and every one of them is told."""
    context = get_context("spawn")
    acknowledged, ready = context.Queue(), context.Semaphore(0)
    with shoal.open(deep, durability=durability, linger=0.2) as db:
        workers = [context.Process(target=_commit_until_moved, args=(str(deep), acknowledged, ready)) for _ in range(3)]
        for worker in workers:
            worker.start()
        try:
            for _ in workers:
                assert ready.acquire(timeout=30)
            time.sleep(0.2)
            target = renamed(deep)
            if kill:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(db.info().coordinator_pid, signal.SIGKILL)
            counts = dict(acknowledged.get(timeout=30) for _ in workers)
        finally:
            for worker in workers:
                worker.join(20)
                worker.kill()
    assert not deep.exists()
    assert target is not None
    found = set(_keys(target))
    for pid, count in counts.items():
        assert {f"{pid}-{i}" for i in range(count)} <= found


def _child_commits(db: shoal.Database, said: Any) -> None:
    try:
        shoal.KVStore(db).put(RUN, "child", 1)
        said.put("committed")
    except shoal.ShoalError as error:
        said.put(type(error).__name__)


@pytest.mark.long
def test_a_forked_child_is_told_too(deep: Path) -> None:
    """It belongs to the store that its parent had opened."""
    context = get_context("fork")
    said = context.Queue()
    with shoal.open(deep, linger=0.2) as db:
        _fill(db)
        pid = db.info().coordinator_pid
        deleted_and_made_anew(deep)
        child = context.Process(target=_child_commits, args=(db, said))
        child.start()
        assert said.get(timeout=30) == "StoreMovedError"
        child.join(20)
        _gone(pid)
    assert _keys(deep) == ["other"]


def _name(_item: int) -> str:
    path: str = shoal.current_database().path
    return path


@pytest.mark.long
@pytest.mark.parametrize("move", [renamed, *slow(deleted, replaced_by_store)])
def test_what_a_process_begets_makes_nothing(deep: Path, move: Callable[[Path], Path | None]) -> None:
    """A Database that arrives in another process, and a pool's new worker, attach to the store that was opened only."""
    with shoal.WorkerPool(deep, workers=1, linger=0.2) as pool:
        db = pool.database
        _fill(db)
        sent = pickle.dumps(db)
        (worker,) = {future.result(30) for future in [pool.submit(os.getpid)]}
        pid = db.info().coordinator_pid
        move(deep)
        _gone(pid)
        there = _looks(deep)
        with pytest.raises(shoal.StoreMovedError):
            pickle.loads(sent)
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(Exception):  # noqa: B017, PT011 (whatever a pool says of workers that cannot begin)
            pool.submit(_name, 1).result(20)
        assert _looks(deep) == there


@pytest.mark.long
def test_info_check_and_backup_after_a_move(deep: Path, tmp_path: Path) -> None:
    """What needs no coordinator goes on in memory; what needs one says what happened."""
    with shoal.open(deep, linger=0.2) as db:
        _fill(db)
        renamed(deep)
        _gone(db.info().coordinator_pid)
        assert db.info().keys == 10
        assert db.backup(tmp_path / "backup") == 10
        with pytest.raises(shoal.StoreMovedError):
            db.check()
    assert len(_keys(tmp_path / "backup")) == 10


@pytest.mark.long
def test_in_flight_when_the_coordinator_dies(deep: Path) -> None:
    """A commit that was sent to a coordinator which died before it answered may be done: the error says so."""
    with shoal.open(deep, linger=0.2) as db:
        _fill(db)
        pid = db.info().coordinator_pid
        os.kill(pid, signal.SIGSTOP)
        raised: list[BaseException] = []

        def commit() -> None:
            try:
                shoal.KVStore(db).put(RUN, "late", 1)
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=commit)
        thread.start()
        time.sleep(0.3)
        target = renamed(deep)
        os.kill(pid, signal.SIGKILL)
        thread.join(30)
        (error,) = raised
        assert isinstance(error, shoal.StoreMovedError)
        assert error.in_doubt
        assert "whether this commit is done" in str(error)
        assert target is not None
        assert len(_keys(target)) == 10  # it was stopped before the commit came
        with pytest.raises(shoal.StoreMovedError, match="was not written"):
            shoal.KVStore(db).put(RUN, "later", 1)
