"""Room: a full store and a full disk refuse politely and recover; what nobody can see any more is given back."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.shm import limits
from tests.faults.disk.filling import MIB, RUN, TIMEOUT_S, delete_all, fill, soon
from tests.mutants.conditions import FULL_DISK_FLAG
from tests.mutants.coordinator import mutated_coordinators
from tests.support.histories.history_workers import seed_from
from tests.support.present import present
from tests.support.workers.crash_workers import kill, wait_for

pytestmark = pytest.mark.long


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[shoal.Database, Path]]:
    """A store on a disk that has no room for log files as long as the file given beside it exists."""
    flag = tmp_path / "full"
    monkeypatch.setenv(FULL_DISK_FLAG, str(flag))
    with (
        mutated_coordinators("full_disk"),
        shoal.open(tmp_path / "db", max_bytes=64 * MIB, timeout=TIMEOUT_S, linger=0.2) as db,
    ):
        yield db, flag


def test_full_disk_refuses_writes_and_recovers(full_disk: tuple[shoal.Database, Path]) -> None:
    """A disk without room is StoreFullError and no commit lost; reads and deletes go on; with room again writes do."""
    db, flag = full_disk
    kv = shoal.KVStore(db)
    kv.put(RUN, "before", 1)
    flag.touch()
    keys = fill(kv, "k", bytes(100_000), most=200)
    assert keys, "the log file at hand was not used"
    assert kv.get(RUN, "before") == 1
    assert kv.list(RUN, "k") == keys
    pid = db.info().coordinator_pid
    delete_all(kv, keys)
    assert kv.list(RUN, "k") == []
    flag.unlink()
    soon(lambda: kv.put(RUN, "after", bytes(1_000_000)))
    _fill_some(kv, 100)
    assert db.info().coordinator_pid == pid, "the coordinator did not survive a full disk"
    kill(pid)
    assert kv.increment(RUN, "before") == 2
    assert kv.get(RUN, "after") == bytes(1_000_000)
    assert kv.list(RUN, "k") == []
    assert len(kv.list(RUN, "more")) == 100
    assert db.check() == []


def _fill_some(kv: shoal.KVStore, count: int) -> None:
    for i in range(count):
        kv.put(RUN, f"more{i}", bytes(100_000))


@contextlib.contextmanager
def _tmpfs(path: Path, size: str) -> Iterator[None]:
    path.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size={size} shoal-test {path} 2>/dev/null") != 0:
        pytest.skip("needs root and mount(2) for a small tmpfs")
    try:
        yield
    finally:
        assert os.system(f"umount -l {path}") == 0


def test_really_full_disk(tmp_path: Path) -> None:
    """The same on a real file system of 24 MiB: it fills, refuses, and goes on once there is room."""
    disk = tmp_path / "disk"
    with _tmpfs(disk, "24m"), shoal.open(disk / "db", max_bytes=64 * MIB, timeout=TIMEOUT_S, linger=0.2) as db:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(8 * MIB))
        kv = shoal.KVStore(db)
        keys = fill(kv, "k", bytes(100_000), most=400)
        assert kv.list(RUN) == keys
        for key in keys[:50]:
            assert kv.delete(RUN, key)
        assert kv.list(RUN) == keys[50:]
        ballast.unlink()
        soon(lambda: kv.put(RUN, "after", 1))
        kill(db.info().coordinator_pid)
        soon(lambda: kv.put(RUN, "later", 2))
        assert kv.list(RUN) == ["after", *keys[50:], "later"]
        assert db.check() == []
        pid = db.info().coordinator_pid
        db.close()
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the coordinator to end", TIMEOUT_S)


def _segment_bytes(db: shoal.Database) -> int:
    """Memory that the coordinator's segment occupies."""
    pid = db.info().coordinator_pid
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            if "memfd:shoal-segment" in os.readlink(f"/proc/{pid}/fd/{fd}"):
                return os.stat(f"/proc/{pid}/fd/{fd}").st_blocks * 512
    raise AssertionError("the coordinator has no segment")


def _overwrite(tmp_path: Path, keys: int, overwrites: int, warm_up: int) -> None:
    rng = random.Random(seed_from(41))
    batch = 20
    with shoal.open(tmp_path / "db", durability="memory", max_bytes=256 * MIB, timeout=TIMEOUT_S, linger=0.2) as db:
        open_views: list[tuple[shoal.Transaction, str, list[tuple[str, Any]]]] = []
        used: list[int] = []
        taken: list[int] = []
        for done in range(0, overwrites, batch):
            with db.transaction(RUN) as txn:
                for _ in range(batch):
                    number = rng.randrange(keys)
                    txn.kv.put(f"k{number:06}", [done, bytes(rng.randint(0, 60))])
            if done % (5 * batch) == 0:
                view = db.snapshot(RUN)
                prefix = f"k{rng.randrange(keys // 10):05}"
                open_views.append((view, prefix, view.kv.list_with_values(prefix)))
            if len(open_views) > 20:
                view, prefix, seen = open_views.pop(rng.randrange(10))
                assert view.kv.list_with_values(prefix) == seen, "a snapshot changed"
                view.close()
            if done % 1_000 == 0 and done >= warm_up:
                used.append(db.info().bytes_used)
                taken.append(_segment_bytes(db))
        for view, _, _ in open_views:
            view.close()
        tenth = max(1, len(used) // 10)
        assert max(used[-tenth:]) < 1.25 * max(used[:tenth]) + MIB, f"bytes_used grew: {used[::tenth]}"
        assert max(taken[-tenth:]) < 1.25 * max(taken[:tenth]) + 4 * MIB, f"memory grew: {taken[::tenth]}"
        assert db.check() == []


@pytest.mark.slow
def test_overwriting_takes_no_more_memory(tmp_path: Path) -> None:
    """Memory stays flat while keys are overwritten under snapshots that open and close; none of them ever changes."""
    _overwrite(tmp_path, 1_000, 60_000, 10_000)


@pytest.mark.slow
def test_a_million_overwrites_take_no_more_memory(tmp_path: Path) -> None:
    """The same with a million overwrites of 10,000 keys, flat after the first 100,000."""
    _overwrite(tmp_path, 10_000, 1_000_000, 100_000)


def _sleepy_reader(path: Path, pipe: Any) -> None:
    with shoal.open(path, timeout=TIMEOUT_S) as db:
        view = db.snapshot(RUN)
        pipe.send(dict(view.kv.list_with_values()))
        pipe.recv()
        outcomes: list[Any] = []
        for read in (lambda: view.kv.get("k5"), lambda: dict(view.kv.list_with_values()), lambda: view.kv.get("none")):
            try:
                outcomes.append(read())
            except shoal.SnapshotExpiredError as error:
                outcomes.append(type(error).__name__)
        view.close()
        with db.snapshot(RUN) as fresh:
            outcomes.append(fresh.kv.get("k5"))
        pipe.send(outcomes)


def _overwrite_ten(kv: shoal.KVStore, most: int) -> None:
    """Write ``most`` bytes to ten keys."""
    for written in range(0, most, 60_000):
        soon(partial(kv.put, RUN, f"k{written // 60_000 % 10}", b"%d" % written + bytes(60_000)))


@pytest.mark.parametrize(
    "max_bytes",
    [pytest.param(16 * MIB, id="small store"), pytest.param(256 * MIB, id="large store", marks=pytest.mark.slow)],
)
def test_stopped_reader_does_not_hold_memory_for_ever(tmp_path: Path, max_bytes: int) -> None:
    """A SIGSTOPped reader's snapshot is revoked when space is short: writers go on, and it never reads wrong data."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    path = tmp_path / "db"
    with shoal.open(path, durability="memory", max_bytes=max_bytes, timeout=TIMEOUT_S, linger=0.2) as db:
        kv = shoal.KVStore(db)
        for i in range(10):
            kv.put(RUN, f"k{i}", f"first {i}")
        first = dict(kv.list_with_values(RUN))
        reader = fork.Process(target=_sleepy_reader, args=(path, there))
        reader.start()
        try:
            assert here.poll(TIMEOUT_S)
            assert here.recv() == first
            os.kill(present(reader.pid), signal.SIGSTOP)
            # Far more than the history allowed for, and after the grace of a snapshot again.
            begun = time.monotonic()
            _overwrite_ten(kv, 100 * MIB)
            time.sleep(max(0.0, begun + 2 * limits.SNAPSHOT_GRACE_S - time.monotonic()))
            for _ in range(10):
                _overwrite_ten(kv, 2 * MIB)
                used = db.info().bytes_used
                assert used < 60 * MIB, f"{used:,} bytes are in use for {10 * 60_000:,} bytes of data"
            os.kill(present(reader.pid), signal.SIGCONT)
            here.send("go on")
            assert here.poll(TIMEOUT_S)
            *old, fresh = here.recv()
            assert old == ["SnapshotExpiredError"] * 3
            assert fresh == kv.get(RUN, "k5")
            reader.join(TIMEOUT_S)
            assert reader.exitcode == 0
            assert db.check() == []
        finally:
            reader.kill()
            reader.join()
            here.close()
            there.close()


@pytest.mark.parametrize("size", [900_000, 20_000])
def test_a_small_store_opens_again_though_its_log_is_longer_than_it(store: Path, size: int) -> None:
    """Replay gives back what was deleted when it needs the room, as the coordinator did that wrote the log."""
    with shoal.open(store, max_bytes=8 << 20, linger=0.1) as db:
        kv, runs = shoal.KVStore(db), shoal.RunIndex(db)
        for _ in range(4):
            for i in range(3_600_000 // size):
                kv.put("run", f"key-{i}", "x" * size)
            runs.delete_run("run")
        kv.put("run", "last", 1)
        os.kill(db.info().coordinator_pid, signal.SIGKILL)
    with shoal.open(store, linger=0.1) as db:
        assert shoal.KVStore(db).list_with_values("run") == [("last", 1)]
        assert db.check() == []
