"""Commits a second and their latency over time, with the checkpoints that are written meanwhile.

Values are large, so that the log grows fast and checkpoints are due while this measures. A checkpoint is being written
as long as there is a file in the store under the name that a checkpoint has until it is whole.
"""

from __future__ import annotations

import time
from pathlib import Path

from ..latencies import percentiles
from .base import RUN, Result, Scenario, fill, opened
from .committer import Latencies, committing

_PROCESSES = 4
_VALUE_BYTES = 4_096
_KEYS_SHARE = 10  # of the keys of the largest store
_ROUNDS = 10.0  # seconds of a round, that it lasts
_UNFINISHED = "checkpoint-*.new"
_LOOK_EVERY_S = 0.005
_POINTS = 100
_NOISY = ("p99.9", "longest")
Span = tuple[float, float]


class Timeline(Scenario):
    """Four processes commit."""

    name = "timeline"
    title = f"timeline: {_PROCESSES} processes put {_VALUE_BYTES:,} bytes a commit, buffered, checkpoints meanwhile"
    note = "A commit counts as made while a checkpoint was written if it was under way at any time of that."

    def run(self, directory: Path) -> Result:
        """One long round."""
        path = directory / "store"
        with opened(path) as db:
            fill(db, RUN, range(self.scale.keys // _KEYS_SHARE))
            with committing(path, _PROCESSES, _VALUE_BYTES) as committers:
                begun_s = time.monotonic()
                spans = _watch(path, begun_s + _ROUNDS * self.scale.seconds_s)
                ended_s = time.monotonic()
                latencies = committers.stop()
        latencies = [(at_s, took_s) for at_s, took_s in latencies if begun_s <= at_s < ended_s]
        during = [took_s for at_s, took_s in latencies if _is_in(at_s, took_s, spans)]
        without = [took_s for at_s, took_s in latencies if not _is_in(at_s, took_s, spans)]
        self.add("commits a second", "all", len(latencies) / (ended_s - begun_s), "a second", higher_is_better=True)
        self.add("checkpoints", "all", len(spans), "", noisy=True)
        for column, times_s in (("without a checkpoint", without), ("while one is written", during)):
            for name, value_s in percentiles(times_s).items():
                self.add(f"commit, {name}", column, value_s * 1e3, "ms", noisy=name in _NOISY)
        self.result.series["points"] = _points(latencies, begun_s, ended_s)
        self.result.series["checkpoints"] = [(start_s - begun_s, end_s - begun_s) for start_s, end_s in spans]
        return self.result


def _watch(path: Path, until_s: float) -> list[Span]:
    """The times at which a checkpoint was being written, until then."""
    spans: list[Span] = []
    since_s: float | None = None
    while (now_s := time.monotonic()) < until_s:
        if any(path.glob(_UNFINISHED)):
            since_s = now_s if since_s is None else since_s
        elif since_s is not None:
            spans.append((since_s, now_s))
            since_s = None
        time.sleep(_LOOK_EVERY_S)
    if since_s is not None:
        spans.append((since_s, now_s))
    return spans


def _is_in(at_s: float, took_s: float, spans: list[Span]) -> bool:
    return any(at_s < end_s and at_s + took_s > start_s for start_s, end_s in spans)


def _points(latencies: Latencies, begun_s: float, ended_s: float) -> list[tuple[float, float, float]]:
    """Per slice of time: its middle in seconds, commits a second, and their p99 in seconds (0 if there was none)."""
    width_s = (ended_s - begun_s) / _POINTS
    slices: list[list[float]] = [[] for _ in range(_POINTS)]
    for at_s, took_s in latencies:
        slices[min(_POINTS - 1, int((at_s - begun_s) / width_s))].append(took_s)
    return [
        ((place + 0.5) * width_s, len(times_s) / width_s, percentiles(times_s).get("p99", 0.0))
        for place, times_s in enumerate(slices)
    ]
