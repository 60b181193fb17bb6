"""Processes that are attached and do nothing."""

from __future__ import annotations

import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import shoal
from tests.support.slow import slow

_FORK = multiprocessing.get_context("fork")
_SETTLES_S = 1.0
_IDLE_S = 2.0
_MOST_WAKES = 12  # of a coordinator, which looks twice a second for files that were removed; of a process none

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc counts how often a process is woken")


def _attached(path: Path, pipe: Connection) -> None:
    with shoal.open(path) as db:
        shoal.KVStore(db).put("run", "key", 1)
        pipe.send("ready")
        pipe.recv()


def _wakes(pid: int | None) -> int:
    """How often the threads of a process have slept."""
    statuses = [path.read_text().splitlines() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(
        int(line.split()[1]) for lines in statuses for line in lines if line.startswith("voluntary_ctxt_switches")
    )


@pytest.mark.long
@pytest.mark.parametrize("durability", [*slow("memory"), "buffered", *slow("strict")])
def test_an_idle_fleet_sleeps(tmp_path: Path, durability: str) -> None:
    """No process that is attached is woken, and the coordinator hardly ever is, once all is written to disk."""
    with shoal.open(tmp_path / "store", durability=durability) as db:
        fleet = []
        try:
            for _ in range(4):
                ours, theirs = _FORK.Pipe()
                process = _FORK.Process(target=_attached, args=(tmp_path / "store", theirs))
                process.start()
                fleet.append((process, ours))
            assert [pipe.recv() for _, pipe in fleet] == ["ready"] * 4
            time.sleep(_SETTLES_S)
            pids = [process.pid for process, _ in fleet]
            coordinator = db.info().coordinator_pid
            before, of_coordinator = [_wakes(pid) for pid in pids], _wakes(coordinator)
            time.sleep(_IDLE_S)
            assert [_wakes(pid) for pid in pids] == before
            assert _wakes(coordinator) - of_coordinator <= _MOST_WAKES
        finally:
            for process, pipe in fleet:
                pipe.send("end")
                process.join(30)
                assert process.exitcode == 0
