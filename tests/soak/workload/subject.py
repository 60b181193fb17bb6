"""One store under soak: its workers and its auditor, and what is done to them.

The process that forks them holds no Database while it forks, so that its children inherit nothing of one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from typing import Any

import shoal
from tests.soak import ledger, samples
from tests.soak.auditing.audit import prepare
from tests.soak.auditing.auditor import Board, run_auditor
from tests.soak.auditing.breach import LEFT_BEHIND, WRONG
from tests.soak.ledger import NOBODY, Slots, percentile_ms
from tests.soak.plan import Plan, Trouble
from tests.soak.workload.operations import LINGER_S, TIMEOUT_S, start_worker
from tests.soak.workload.watching import WATCHERS, start_watcher

JOIN_S = 120.0
_MOST_ENDED = 20
MAX_BYTES = 256 * 1024 * 1024
_FORK = multiprocessing.get_context("fork")


class Subject:
    """A store, its processes and its troubles."""

    def __init__(self, plan: Plan, durability: str) -> None:
        self.name = durability
        self.path = plan.directory / durability
        self._plan = plan
        self._seed = f"{plan.seed}/{durability}"
        self._rng = random.Random(self._seed)
        self.slots = Slots(plan.workers)
        self.board = Board()
        self._ledgers = plan.directory / "ledgers" / durability
        self._ledgers.mkdir(parents=True)
        self._workers: list[Any] = [None] * plan.workers
        self._watchers: list[Any] = [None] * WATCHERS
        self._lives = 0
        self._ended = 0
        self._auditor: Any = None
        self._stoppers: list[Any] = []
        self.done: Counter[str] = Counter()
        self._due: dict[str, float] = {}
        self._before: dict[str, Any] = {}

    def start(self) -> None:
        """Make the store and have everybody begin."""
        with shoal.open(self.path, durability=self.name, max_bytes=MAX_BYTES, timeout=TIMEOUT_S, linger=LINGER_S) as db:
            prepare(db, 0)
        arguments = (self.path, self.slots, self.board, self._plan.directory, self._seed, self._plan.window_s)
        self._auditor = _FORK.Process(target=run_auditor, args=arguments)
        self._auditor.start()
        for i in range(self.slots.count):
            self._start_worker(i)
        for i in range(WATCHERS):
            self._start_watcher(i)

    def _start_worker(self, i: int) -> None:
        self._lives += 1
        self.slots.slot(i)[ledger.IN_EFFECT] = 0
        self.slots.slot(i)[ledger.WINDOW] = self.slots.window  # from now on windows wait for it
        who = f"w{i}.{self._lives}"
        self._workers[i] = start_worker(self.path, self.slots, i, who, self._ledgers, self._seed, self._plan.pause_s)

    def _start_watcher(self, i: int) -> None:
        self._watchers[i] = start_watcher(self.path, self.slots, i, self._ledgers, self._seed)

    # --- troubles ---------------------------------------------------------------------------------------------------

    def trouble(self, share: float, troubles: list[Trouble]) -> None:
        """Do what is due now, at ``share`` of the whole run."""
        now_s = time.monotonic()
        self._mourn()
        for trouble in troubles:
            due = self._due.setdefault(trouble.name, now_s + self._rng.uniform(0, trouble.every_s))
            in_time = share <= trouble.last or not self.done[trouble.name]
            if trouble.first <= share and in_time and now_s >= due and getattr(self, f"_{trouble.name}")():
                self._due[trouble.name] = now_s + self._rng.expovariate(1 / trouble.every_s)
                self.done[trouble.name] += 1

    def spared(self, troubles: list[Trouble]) -> bool:
        """Whether some trouble has not come yet."""
        return any(not self.done[trouble.name] for trouble in troubles)

    def coordinator(self) -> int:
        """The pid of the coordinator that answered a worker last, 0 if it has ended."""
        found = [self.slots.slot(i)[ledger.COORDINATOR] for i in range(self.slots.count)]
        return next((pid for pid in found if pid and samples.serves(pid, self.path)), 0)

    def _kill_coordinator(self) -> bool:
        pid = self.coordinator()
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(pid)

    def _kill_worker(self) -> bool:
        self._kill(self._rng.randrange(1, self.slots.count))  # the first one lives through everything
        return True

    def _kill_in_effect(self) -> bool:
        """Kill a worker between the intent and the result of an effect outside the store, if one is there now."""
        found = [i for i in range(1, self.slots.count) if self.slots.slot(i)[ledger.IN_EFFECT]]
        if found:
            self._kill(self._rng.choice(found))
        return bool(found)

    def _kill_watcher(self) -> bool:
        i = self._rng.randrange(1, WATCHERS)  # likewise
        self._end(self._watchers[i], f"watcher {i}")
        self._start_watcher(i)
        return True

    def _kill(self, i: int) -> None:
        self._end(self._workers[i], f"worker {i}")
        self.slots.slot(i)[ledger.WINDOW] = NOBODY
        self._start_worker(i)

    def _end(self, process: Any, name: str) -> None:
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            self.report(WRONG, f"{name} ended with {process.exitcode} before it was killed")
        process.close()

    def _stop_coordinator(self) -> bool:
        pid = self.coordinator()
        return bool(pid) and self._stop(pid, self._rng.uniform(0.02, self._plan.longest_stop_s))

    def _stop_worker(self) -> bool:
        return self._stop_one(self._workers)

    def _stop_watcher(self) -> bool:
        return self._stop_one(self._watchers)

    def _stop_one(self, processes: list[Any]) -> bool:
        return self._stop(self._rng.choice(processes).pid, self._rng.uniform(0.02, 2 * self._plan.longest_stop_s))

    def _stop(self, pid: int, seconds: float) -> bool:
        """By a process of its own: this one may have to wait for what is stopped."""
        try:
            held = os.pidfd_open(pid)  # another process that gets the number is not meant
        except ProcessLookupError:
            return False
        self._reap_stoppers()
        self._stoppers.append(_FORK.Process(target=_stop_for, args=(held, seconds)))
        self._stoppers[-1].start()
        os.close(held)
        return True

    def _reap_stoppers(self) -> None:
        for stopper in [stopper for stopper in self._stoppers if not stopper.is_alive()]:
            self._stoppers.remove(stopper)
            stopper.close()

    def _mourn(self) -> None:
        """Nobody may end by himself."""
        assert self._auditor.exitcode is None, f"the auditor of {self.name} ended with {self._auditor.exitcode}"
        for i, process in enumerate(self._workers):
            if process.exitcode is not None:
                self._count_end(process, f"worker {i}")
                self.slots.slot(i)[ledger.WINDOW] = NOBODY
                self._start_worker(i)
        for i, process in enumerate(self._watchers):
            if process.exitcode is not None:
                self._count_end(process, f"watcher {i}")
                self._start_watcher(i)

    def _count_end(self, process: Any, name: str) -> None:
        self.report(WRONG, f"{name} ended by itself with {process.exitcode}")
        process.close()
        self._ended += 1
        assert self._ended < _MOST_ENDED, f"processes of {self.name} keep ending by themselves"

    def report(self, kind: str, what: str) -> None:
        """A breach that was noticed here."""
        self.board.add(kind)
        with open(self._plan.directory / "breaches.txt", "a", encoding="utf-8") as out:
            out.write(f"{self.name}: {kind}: {' | '.join(what.splitlines())}\n")

    # --- what is measured -------------------------------------------------------------------------------------------

    def sample(self, seconds: float) -> dict[str, Any]:
        """Everything there is to know now; rates and latencies since the last time, ``seconds`` ago."""
        pid = self.coordinator()
        with shoal.open(self.path, timeout=TIMEOUT_S, linger=LINGER_S) as db:  # a client that comes and goes
            info = db.info()
        counts = {name: self.slots.total(word) for name, word in _COUNTED.items()}
        histograms = {name: self.slots.histogram(start) for name, (start, _) in _TIMED.items()}
        before = self._before or {"counts": dict.fromkeys(counts, 0), "histograms": {}}
        self._before = {"counts": counts, "histograms": histograms}
        processes = {f"worker {i}": process.pid for i, process in enumerate(self._workers)}
        processes |= {f"watcher {i}": process.pid for i, process in enumerate(self._watchers)}
        processes |= {"auditor": self._auditor.pid} | ({"coordinator": pid} if pid else {})
        return {
            **{f"{name}_per_s": round((counts[name] - before["counts"][name]) / seconds, 1) for name in counts},
            **{
                f"{name}_ms": self._percentiles(histogram, before["histograms"].get(name), _TIMED[name][1])
                for name, histogram in histograms.items()
            },
            "done": dict(self.done),
            "bytes_used": info.bytes_used,
            "keys": info.keys,
            "clients": info.clients,
            "commit_version": info.commit_version,
            "segment_bytes": samples.segment_bytes(pid) or None,
            **samples.directory_sample(self.path),
            "processes": {name: found for name, i in processes.items() if (found := samples.process_sample(i))},
            "oracles": self.board.counts(),
        }

    def _percentiles(self, now: list[int], before: list[int] | None, slowest: int) -> dict[str, float]:
        recent = [a - b for a, b in zip(now, before, strict=True)] if before else now
        shares = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
        found = {name: percentile_ms(recent, share) for name, share in shares.items()}
        return {**found, "max": round(self.slots.take_slowest(slowest) / 1e6, 4)}

    # --- the end ----------------------------------------------------------------------------------------------------

    def tell_to_end(self) -> None:
        """Let all finish what they are doing, and everything be audited."""
        for stopper in self._stoppers:
            stopper.join()
        self._reap_stoppers()
        for process in self._workers:
            process.terminate()
        self.board.stop()

    def finish(self) -> None:
        """Wait until all that are left have ended in order."""
        for i, process in enumerate(self._workers):
            self._join(process, f"worker {i}")
        if not self._join(self._auditor, "the auditor"):
            return  # nobody tells the watchers of an end: they are abandoned
        for i, process in enumerate(self._watchers):
            process.terminate()  # until now the auditor had need of them
            self._join(process, f"watcher {i}")

    def _join(self, process: Any, name: str) -> bool:
        """Whether it ended in order."""
        process.join(JOIN_S)
        if process.exitcode is None:
            self.report(LEFT_BEHIND, f"{name} did not end within {JOIN_S} s")
            process.kill()
            process.join()
        elif process.exitcode:
            self.report(WRONG, f"{name} ended with {process.exitcode}")
        in_order = bool(process.exitcode == 0)
        process.close()
        return in_order

    def abandon(self) -> None:
        """Leave no process, whatever happened."""
        for process in [*self._workers, *self._watchers, *self._stoppers, self._auditor]:
            with contextlib.suppress(ValueError, AttributeError):  # closed already, or never begun
                process.kill()
                process.join()


def _stop_for(pidfd: int, seconds: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        time.sleep(seconds)
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)


_COUNTED = {"commits": ledger.COMMITS, "conflicts": ledger.CONFLICTS, "reads": ledger.READS}
_TIMED = {
    "commit": (ledger.COMMIT_HISTOGRAM, ledger.SLOWEST_COMMIT),
    "read": (ledger.READ_HISTOGRAM, ledger.SLOWEST_READ),
}
