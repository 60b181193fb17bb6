"""A round: a fresh store under load, some tens or hundreds of kills, and then an audit of everything acknowledged.

Load is what the soak's workers do. A kill counts only if the killed coordinator, or worker, had commits acknowledged
before; those that hit a coordinator while it starts and recovers come on top.
"""

from __future__ import annotations

import functools
import gc
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import shoal
from tests.soak import ledger, samples
from tests.soak.auditing.audit import audit, prepare
from tests.soak.auditing.breach import LEFT_BEHIND, WRONG, Breach
from tests.soak.ledger import Slots
from tests.soak.workload.operations import LINGER_S, TIMEOUT_S, WRITING_MIX, start_worker
from tests.support.workers.crash_workers import (
    descriptors,
    kill,
    processes_of,
    shoal_mappings,
    strangers,
    wait_for,
    wait_until_left,
)

WORKERS = 3
PAUSE_S = 0.001
MAX_BYTES = 128 * 1024 * 1024
_KILLS_IN_START = 0.1  # so many of the kills of a coordinator are followed by one of the next while it starts
_LONGEST_START_S = 0.35
_POLL_S = 0.001


class Round(NamedTuple):
    """What is killed, and how often."""

    number: int
    what: str  # "workers" or "coordinators"
    durability: str
    kills: int


class Killing:
    """One round at work."""

    def __init__(self, plan: Round, directory: Path, seed: int) -> None:
        self._plan = plan
        self._home = directory / f"round-{plan.number:05}"
        self._path, self._ledgers, self._temporary = self._home / "db", self._home / "ledgers", self._home / "tmp"
        for made in (self._ledgers, self._temporary):
            made.mkdir(parents=True)
        self._seed = f"{seed}/{plan.number}"
        self._rng = random.Random(self._seed)
        self._slots = Slots(WORKERS)
        self._workers: list[Any] = [None] * WORKERS
        self._lives = 0
        self._acknowledged = 0  # by workers that are gone
        self._pauses_s: list[float] = []  # from a kill to the next acknowledged commit
        self._in_start = 0
        self.breaches: list[Breach] = []

    def run(self) -> dict[str, Any]:
        """The round's figures, breaches among them."""
        os.environ["TMPDIR"], tempfile.tempdir = str(self._temporary), None
        gc.collect()
        before, mapped = descriptors(), shoal_mappings()
        began = time.monotonic()
        try:
            self._prepare()
            for i in range(WORKERS):
                self._start_worker(i)
            try:
                {"workers": self._kill_workers, "coordinators": self._kill_coordinators}[self._plan.what]()
            except AssertionError as error:  # it goes no further; what was acknowledged is audited all the same
                self.breaches.append(Breach(WRONG, str(error)))
            took_s = time.monotonic() - began
            self._stop_workers()
            found = self._audit()
        finally:
            for process in self._workers:
                if process is not None:
                    process.kill()
                    process.join()
                    process.close()
            for pid in processes_of(self._path):
                kill(pid)
        gc.collect()
        left = [what for fd, what in descriptors().items() if before.get(fd) != what]
        left += [line for line in shoal_mappings() if line not in mapped]
        left += [str(path) for path in self._temporary.iterdir()]
        self.breaches += [Breach(LEFT_BEHIND, what) for what in left]
        pauses = sorted(self._pauses_s) or [0.0]
        return {
            **self._plan._asdict(),
            "in_start": self._in_start,
            "acknowledged": found.acknowledged,
            "untold": found.untold,
            "transactions": found.transactions,
            "commits": self._acknowledged,
            "seconds": round(took_s, 2),
            "seconds_of_audit": round(time.monotonic() - began - took_s, 2),
            "pause_p50_s": round(pauses[len(pauses) // 2], 3),
            "pause_max_s": round(pauses[-1], 3),
            "breaches": [list(breach) for breach in self.breaches],
        }

    def _prepare(self) -> None:
        with self._open(self._plan.durability) as db:
            prepare(db, 0)
            self._fresh = _holdings(db.info().coordinator_pid)

    def _open(self, durability: str | None = None) -> shoal.Database:
        return shoal.open(self._path, durability=durability, max_bytes=MAX_BYTES, timeout=TIMEOUT_S, linger=LINGER_S)

    def _start_worker(self, i: int) -> None:
        self._lives += 1
        slot = self._slots.slot(i)
        self._acknowledged += slot[ledger.COMMITS]
        slot[ledger.COMMITS] = slot[ledger.COORDINATOR_COMMITS] = slot[ledger.WINDOW] = 0
        who = f"w{i}.{self._lives}"
        self._workers[i] = start_worker(
            self._path, self._slots, i, who, self._ledgers, self._seed, PAUSE_S, WRITING_MIX
        )

    def _kill_workers(self) -> None:
        for _ in range(self._plan.kills):
            i = self._rng.randrange(WORKERS)
            slot, process = self._slots.slot(i), self._workers[i]
            wait_for(functools.partial(slot.__getitem__, ledger.COMMITS), f"worker {i} to commit", pause_s=_POLL_S)
            time.sleep(self._rng.expovariate(1 / 0.005))
            process.kill()
            process.join()
            if process.exitcode != -9:
                self.breaches.append(Breach(WRONG, f"worker {i} ended by itself with {process.exitcode}"))
            process.close()
            self._start_worker(i)

    def _kill_coordinators(self) -> None:
        killed = 0
        for _ in range(self._plan.kills):
            begun = time.monotonic()
            pid = wait_for(
                functools.partial(self._serving, killed), "a commit by the next coordinator", pause_s=_POLL_S
            )
            if killed:
                self._pauses_s.append(time.monotonic() - begun)
            time.sleep(self._rng.expovariate(1 / 0.015))
            kill(pid)
            killed = pid
            if self._rng.random() < _KILLS_IN_START:
                time.sleep(self._rng.uniform(0, _LONGEST_START_S))
                for starting in processes_of(self._path):
                    kill(starting)
                    self._in_start += 1
        wait_for(lambda: self._serving(killed), "a commit after the last kill", pause_s=_POLL_S)

    def _serving(self, killed: int) -> int:
        """The pid of a coordinator after ``killed`` that has acknowledged commits; 0 if there is none yet."""
        for i, process in enumerate(self._workers):
            if process.exitcode is not None:
                raise AssertionError(f"worker {i} ended by itself with {process.exitcode}")
            slot = self._slots.slot(i)
            pid = slot[ledger.COORDINATOR]
            if pid not in (0, killed) and slot[ledger.COORDINATOR_COMMITS] and samples.serves(pid, self._path):
                return pid
        return 0

    def _stop_workers(self) -> None:
        for process in self._workers:
            process.terminate()
        for i, process in enumerate(self._workers):
            process.join(TIMEOUT_S)
            if process.exitcode != 0:
                self.breaches.append(Breach(WRONG, f"worker {i} ended with {process.exitcode}"))
            self._acknowledged += self._slots.slot(i)[ledger.COMMITS]

    def _audit(self) -> Any:
        """What is there now, and what a last recovery makes of it."""
        with self._open() as db:
            wait_for(lambda: db.info().clients == 1, "the coordinator to forget the dead")
            self._compare_holdings(db.info().coordinator_pid)
            time.sleep(0.9)  # the longest ttl is over
            self.breaches += audit(db, 0, self._ledgers).breaches
            kill(db.info().coordinator_pid)
        with self._open() as db:
            found = audit(db, 0, self._ledgers)
            self.breaches += found.breaches
        try:
            wait_until_left(self._path)
        except AssertionError:
            self.breaches.append(Breach(LEFT_BEHIND, f"processes {processes_of(self._path)}"))
        self.breaches += [Breach(LEFT_BEHIND, f"{name} in the store's directory") for name in strangers(self._path)]
        return found

    def _compare_holdings(self, coordinator: int) -> None:
        """With one client, after all those kills, the coordinator holds what it held with one client at first."""
        try:
            wait_for(
                lambda: _holdings(coordinator) == self._fresh, "descriptors to be closed", seconds=5.0, pause_s=0.05
            )
        except AssertionError:
            what = f"the coordinator holds {_holdings(coordinator)}, with as many clients it held {self._fresh}"
            self.breaches.append(Breach(LEFT_BEHIND, what))


def _holdings(pid: int) -> dict[str, int]:
    """How many descriptors of each kind a coordinator has, files of the log aside, and how many pages of slots."""
    kinds: Counter[str] = Counter()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            kinds[os.readlink(f"/proc/{pid}/fd/{fd}").partition(":[")[0].partition(" ")[0]] += 1
        except FileNotFoundError:  # closed meanwhile
            continue
    kinds["pages of slots"] = Path(f"/proc/{pid}/maps").read_text().count("memfd:shoal-snapshots")
    return {kind: count for kind, count in kinds.items() if "/wal-" not in kind}
