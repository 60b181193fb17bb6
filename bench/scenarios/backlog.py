"""What putting, claiming and completing a task costs, by how many tasks are ready in its queue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import shoal

from .base import RUN, Result, Scenario, median, opened, timed

_FEW = 10
_SAMPLES, _BATCH = 1_000, 10
_BYTES_PER_TASK = 600  # of the store's bound
_LEAST_BYTES = 256 * 1024**2
_PAYLOAD = {"url": "https://example.org/page", "depth": 2}
_PUT_TOGETHER = 50_000


class Backlog(Scenario):
    """One process, and queues of different lengths in one store, measured in turn: each has what the others have."""

    name = "backlog"
    title = "backlog: medians of one process's calls by the number of ready tasks in the queue, buffered"
    note = f"{_SAMPLES:,} calls each, {_BATCH} at a time in each queue by turns. A task is put for each one claimed."

    def run(self, directory: Path) -> Result:
        """Fill all queues, then measure."""
        sizes = [_FEW, max(_FEW * 10, self.scale.keys // 100), self.scale.keys]
        with opened(directory / "store", max_bytes=max(_LEAST_BYTES, sizes[-1] * _BYTES_PER_TASK)) as db:
            queue = shoal.TaskQueue(db)
            for size in sizes:
                for start in range(0, size, _PUT_TOGETHER):
                    queue.put_many(RUN, str(size), (_PAYLOAD for _ in range(start, min(size, start + _PUT_TOGETHER))))
            times_s: dict[tuple[str, int], list[float]] = {}
            for _ in range(0, _SAMPLES, _BATCH):
                for size in sizes:
                    for name, took_s in _a_batch(queue, str(size)).items():
                        times_s.setdefault((name, size), []).extend(took_s)
        for (name, size), took_s in times_s.items():
            self.add(f"{name}, median", f"{size:,} ready", median(took_s) * 1e6, "us")
        for name in ("put", "claim", "complete"):
            ratio = median(times_s[name, sizes[-1]]) / median(times_s[name, _FEW])
            self.add(f"{name}, median", "last / first", ratio, "x")
        return self.result


def _a_batch(queue: shoal.TaskQueue, name: str) -> dict[str, list[float]]:
    """How long each call took of a few tasks put, claimed and completed."""
    tasks: list[shoal.Task | None] = []
    calls: dict[str, Callable[[], object]] = {
        "put": lambda: queue.put(RUN, name, _PAYLOAD),
        "claim": lambda: tasks.append(queue.claim(RUN, name)),
        "complete": lambda: _complete(tasks.pop()),
    }
    return {each: [timed(call) for _ in range(_BATCH)] for each, call in calls.items()}


def _complete(task: shoal.Task | None) -> None:
    assert task is not None
    task.complete(True)
