"""What calls cost as the number of runs grows."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import shoal

from .base import Result, Scenario, median, opened, times_of

_KEYS_PER_RUN = 100  # the most runs: the keys of the largest store by this
_FIRST_RUNS = 10
_SAMPLES = 500


class Runs(Scenario):
    """Runs of a key and an event each, some with a tag."""

    name = "runs"
    title = "runs: medians of one process's calls by the number of runs in the store, buffered"
    note = f"Runs by tag: {_FIRST_RUNS} runs have the tag, however many there are."

    def run(self, directory: Path) -> Result:
        """A tenth of the runs first, then all."""
        most = max(_FIRST_RUNS * 10, self.scale.keys // _KEYS_PER_RUN)
        with opened(directory / "store") as db:
            made = 0
            for runs in (most // 10, most):
                create_s = times_of(_creator(db, number) for number in range(made, runs))
                made = runs
                self.add("create a run", f"{runs:,} runs", median(create_s) * 1e6, "us")
                self._measure(db, runs)
        return self.result

    def _measure(self, db: shoal.Database, runs: int) -> None:
        rng = random.Random(runs)
        samples = [rng.randrange(runs) for _ in range(min(_SAMPLES, runs))]
        index, kv, events = shoal.RunIndex(db), shoal.KVStore(db), shoal.EventLog(db)
        calls: dict[str, Callable[[int], object]] = {
            "get a run": lambda number: index.get_run(_run(number)),
            "put in any run": lambda number: kv.put(_run(number), "status", number),
            "append in any run": lambda number: events.append(_run(number), "step", number),
        }
        for name, call in calls.items():
            times_s = times_of(lambda call=call, number=number: call(number) for number in samples)  # type: ignore[misc]
            self.add(name, f"{runs:,} runs", median(times_s) * 1e6, "us")
        query = shoal.RunQuery(tags=["rare"])
        times_s = times_of((lambda: index.query_runs(query),) * 10)
        self.add("runs by tag", f"{runs:,} runs", median(times_s) * 1e6, "us")


def _run(number: int) -> str:
    return f"run-{number:06}"


def _creator(db: shoal.Database, number: int) -> Callable[[], object]:
    tags = ["rare"] if number < _FIRST_RUNS else []

    def create() -> None:
        with db.transaction(_run(number)) as txn:
            txn.runs.create_run(run_id=_run(number), tags=tags)
            txn.kv.put("status", "new")
            txn.events.append("created", number)

    return create
