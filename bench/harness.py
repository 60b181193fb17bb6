"""Rounds of worker processes: A B C D, A B C D, so that a slow moment of the machine affects all peers alike.

A trial is one peer with a number of worker processes. Each worker is forked, attaches, reports that it is ready and
waits. When all are ready, the parent sends them one time window on the system's monotonic clock. They work from before
the window to after it and count what they finish inside it. So start-up is not measured, and all workers compete during
the whole window.
"""

from __future__ import annotations

import multiprocessing
import shutil
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from .host import signals
from .host.busy_loops import busy_loops
from .latencies import percentiles
from .operations import Operation, Step
from .peers import PEERS, BenchError, Peer

_CONTEXT = multiprocessing.get_context("fork")
_READY_TIMEOUT_S = 60.0
_RESULT_TIMEOUT_S = 90.0  # after the window: beyond SQLite's wait for its lock
_EXIT_TIMEOUT_S = 10.0
_LEAD_S = 0.005  # per process: time for the window's bounds to reach every worker before the window opens
_WARM_UP_SHARE = 0.2
_LONGEST_WARM_UP_S = 0.2


@dataclass(frozen=True)
class Plan:
    """What to measure, with how many processes, rounds and seconds."""

    operations: tuple[Operation, ...]
    durabilities: tuple[str, ...]
    processes: tuple[int, ...]
    rounds: int
    seconds_s: float
    busy: int = 0  # endless loops beside every trial

    def sections(self) -> list[tuple[Operation, str]]:
        """Each operation with each of its durabilities; a read has the first one only."""
        return [
            (operation, durability)
            for operation in self.operations
            for durability in (self.durabilities if operation.writes else self.durabilities[:1])
        ]

    def trials(self) -> int:
        """The number of trials."""
        measured = sum(
            peer.lacks(operation.name, durability) is None
            for operation, durability in self.sections()
            for peer in PEERS
        )
        return measured * len(self.processes) * self.rounds


@dataclass(frozen=True)
class Trial:
    """What one peer did in one round."""

    rate_per_s: float
    percentiles_s: dict[str, float]
    slowest_to_fastest: float


@dataclass
class Figure:
    """One peer's rate at one operation, durability and number of processes, round by round."""

    peer: str
    operation: str
    durability: str
    processes: int
    setting: str
    missing: str | None = None
    rates_per_s: list[float] = field(default_factory=list)
    # By name of a percentile: that of a step's time, round by round.
    percentiles_s: dict[str, list[float]] = field(default_factory=dict)
    slowest_to_fastest: list[float] = field(default_factory=list)  # rate of the slowest process by that of the fastest

    def add(self, trial: Trial) -> None:
        """Take in a round."""
        self.rates_per_s.append(trial.rate_per_s)
        self.slowest_to_fastest.append(trial.slowest_to_fastest)
        for name, value_s in trial.percentiles_s.items():
            self.percentiles_s.setdefault(name, []).append(value_s)


@dataclass
class Entrant:
    """A peer that takes part in a section."""

    peer: Peer
    targets: list[str]
    # The seed of each of its workers, and the operations that it did, outside the window too.
    by_seed: list[tuple[int, int]] = field(default_factory=list)

    @property
    def operations(self) -> int:
        """Of all its workers."""
        return sum(done for _, done in self.by_seed)


@dataclass
class Tally:
    """What a worker has done."""

    counted: int = 0  # operations inside the window
    total: int = 0  # all operations
    times_s: array[float] = field(default_factory=lambda: array("d"))  # of each step that was under way in it


def run_section(
    operation: Operation, durability: str, plan: Plan, directory: Path, progress: Callable[[], object]
) -> list[Figure]:
    """Measure one operation at one durability on all peers; ``progress`` is called after each trial."""
    figures = {
        (peer, processes): Figure(
            peer=peer.name,
            operation=operation.name,
            durability=durability,
            processes=processes,
            setting=peer.settings.get(durability, ""),
            missing=peer.lacks(operation.name, durability),
        )
        for processes in plan.processes
        for peer in PEERS
    }
    able = [peer for peer in PEERS if peer.lacks(operation.name, durability) is None]
    with ExitStack() as stack:
        entrants = [stack.enter_context(entered(kind, operation, durability, directory)) for kind in able]
        for processes in plan.processes:
            for round_number in range(plan.rounds):
                for entrant in entrants:
                    seed = processes * 1_000_000 + round_number * 1_000
                    with busy_loops(plan.busy):
                        trial = run_trial(entrant, operation, processes, plan.seconds_s, seed)
                    figures[type(entrant.peer), processes].add(trial)
                    progress()
        for entrant in entrants:
            check(entrant, operation)
    return list(figures.values())


@contextmanager
def entered(kind: type[Peer], operation: Operation, durability: str, directory: Path) -> Iterator[Entrant]:
    """A started, loaded and checked peer in a new directory; both are removed afterwards."""
    home = directory / f"{operation.name}-{durability}-{kind.__name__}"
    home.mkdir()
    peer = kind(home, durability)
    try:
        yield _loaded(peer, operation)
    finally:
        peer.stop()
        shutil.rmtree(home, ignore_errors=True)


def _loaded(peer: Peer, operation: Operation) -> Entrant:
    try:
        peer.start(operation.items())
        entrant = Entrant(peer, operation.targets())
        _prepare(entrant, operation)
        check(entrant, operation)
    except BenchError:
        raise
    except Exception as error:  # each store has errors of its own
        raise BenchError(f"{peer.name} could not be started: {type(error).__name__}: {error}") from error
    return entrant


def _prepare(entrant: Entrant, operation: Operation) -> None:
    session = entrant.peer.connect()
    try:
        operation.prepare(session, entrant.targets)
    finally:
        session.close()


def check(entrant: Entrant, operation: Operation) -> None:
    """Raise ``BenchError`` unless all that was acknowledged is there."""
    session = entrant.peer.connect()
    try:
        operation.check(session, entrant.targets, entrant.operations, entrant.by_seed)
    except BenchError as error:
        raise BenchError(f"{entrant.peer.name}, {entrant.peer.durability}: {error}") from None
    finally:
        session.close()


def run_trial(entrant: Entrant, operation: Operation, processes: int, seconds_s: float, seed: int) -> Trial:
    """One round of one peer with this many worker processes."""
    workers: list[tuple[BaseProcess, Connection]] = []
    name = entrant.peer.name
    try:
        for worker in range(processes):
            workers.append(_fork_worker(entrant, operation, worker, seed + worker))
        for _, pipe in workers:
            _receive(pipe, name, _READY_TIMEOUT_S)
        begin_s = time.monotonic() + _LEAD_S * processes
        start_s = begin_s + min(_LONGEST_WARM_UP_S, seconds_s * _WARM_UP_SHARE)
        for _, pipe in workers:
            pipe.send((begin_s, start_s, start_s + seconds_s))
        tallies = [_receive(pipe, name, seconds_s + _RESULT_TIMEOUT_S) for _, pipe in workers]
        for process, _ in workers:
            process.join(_EXIT_TIMEOUT_S)
    finally:
        for process, pipe in workers:
            if process.is_alive():
                process.kill()
            process.join()
            pipe.close()
    entrant.by_seed += [(seed + worker, tally.total) for worker, tally in enumerate(tallies)]
    counted = [tally.counted for tally in tallies]
    return Trial(
        rate_per_s=sum(counted) / seconds_s,
        percentiles_s=percentiles([time_s for tally in tallies for time_s in tally.times_s]),
        slowest_to_fastest=min(counted) / max(counted) if any(counted) else 0.0,
    )


def _fork_worker(entrant: Entrant, operation: Operation, worker: int, seed: int) -> tuple[BaseProcess, Connection]:
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(
        target=_work, args=(entrant, operation, worker, seed, theirs, ours), name=f"{entrant.peer.name}-{worker}"
    )
    with signals.held_back():
        process.start()
    theirs.close()
    return process, ours


def _receive(pipe: Connection, name: str, timeout_s: float) -> Tally:
    """A worker's next message: an empty tally when it is ready, then what it has done."""
    if not pipe.poll(timeout_s):
        raise BenchError(f"{name}: a worker has not answered for {timeout_s:.0f} s")
    try:
        answer = pipe.recv()
    except (EOFError, ConnectionError):
        raise BenchError(f"{name}: a worker died") from None
    if isinstance(answer, str):
        raise BenchError(f"{name}: {answer}")
    tally: Tally = answer
    return tally


def _work(entrant: Entrant, operation: Operation, worker: int, seed: int, pipe: Connection, other: Connection) -> None:
    """Main function of a worker. It sends an error to the parent, which ends the run."""
    signals.leave_to_parent()
    other.close()  # the parent's end: with it open here, the parent's death would not end the pipe
    try:
        session = entrant.peer.connect()
        if entrant.peer.caches_reads:
            operation.warm_up(session, entrant.targets)
        step = operation.step(session, entrant.targets, worker, seed)
        pipe.send(Tally())
        begin_s, start_s, end_s = pipe.recv()
        time.sleep(max(0.0, begin_s - time.monotonic()))
        tally = _count(step, operation.batch_of(session), start_s, end_s)
        session.close()  # first: it may still find that a commit has failed
        pipe.send(tally)
    except (EOFError, BrokenPipeError):
        return  # the parent has ended
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def _count(step: Step, batch: int, start_s: float, end_s: float) -> Tally:
    """Repeat the step until the window ends. Steps before the window are the warm-up.

    The step that is under way when the window ends is not counted, but its time is noted: a worker that waited for its
    turn all the while would else not be seen in the percentiles.
    """
    monotonic = time.monotonic
    tally = Tally()
    note_time = tally.times_s.append
    finished_s = monotonic()
    while finished_s < end_s:
        begun_s = finished_s
        step()
        finished_s = monotonic()
        tally.total += batch
        if finished_s >= start_s:
            note_time(finished_s - begun_s)
            if finished_s < end_s:
                tally.counted += batch
    return tally
