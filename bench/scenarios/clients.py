"""Many processes at once: their commits, and what they cost while they do nothing."""

from __future__ import annotations

import multiprocessing
import os
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import shoal

from ..host import signals
from ..host.processor_time import processor_s
from ..operations import OPERATIONS
from ..peers import BenchError
from ..peers.shoal_store import LINGER_S, ShoalStore
from .base import Result, Scenario, median, opened

_CONTEXT = multiprocessing.get_context("fork")
_ATTACH_TIMEOUT_S = 120.0


class Clients(Scenario):
    """One, and as many as asked for."""

    name = "clients"
    title = "clients: put by many processes, and the processor that they use while they are idle; buffered"
    note = (
        "Idle: processor time of the coordinator and all its attached clients, as a share of one processor. "
        "Slowest / fastest: of the processes' own rates."
    )

    def run(self, directory: Path) -> Result:
        """Rates first, then idle."""
        from ..harness import check, entered, run_trial  # it needs the peers, which the command's help must do without

        operation = OPERATIONS["put"]()
        counts = tuple(dict.fromkeys((1, *self.scale.clients)))
        with entered(ShoalStore, operation, "buffered", directory) as entrant:
            for processes in counts:
                trials = [
                    run_trial(entrant, operation, processes, self.scale.seconds_s, 1_000 * number)
                    for number in range(self.scale.rounds)
                ]
                column = _column(processes)
                rate = median(trial.rate_per_s for trial in trials)
                self.add("put", column, rate, "a second", higher_is_better=True)
                for name in ("p50", "p99"):
                    found = [trial.percentiles_s[name] for trial in trials if trial.percentiles_s]
                    if found:
                        self.add(f"put, {name}", column, median(found) * 1e3, "ms")
                evenness = median(trial.slowest_to_fastest for trial in trials)
                self.add("slowest / fastest", column, evenness, "x", higher_is_better=True, noisy=True)
            check(entrant, operation)
        for processes in counts:
            share = self._idle(directory / f"idle-{processes}", processes)
            self.add("idle", _column(processes), share * 100, "%", noisy=True)
        return self.result

    def _idle(self, path: Path, processes: int) -> float:
        """Processor time of everyone by the time that passes, while nobody does anything."""
        pipes: list[Connection] = []
        with opened(path) as db, ExitStack() as stack:
            shoal.KVStore(db).put("bench", "key", 1)
            pids = [db.info().coordinator_pid]
            for _ in range(processes):
                ours, theirs = _CONTEXT.Pipe()
                process = _CONTEXT.Process(target=_attach_and_wait, args=(path, theirs, ours), daemon=True)
                with signals.held_back():
                    process.start()
                stack.callback(process.join)
                stack.callback(process.kill)
                theirs.close()
                pipes.append(ours)
                pids.append(process.pid or 0)
            for pipe in pipes:
                if not pipe.poll(_ATTACH_TIMEOUT_S):
                    raise BenchError(f"a process has not attached within {_ATTACH_TIMEOUT_S:.0f} s")
                pipe.recv()
            time.sleep(self.scale.seconds_s)  # what attaching left to do
            before_s, begun_s = processor_s(pids), time.monotonic()
            time.sleep(2 * self.scale.seconds_s)
            return (processor_s(pids) - before_s) / (time.monotonic() - begun_s)


def _attach_and_wait(path: Path, pipe: Connection, other: Connection) -> None:
    signals.leave_to_parent()
    other.close()  # with it open here, the parent's death would not end the pipe
    with shoal.open(path, linger=LINGER_S) as db:
        shoal.KVStore(db).get("bench", "key")
        pipe.send(os.getpid())
        try:
            pipe.recv()
        except EOFError:
            return  # the parent has ended


def _column(processes: int) -> str:
    return f"{processes} process{'es' if processes > 1 else ''}"
