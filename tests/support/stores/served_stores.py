"""Stores that were served a few times, and what lies in their directories."""

from __future__ import annotations

from pathlib import Path

import shoal
from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log.format import file_number
from shoal.shm.files import store_files
from tests.support.workers.crash_workers import processes_of, wait_for

RUN = "run"


def serve_often(path: Path, count: int, durability: str | None = None, first: int = 0) -> None:
    """Serve a store so many times, one key each; every time begins a log file."""
    for i in range(first, first + count):
        with shoal.open(path, durability=durability, linger=0) as db:
            shoal.KVStore(db).put(RUN, f"k{i}", i)
        rests(path)


def rests(path: Path) -> None:
    """Wait for the end of its coordinator."""
    wait_for(lambda: not processes_of(path), "the coordinator to end", pause_s=0.02)


def logs_of(path: Path) -> list[Path]:
    """Its log files, by number."""
    return sorted(entry for entry in path.iterdir() if file_number(entry.name) is not None)


def keys_of(path: Path) -> list[str]:
    """Open it and list it; it is at rest again afterwards."""
    with shoal.open(path, linger=0) as db:
        assert db.check() == []
        found = shoal.KVStore(db).list(RUN)
    rests(path)
    return found


def named_log(store: Path) -> str:
    """The newest log file as ``store.json`` names it."""
    meta = store_files.read_meta(store)
    return "" if meta is None else wal_format.file_name(meta.log_number)
