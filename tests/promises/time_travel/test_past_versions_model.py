"""Past versions against a plain model, a list of dicts, one for each version; the coordinator is killed meanwhile."""

from __future__ import annotations

import os
import random
import signal
from bisect import bisect_right
from datetime import UTC, datetime
from pathlib import Path

import pytest

import shoal
from tests.support.slow import slow

RUNS = ("r", "s")
Model = dict[str, dict[str, object]]


def step(db: shoal.Database, rng: random.Random, model: Model) -> tuple[int, Model]:
    """One random commit; its version and what the store holds then."""
    now = {run: dict(keys) for run, keys in model.items()}
    with db.transaction("r") as txn:
        if rng.random() < 0.05 and any(now.values()):
            run = rng.choice([run for run in RUNS if now[run]])
            txn.runs.delete_run(run)
            now[run] = {}
        for _ in range(rng.randint(1, 4)):
            run, key = rng.choice(RUNS), f"k{rng.randint(0, 40)}"
            if rng.random() < 0.2:
                txn.on(run).kv.delete(key)
                now[run].pop(key, None)
            else:
                value = rng.choice([rng.randint(0, 9), "x" * rng.choice([3, 300, 30_000])])
                txn.on(run).kv.put(key, value)
                now[run][key] = value
        txn.kv.put("step", rng.random())
        now["r"]["step"] = txn.kv.get("step")
    return txn.version, now


def check(db: shoal.Database, version: int, expected: Model, rng: random.Random) -> None:
    with db.snapshot("r", version=version) as past:
        for run in RUNS:
            assert dict(past.on(run).kv.list_with_values()) == expected[run], f"version {version}"
            key = f"k{rng.randint(0, 40)}"
            assert past.on(run).kv.get(key) == expected[run].get(key)


@pytest.mark.long
@pytest.mark.parametrize("steps", [120, *slow(400)])
@pytest.mark.parametrize("durability", ["buffered", "memory"])
def test_every_version_is_what_the_model_was(store: Path, durability: str, steps: int) -> None:
    """Whatever is reclaimed meanwhile, and after kill -9 of the coordinator: reads by version and by moment."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    versions: list[tuple[int, Model]] = [(0, {run: {} for run in RUNS})]
    moments: list[tuple[datetime, int]] = []
    with shoal.open(store, durability=durability, history=3600) as db:
        held = db.snapshot("r", version=0)
        for i in range(steps):
            versions.append(step(db, rng, versions[-1][1]))
            moments.append((datetime.now(UTC), versions[-1][0]))
            if durability != "memory" and i in (steps // 3, steps * 2 // 3):
                os.kill(db.info().coordinator_pid, signal.SIGKILL)
            if rng.random() < 0.1:
                check(db, *rng.choice(versions), rng)
        assert held.kv.list() == []
        held.close()
        for version, expected in versions:
            check(db, version, expected, rng)
        for moment, version in rng.sample(moments, 50):
            with db.snapshot("r", at=moment) as past:
                assert past.version == version
        # Any version between two commits of the model (of the coordinator's own) reads as the older of the two.
        numbers = [version for version, _ in versions]
        for version in range(numbers[-1]):
            with db.snapshot("r", version=version) as past:
                _, expected = versions[bisect_right(numbers, version) - 1]
                assert past.kv.get("step") == expected["r"].get("step")
        assert db.check() == []
