"""How long a store takes to be there again: after many commits, with many keys, and when its coordinator is killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import shoal

from ..peers import BenchError
from ..peers.shoal_store import LINGER_S, await_end
from .base import RECOVERY_TIMEOUT_S, RUN, Result, Scenario, fill, key_of, median, opened, timed, value_of

_COMMITS_SHARE = 10  # of the keys of the largest store
_PUT_KEYS = 10_000
_BYTES_PER_KEY = 400
_LEAST_BYTES = 256 * 1024**2


class Recovery(Scenario):
    """Reopen, load, and take over."""

    name = "recovery"
    title = "recovery: until a store is there again, buffered; ms"
    note = (
        "Reopened: its log has that many commits, and no checkpoint. Loaded: a checkpoint has that many keys. "
        "Killed: kill -9 of the coordinator until the next commit of an attached process is done."
    )

    def run(self, directory: Path) -> Result:
        """Each as often as there are rounds."""
        commits = self.scale.keys // _COMMITS_SHARE
        self._note(f"reopened after {commits:,} commits", self._reopen(directory / "log", commits))
        with opened(directory / "keys", max_bytes=self._bound_bytes()) as db:
            fill(db, RUN, range(self.scale.keys))
            copied = db.backup(directory / "copy")
            if copied < self.scale.keys:
                raise BenchError(f"{self.scale.keys} keys were put and a backup has {copied}")
            self._note(f"killed with {self.scale.keys:,} keys", self._kill(db))
        self._note(f"loaded {self.scale.keys:,} keys", self._open_often(directory / "copy", self.scale.keys))
        return self.result

    def _bound_bytes(self) -> int:
        return max(_LEAST_BYTES, self.scale.keys * _BYTES_PER_KEY)

    def _note(self, row: str, times_s: list[float]) -> None:
        self.add(row, "median", median(times_s) * 1e3, "ms")
        self.add(row, "longest", max(times_s) * 1e3, "ms", noisy=True)

    def _reopen(self, path: Path, commits: int) -> list[float]:
        with opened(path) as db:
            with db.pipeline(RUN) as pipe:
                for number in range(commits):
                    pipe.kv.put(key_of(number % _PUT_KEYS), value_of(number))
            pid = db.info().coordinator_pid
        await_end(pid)
        return self._open_often(path, min(commits, _PUT_KEYS))

    def _open_often(self, path: Path, keys: int) -> list[float]:
        times_s = []
        for _ in range(self.scale.rounds):
            begun_s = time.perf_counter()
            db = shoal.open(path, linger=LINGER_S, max_bytes=self._bound_bytes(), timeout=RECOVERY_TIMEOUT_S)
            times_s.append(time.perf_counter() - begun_s)
            found, pid = db.info().keys, db.info().coordinator_pid
            db.close()
            await_end(pid)
            if found < keys:
                raise BenchError(f"a store of {keys} keys has {found} after it was opened again")
        return times_s

    def _kill(self, db: shoal.Database) -> list[float]:
        kv, times_s = shoal.KVStore(db), []
        for number in range(self.scale.rounds):
            kv.put(RUN, "killed", number)
            os.kill(db.info().coordinator_pid, signal.SIGKILL)
            times_s.append(timed(lambda number=number: kv.put(RUN, "after", number)))  # type: ignore[misc]
            if (kv.get(RUN, "killed"), kv.get(RUN, "after")) != (number, number):
                raise BenchError("a commit is lost that was acknowledged before its coordinator was killed")
        return times_s
