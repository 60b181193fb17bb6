"""How long one process's commits wait while another deletes a large run.

A process commits small puts without a pause and notes how long each takes. After a while another process deletes a run
of many keys, whose memory is reclaimed in slices from then on. The latencies from the beginning of the deletion until
the memory is free again are compared with those before, which show what the machine itself does to the 99.9th
percentile.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import shoal

from ..latencies import SHARES, percentiles
from ..peers import BenchError
from .base import RUN, Result, Scenario, fill, median, opened
from .committer import committing

_RUN = "run-to-delete"
_KEYS_SHARE = 10  # of the keys of the largest store
_LEAST_KEYS = 5_000  # so many that the memory they leave stands out from what the committer writes meanwhile
_BEFORE_ROUNDS = 1.0  # seconds of a round, of commits before the deletion
_RECLAIM_TIMEOUT_S = 60.0
_NOISY = ("p99.9", "longest")


class Stall(Scenario):
    """A run with a tenth of the largest store's keys is deleted."""

    name = "stall"
    title = "stall: another process's commits while a large run is deleted, buffered; ms"
    note = (
        "Meanwhile: from the beginning of the deletion until its memory is back. Before: the same process before that."
    )

    def run(self, directory: Path) -> Result:
        """Some rounds, each with a new store; medians of them."""
        keys = max(_LEAST_KEYS, self.scale.keys // _KEYS_SHARE)
        rounds = [self._round(directory / f"store-{number}", keys) for number in range(self.scale.rounds)]
        self.result.title += f"; a run of {keys:,} keys"
        self.add("delete_run", "meanwhile", median(deleted_s for deleted_s, _, _ in rounds) * 1e3, "ms")
        before, meanwhile = [found[1] for found in rounds], [found[2] for found in rounds]
        for column, times_s in (("before", before), ("meanwhile", meanwhile)):
            for name in SHARES:
                value_ms = median(found[name] for found in times_s) * 1e3
                self.add(f"commit, {name}", column, value_ms, "ms", noisy=name in _NOISY)
        return self.result

    def _round(self, path: Path, keys: int) -> tuple[float, dict[str, float], dict[str, float]]:
        with opened(path) as db:
            fill(db, RUN, range(1_000))
            empty = db.info().bytes_used
            shoal.RunIndex(db).create_run(run_id=_RUN)
            fill(db, _RUN, range(keys))
            run_bytes = db.info().bytes_used - empty
            with committing(path) as committers:
                time.sleep(self.scale.seconds_s * _BEFORE_ROUNDS)
                used, begun_s = db.info().bytes_used, time.monotonic()
                shoal.RunIndex(db).delete_run(_RUN)
                deleted_s = time.monotonic() - begun_s
                while db.info().bytes_used > used - run_bytes // 2:  # the rest is history that the writer makes
                    if time.monotonic() - begun_s > _RECLAIM_TIMEOUT_S:
                        raise BenchError(f"the memory of a deleted run is not back after {_RECLAIM_TIMEOUT_S:.0f} s")
                    time.sleep(0.01)
                latencies = committers.stop()
        meanwhile = [took_s for at_s, took_s in latencies if at_s + took_s >= begun_s]
        before = [took_s for at_s, took_s in latencies if at_s + took_s < begun_s]
        return deleted_s, _known(before), _known(meanwhile)


def _known(times_s: Sequence[float]) -> dict[str, float]:
    if not times_s:
        raise BenchError("no commit was made before or during the deletion; give longer rounds (--seconds)")
    return percentiles(times_s)
