"""Past versions after the death of the coordinator and at rest: an old checkpoint, the log since, and the moments."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

import shoal
from shoal import KVStore

pytestmark = pytest.mark.long

VALUE = os.urandom(400_000)


def wait_until(condition: Callable[[], object]) -> None:
    until_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until_s, "it does not come"
        time.sleep(0.05)


def checkpoints(store: Path) -> list[str]:
    return sorted(path.name for path in store.glob("checkpoint-*.ckpt"))


def logs(store: Path) -> list[str]:
    return sorted(path.name for path in store.glob("wal-*.log"))


def kill(db: shoal.Database) -> None:
    os.kill(db.info().coordinator_pid, signal.SIGKILL)


def put_many(db: shoal.Database, count: int) -> list[tuple[datetime, int]]:
    """Commits of some MiB in all; the moment and version of each."""
    done = []
    for i in range(count):
        with db.transaction("r") as txn:
            txn.kv.put(f"k{i % 3}", VALUE[: 400_000 - i])
            txn.kv.increment("n")
        done.append((datetime.now(UTC), txn.version))
    return done


def check(db: shoal.Database, done: list[tuple[datetime, int]]) -> None:
    for i, (moment, version) in enumerate(done):
        with db.snapshot("r", version=version) as past:
            assert past.kv.get(f"k{i % 3}") == VALUE[: 400_000 - i]
            assert past.kv.get("n") == i + 1
        with db.snapshot("r", at=moment) as past:
            assert past.version == version


def test_versions_before_checkpoints_outlive_the_coordinator(store: Path) -> None:
    """Checkpoints come and go, the coordinator is killed: all past versions are there, and the files are sound."""
    with shoal.open(store, max_bytes=512 << 20, history=3600) as db:
        done = put_many(db, 100)
        wait_until(lambda: len(checkpoints(store)) == 1)
        kill(db)
        check(db, done)
        for i in range(100, 200):
            KVStore(db).put("r", f"other{i % 2}", VALUE)
        wait_until(lambda: len(checkpoints(store)) == 2)
        kill(db)
        check(db, done)
        assert db.check() == []
    with shoal.open(store, read_only=True) as db:
        check(db, done)


def test_files_go_when_their_versions_are_not_kept(store: Path) -> None:
    """With the history's time over, one checkpoint and the log after it are left, as without history."""
    with shoal.open(store, max_bytes=512 << 20, history=2) as db:
        first = put_many(db, 100)[0][1]
        wait_until(lambda: checkpoints(store))
        before = logs(store)

        def settled() -> bool:
            KVStore(db).put("r", "k", 1)
            return len(checkpoints(store)) == 1 and logs(store)[0] > before[0]

        wait_until(settled)
        with pytest.raises(shoal.SnapshotExpiredError):
            db.snapshot("r", version=first)
        kill(db)
        assert KVStore(db).get("r", "n") == 100
        with pytest.raises(shoal.SnapshotExpiredError):
            db.snapshot("r", version=first)


def test_the_moments_file_is_lost(store: Path) -> None:
    """Then what is older than the restart is SnapshotExpiredError, by version and moment; the data are all there."""
    with shoal.open(store, history=3600) as db:
        done = put_many(db, 5)
        kill(db)
        (path,) = store.glob("moments-*")
        path.unlink()
        for moment, version in done:
            with pytest.raises(shoal.SnapshotExpiredError):
                db.snapshot("r", version=version - 1)
            with pytest.raises(shoal.SnapshotExpiredError):
                db.snapshot("r", at=moment)
        with db.snapshot("r", version=done[-1][1]) as past:
            assert past.kv.get("n") == 5


def test_history_begins_and_ends_with_the_option(store: Path) -> None:
    """Without it nothing is kept, also not for a later opening with it."""
    with shoal.open(store, linger=0) as db:
        first = put_many(db, 3)[0][1]
    with shoal.open(store, linger=0, history=60) as db:
        assert (db.info().history_version or 0) > first
        with pytest.raises(shoal.SnapshotExpiredError):
            db.snapshot("r", version=first)
        second = put_many(db, 3)[0][1]
    with shoal.open(store, linger=0) as db, db.snapshot("r", version=second):
        pass
    with shoal.open(store, linger=0, history=0):
        pass
    with shoal.open(store, history=60) as db, pytest.raises(shoal.SnapshotExpiredError):
        db.snapshot("r", version=second)


def test_memory_that_is_short_at_recovery(store: Path) -> None:
    """A store that opens with less memory has less of the past, and all of the present."""
    with shoal.open(store, max_bytes=256 << 20, history=3600, linger=0) as db:
        done = put_many(db, 60)
    with shoal.open(store, max_bytes=16 << 20) as db:
        oldest = db.info().history_version
        assert oldest is not None
        assert oldest > done[0][1]
        kept = [i for i, (_, version) in enumerate(done) if version >= oldest]
        assert kept
        for i in kept:
            with db.snapshot("r", version=done[i][1]) as past:
                assert past.kv.get("n") == i + 1
        assert db.check() == []
