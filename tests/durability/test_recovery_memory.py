"""Reopening a store takes little memory beside the store itself, whatever the size of its checkpoint and its log."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

import shoal
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.recovery.recover import recover
from shoal.shm.files.storage import DiskStorage
from shoal.shm.limits import LOG_FILE_BYTES
from shoal.shm.memory.segment import Segment
from tests.support.workers.crash_workers import kill, wait_for

RUN = "memory"
MIB = 1 << 20
TIMEOUT_S = 120.0
# What a coordinator takes with nothing in its store, its modules above all, and what recovery has in hand at a time.
BESIDE_BYTES = 48 * MIB


def _put_all(db: shoal.Database, mib: int, size: int) -> None:
    """So many MiB of values of this size, a MiB in each commit."""
    for i in range(mib):
        with db.transaction(RUN) as txn:
            for j in range(MIB // size):
                txn.kv.put(f"{i}/{j}", os.urandom(size))


def _peak_bytes(pid: int) -> int:
    """The most memory that a process has had at any time, the shared included."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def _has_checkpoint(store: Path) -> bool:
    return any(entry.name.endswith(".ckpt") for entry in store.iterdir())


def _allocated_by_recovery(directory: Path) -> int:
    """The most that recovery of a store at rest has in memory at any time, beside the segment."""
    segment = Segment.create(128 * MIB, 1)
    writer = Writer(segment)
    tracemalloc.start()
    try:
        recover(DiskStorage(directory), writer, Reclaimer(writer, list))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        segment.close_descriptor()
    return peak_bytes


@pytest.mark.long
def test_recovery_has_a_piece_at_a_time_in_memory(tmp_path: Path) -> None:
    """Of a checkpoint and a log of 24 MiB each, recovery holds a block and a file."""
    with shoal.open(tmp_path / "db", max_bytes=128 * MIB, timeout=TIMEOUT_S, linger=0.2) as db:
        _put_all(db, 24, 50_000)
        db.backup(tmp_path / "checkpoint")
        kill(db.info().coordinator_pid)
    for directory in (tmp_path / "checkpoint", tmp_path / "db"):
        peak_bytes = _allocated_by_recovery(directory)
        assert peak_bytes < 3 * LOG_FILE_BYTES, f"{peak_bytes:,} bytes to recover {directory.name}"


@pytest.mark.slow
@pytest.mark.parametrize(("mib", "size"), [(64, 50_000), (64, 3_000)])
def test_reopening_takes_the_memory_of_the_store(tmp_path: Path, mib: int, size: int) -> None:
    """Peak memory of a coordinator that loads a checkpoint and replays a log: the live data and a constant beside."""
    _check(tmp_path / "db", mib, size, at_most=1.0)


@pytest.mark.slow
def test_reopening_a_large_store(tmp_path: Path) -> None:
    """A GiB of live data, and as much of log: less than 1.3 times the memory that the data takes."""
    _check(tmp_path / "db", 1024, 3_000, at_most=1.1)


def _check(store: Path, mib: int, size: int, at_most: float) -> None:
    with shoal.open(store, max_bytes=3 * mib * MIB, timeout=TIMEOUT_S, linger=0.2) as db:
        _put_all(db, mib, size)
        _put_all(db, mib // 3, size)
        wait_for(lambda: _has_checkpoint(store), "the first checkpoint", TIMEOUT_S)
        _put_all(db, mib // 2, size)
        kill(db.info().coordinator_pid)
        shoal.KVStore(db).put(RUN, "after", 1)  # starts the next coordinator
        info = db.info()
        peak_bytes = _peak_bytes(info.coordinator_pid)
        assert len(shoal.KVStore(db).list(RUN)) == mib * (MIB // size) + 1
    allowed = int(at_most * info.bytes_used) + BESIDE_BYTES
    assert peak_bytes < allowed, f"{peak_bytes:,} bytes to reopen a store of {info.bytes_used:,}"
