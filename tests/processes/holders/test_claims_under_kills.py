"""Claims while their holders are killed and stopped, and coordinators are killed: each task is done once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import shoal
from tests.processes.holders.claims_under_kills import Plan, shown, take_over_ms, work_and_kill
from tests.support.slow import slow

from .conftest import Start


@pytest.mark.long
@pytest.mark.parametrize(
    "plan",
    [
        Plan(tasks=60, workers=3, worker_kills=4, stops=1, coordinator_kills=2, ttl_s=0.5),
        *slow(
            Plan(tasks=150, workers=4, worker_kills=8, stops=2, coordinator_kills=3, ttl_s=0.5),
            Plan(tasks=1000, workers=8, worker_kills=80, stops=20, coordinator_kills=20, ttl_s=0.5),
        ),
    ],
)
def test_each_effect_once_and_every_late_commit_fenced(
    db: shoal.Database, start: Start, tmp_path: Path, plan: Plan
) -> None:
    """A stopped one loses its task after ttl, and what it commits then is refused; the effects are of the others."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    work_and_kill(db, start, tmp_path, plan, seed)


@pytest.mark.parametrize("deaths", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_a_death_is_noticed_at_once(db: shoal.Database, start: Start, deaths: int) -> None:
    """By who waits for the task: long before its ttl, and mostly within milliseconds, which are printed."""
    took_ms = take_over_ms(db, start, deaths)
    print(f"taken over after {deaths} deaths: {shown(took_ms)}")
    assert sorted(took_ms)[deaths // 2] < 500
