"""What a process remembers of where keys are: bounded over all the runs that it has read, and never wrong."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import shoal
from shoal.shm.memory import reader

MOST = 10
KEYS = [f"key-{i}" for i in range(4)]


def _remembered(kv: shoal.KVStore) -> int:
    return sum(len(view._place.state[1]) for view in kv._views.values())


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "KEY_LOCATIONS", MOST)


def test_bounded_over_many_runs(few: None, tmp_path: Path) -> None:
    """A process that passes by any number of runs keeps no more than the limit, and reads what is there."""
    with shoal.open(tmp_path / "store", durability="memory", linger=0.1) as db:
        kv = shoal.KVStore(db)
        most = 0
        for run in range(20):
            for key in KEYS:
                kv.put(f"run-{run}", key, [run, key])
            for turn in range(2):
                for key in KEYS:
                    assert kv.get(f"run-{run}", key) == [run, key]
                    most = max(most, _remembered(kv))
                assert kv.get(f"run-{turn}", KEYS[0]) == [turn, KEYS[0]] or run < turn
        assert len(KEYS) <= most <= MOST  # remembered at all, and no more


def test_nothing_of_a_dead_coordinator(tmp_path: Path) -> None:
    """With another coordinator all runs are forgotten, not only those that are read again."""
    with shoal.open(tmp_path / "store", linger=0.1) as db:
        kv = shoal.KVStore(db)
        for run in range(5):
            kv.put(f"run-{run}", "key", run)
            for _ in range(2):  # the first read begins an epoch, the next remembers
                assert kv.get(f"run-{run}", "key") == run
        assert _remembered(kv) == 5
        os.kill(db.info().coordinator_pid, signal.SIGKILL)
        kv.put("run-0", "key", "new")
        for _ in range(2):
            assert kv.get("run-0", "key") == "new"
        assert _remembered(kv) == 1
        assert [kv.get(f"run-{run}", "key") for run in range(1, 5)] == [1, 2, 3, 4]
