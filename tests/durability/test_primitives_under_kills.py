"""Appends and transitions of many processes while the coordinator is killed: no gap, no double, no loss."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.support.histories.history_workers import seed_from
from tests.support.present import present
from tests.support.workers.crash_workers import DEADLINE_S, kill, wait_for

pytestmark = pytest.mark.long

_FORK = multiprocessing.get_context("fork")
RUN = "fleet"


def _append(path: Path, worker: int, count: int, results: Any) -> None:
    with shoal.open(path, timeout=DEADLINE_S, linger=0.2) as db:
        log = shoal.EventLog(db)
        results.put((worker, [log.append(RUN, f"of-{worker}", i).sequence for i in range(count)]))


def _transition(path: Path, worker: int, count: int, results: Any) -> None:
    with shoal.open(path, timeout=DEADLINE_S, linger=0.2) as db:
        cell = shoal.StateCell(db)
        told = [cell.transition(RUN, "counter", lambda s: (s.value + 1, s.value + 1)) for _ in range(count)]
        results.put((worker, told))


def _under_kills(
    path: Path, work: Callable[..., None], processes: int, count: int, kills: int, progress: Callable[[], int]
) -> dict[int, list[int]]:
    """Run ``work`` in processes and kill the coordinator at random moments of it; what each was told, in order."""
    rng = random.Random(seed_from(31))
    results = _FORK.Queue()
    workers = [_FORK.Process(target=work, args=(path, i, count, results)) for i in range(processes)]
    total = processes * count

    def has_come_to(due: int) -> bool:
        return progress() >= due

    with shoal.open(path, timeout=DEADLINE_S, linger=0.2) as db:
        for worker in workers:
            worker.start()
        try:
            for number in range(kills):
                # Spread over the work, each at a random moment of its share.
                due = int(total * (number + rng.random()) / (kills + 1))
                wait_for(partial(has_come_to, due), f"{due} of {total}")
                kill(db.info().coordinator_pid)
                time.sleep(rng.random() * 0.02)
            told = dict(results.get(timeout=DEADLINE_S) for _ in workers)
        finally:
            for worker in workers:
                worker.join(DEADLINE_S)
                worker.kill()
                worker.join()
    assert [worker.exitcode for worker in workers] == [0] * processes
    return told


def _appends(store: Path, processes: int, count: int, kills: int) -> None:
    with shoal.open(store, linger=0.2) as db:
        log = shoal.EventLog(db)
        told = _under_kills(store, _append, processes, count, kills, lambda: log.len(RUN))
        total = processes * count
        assert sorted(sequence for sequences in told.values() for sequence in sequences) == list(range(total))
        checked = log.verify_chain(RUN)
        assert (checked.is_valid, checked.length, checked.error) == (True, total, None)
        for worker, sequences in told.items():
            assert sequences == sorted(sequences)
            mine = log.read_by_type(RUN, f"of-{worker}")
            assert [(event.sequence, event.payload) for event in mine] == [
                (sequence, i) for i, sequence in enumerate(sequences)
            ]
        assert db.check() == []


def _transitions(store: Path, processes: int, count: int, kills: int) -> None:
    with shoal.open(store, linger=0.2) as db:
        cell = shoal.StateCell(db)
        cell.init(RUN, "counter", 0)
        told = _under_kills(
            store, _transition, processes, count, kills, lambda: present(cell.read(RUN, "counter")).value
        )
        total = processes * count
        assert sorted(value for values in told.values() for value in values) == list(range(1, total + 1))
        state = present(cell.read(RUN, "counter"))
        assert (state.value, state.version) == (total, total + 1)
        assert db.check() == []


def test_appends_while_the_coordinator_is_killed(store: Path) -> None:
    """Four processes append to one log through two kills."""
    _appends(store, 4, 100, 2)


def test_transitions_while_the_coordinator_is_killed(store: Path) -> None:
    """Four processes count in one cell through two kills."""
    _transitions(store, 4, 100, 2)


@pytest.mark.slow
def test_20_000_appends_of_8_processes_while_the_coordinator_is_killed_20_times(store: Path) -> None:
    """No gap, no duplicate, a valid chain, not one conflict."""
    _appends(store, 8, 2_500, 20)


@pytest.mark.slow
def test_5_000_transitions_of_each_of_8_processes_while_the_coordinator_is_killed_20_times(store: Path) -> None:
    """The exact sum; every process was told each of its steps once; none fails."""
    _transitions(store, 8, 5_000, 20)
