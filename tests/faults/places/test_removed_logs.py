"""What a cleaner removes of the durable files of a store being served is made again from memory, or is missed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

import shoal
from shoal.shm.files import checkpoint, store_files
from shoal.shm.limits import REMAKE_AFTER_S
from tests.support.slow import slow
from tests.support.stores.served_stores import RUN, keys_of, logs_of, named_log, rests, serve_often
from tests.support.workers.crash_workers import kill, wait_for

pytestmark = pytest.mark.long


def _remove(store: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in store.glob(pattern):
            path.unlink(missing_ok=True)


def test_logs_removed_and_all_killed_at_once(store: Path) -> None:
    """While it is served, before its coordinator could notice."""
    with shoal.open(store, linger=0) as db:
        shoal.KVStore(db).put(RUN, "k0", 0)
        _remove(store, "wal-*.log", "*.new", "epoch", "*.sock", "*.lock")
        kill(db.info().coordinator_pid)
    rests(store)
    with pytest.raises(shoal.CorruptionError, match="newest log file"):
        shoal.open(store, linger=0)


def test_the_named_file_is_the_newest_at_every_moment(store: Path) -> None:
    """Also when the log goes on in another file: what is acknowledged is never in one that nobody would miss."""
    seen = set()
    with shoal.open(store, linger=0) as db:
        kv = shoal.KVStore(db)
        for i in range(40):
            kv.put(RUN, f"k{i}", "v" * 300_000)
            written = [log.name for log in logs_of(store) if log.read_bytes()[:8].strip(b"\0")]
            assert named_log(store) == written[-1]
            seen.add(named_log(store))
        assert len(seen) > 2
        kill(db.info().coordinator_pid)
    rests(store)
    (store / named_log(store)).unlink()
    with pytest.raises(shoal.CorruptionError, match="newest log file"):
        shoal.open(store, linger=0)


def _is_whole(store: Path, version: int) -> bool:
    versions = [checkpoint.version_of(path.name) or 0 for path in store.glob("*.ckpt")]
    return max(versions, default=0) >= version and (store / named_log(store)).is_file()


CASES: dict[str, tuple[str, ...]] = {
    "logs": ("wal-*.log",),
    "logs and checkpoint": ("wal-*.log", "*.ckpt"),
    "checkpoint": ("*.ckpt",),
    "all": ("wal-*.log", "*.ckpt", "*.new", "epoch", "*.sock", "*.lock", "store.json"),
}


@pytest.mark.parametrize(
    ("end", "case"),
    [
        *(("kill", "all"), ("close", "logs"), ("close at once", "checkpoint")),
        *slow(*(("kill", case) for case in ("logs", "logs and checkpoint", "checkpoint"))),
        *slow(*(("close", case) for case in ("logs and checkpoint", "checkpoint", "all"))),
        *slow(*(("close at once", case) for case in ("logs", "logs and checkpoint", "all"))),
    ],
)
def test_removed_while_served(tmp_path: Path, end: str, case: str) -> None:
    """The coordinator has it all in memory: it writes a checkpoint and goes on in a new log, or does so at its end."""
    serve_often(tmp_path / "original", 2)
    store = tmp_path / "store"
    with shoal.open(tmp_path / "original", linger=0) as db:
        db.backup(store)
    with shoal.open(store, linger=0) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "k2", 2)
        _remove(store, *CASES[case])
        kv.put(RUN, "k3", 3)
        if end != "close at once":
            wait_for(lambda: _is_whole(store, 3 if case != "checkpoint" else 2), "the files", pause_s=0.02)
            kv.put(RUN, "k4", 4)
        if end == "kill":
            kill(db.info().coordinator_pid)
    rests(store)
    assert keys_of(store) == ["k0", "k1", "k2", "k3"] + (["k4"] if end != "close at once" else [])


def test_a_log_removed_before_a_checkpoint_removes_it(store: Path) -> None:
    """The coordinator goes on, whatever of its old files is there when a checkpoint makes them obsolete."""
    with shoal.open(store, linger=0, max_bytes=256 << 20) as db:
        kv = shoal.KVStore(db)
        pid = db.info().coordinator_pid
        for i in range(60):
            kv.put(RUN, f"k{i % 4}", bytes(1 << 20))
            if i % 10 == 5:
                logs_of(store)[0].unlink(missing_ok=True)  # a checkpoint may be first
        time.sleep(2 * REMAKE_AFTER_S)
        kv.put(RUN, "last", 1)
        assert db.info().coordinator_pid == pid
        wait_for(lambda: any(store.glob("*.ckpt")), "a checkpoint")
    rests(store)
    assert keys_of(store) == ["k0", "k1", "k2", "k3", "last"]


OPENERS: list[Callable[[Path], shoal.Database]] = [
    lambda path: shoal.open(path, linger=0, timeout=20),
    lambda path: shoal.open(path, read_only=True, timeout=20),
]


@pytest.mark.parametrize(
    ("durability", "opener"),
    [
        *(("buffered", OPENERS[0]), ("memory", OPENERS[1])),
        *slow(("buffered", OPENERS[1]), ("memory", OPENERS[0])),
    ],
    ids=["buffered-open", "memory-read only", "buffered-read only", "memory-open"],
)
def test_store_json_removed_while_served(
    store: Path, durability: str, opener: Callable[[Path], shoal.Database]
) -> None:
    """It is made again as it was, and meanwhile who opens the store attaches to the same coordinator."""
    with shoal.open(store, durability=durability, linger=0) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "k", 1)
        before = (store / store_files.META_FILE).read_bytes()
        pid = db.info().coordinator_pid
        (store / store_files.META_FILE).unlink()
        with opener(store) as other:
            assert other.info().coordinator_pid == pid
            assert shoal.KVStore(other).get(RUN, "k") == 1
        wait_for((store / store_files.META_FILE).exists, "store.json")
        assert (store / store_files.META_FILE).read_bytes() == before
        with opener(store) as other:
            assert other.info().coordinator_pid == pid
        kv.put(RUN, "k", 2)
        assert db.info().coordinator_pid == pid
