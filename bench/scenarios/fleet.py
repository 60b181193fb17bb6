"""What a process of a fleet waits for: a commit of another, the death of a holder, the sweeper of retention.

All of it with nothing else at work: each waiter sleeps when that happens for which it waits. Moments are of the
system's monotonic clock, which all processes share.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import shoal

from ..host import signals
from ..latencies import percentiles
from ..peers import BenchError
from ..peers.shoal_store import LINGER_S
from .base import RUN, Result, Scenario, median, opened
from .committer import committing

_CONTEXT = multiprocessing.get_context("fork")
_ANSWER_TIMEOUT_S = 60.0
_WAKE_UPS, _DEATHS = 500, 20  # of a round
_ASLEEP_S = 0.002  # after this long a watcher has nothing to do and sleeps
_WAITS_S = 0.03  # after this long a process that was told to claim waits for a task
_EVENTS, _KEPT_EVENTS, _APPENDED_TOGETHER = 20_000, 100, 1_000
_SWEEP_TIMEOUT_S = 120.0
_LOOK_EVERY_S = 0.002
_QUEUE = "work"


class Fleet(Scenario):
    """Three kinds of waiting, one after the other."""

    name = "fleet"
    title = "fleet: waking up after another's commit, taking over after a death, commits beside retention; buffered"
    note = (
        "Wake-up: from the call of the commit, and from its answer (before 0: the watcher had it earlier than the "
        "writer its answer). Take-over: from SIGKILL until a waiting process has the task. Sweeper: commits of one "
        f"process while all but {_KEPT_EVENTS} of {_EVENTS:,} events are removed, and for as long before."
    )

    def run(self, directory: Path) -> Result:
        """Some rounds of each."""
        called_s: list[float] = []
        answered_s: list[float] = []
        for number in range(self.scale.rounds):
            for called, answered, seen in _wake_ups(directory / f"wake-{number}"):
                called_s.append(seen - called)
                answered_s.append(seen - answered)
        taken_s = [took_s for i in range(self.scale.rounds) for took_s in _take_overs(directory / f"deaths-{i}")]
        self._add_both("wake-up, from the call", called_s, 1e6, "us")
        self._add_both("wake-up, from the answer", answered_s, 1e6, "us")
        self._add_both("take-over after a death", taken_s, 1e3, "ms")
        found = [_beside_sweeper(directory / f"sweeper-{number}") for number in range(self.scale.rounds)]
        for name in ("p50", "p99"):
            self.add(f"commit without sweeper, {name}", "all", median(a[name] for a, _ in found) * 1e6, "us")
            self.add(f"commit beside sweeper, {name}", "all", median(b[name] for _, b in found) * 1e6, "us")
        ratio = median(beside["p99"] / without["p99"] for without, beside in found)
        self.add("commit, p99, beside / without sweeper", "all", ratio, "x", noisy=True)
        return self.result

    def _add_both(self, row: str, times_s: list[float], scale: float, unit: str) -> None:
        ordered = sorted(times_s)
        self.add(row, "median", median(ordered) * scale, unit)
        self.add(row, "p99", ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * scale, unit, noisy=True)


def _wake_ups(path: Path) -> list[tuple[float, float, float]]:
    """When a put was called, when it was answered, and when another process that watches its key had it."""
    with opened(path) as db, _process(_watch, path) as pipe:
        kv = shoal.KVStore(db)
        _receive(pipe)
        time.sleep(_WAITS_S)
        moments_s: list[tuple[float, float]] = []
        for number in range(_WAKE_UPS):
            time.sleep(_ASLEEP_S)
            called_s = time.monotonic()
            kv.put(RUN, "wake", number)
            moments_s.append((called_s, time.monotonic()))
        kv.put(RUN, "wake", None)
        seen_s = _receive(pipe)
    if sorted(seen_s) != list(range(_WAKE_UPS)):
        raise BenchError(f"{_WAKE_UPS} commits were made and a watcher saw {len(seen_s)}")
    return [(*moments_s[number], at_s) for number, at_s in seen_s.items()]


def _watch(path: Path, pipe: Connection) -> None:
    with shoal.open(path, linger=LINGER_S) as db:
        changes = shoal.KVStore(db).watch(RUN, "wake")
        pipe.send(None)
        seen_s: dict[int, float] = {}
        for change in changes:
            at_s = time.monotonic()
            if change.value is None:
                break
            seen_s[change.value] = at_s
        pipe.send(seen_s)


def _take_overs(path: Path) -> Iterator[float]:
    """How long one that waits takes to get the task of a process that is killed."""
    with opened(path) as db, _process(_claim_when_told, path) as waiter:
        queue = shoal.TaskQueue(db)
        _receive(waiter)
        for _ in range(_DEATHS):
            queue.put(RUN, _QUEUE, 0, max_attempts=2)
            with _process(_hold, path) as holder:
                pid = _receive(holder)
                waiter.send(None)
                time.sleep(_WAITS_S)
                killed_s = time.monotonic()
                os.kill(pid, signal.SIGKILL)
                attempt, taken_s = _receive(waiter)
            if attempt != 2:
                raise BenchError(f"the task of a dead process was taken over as attempt {attempt}, not 2")
            yield taken_s - killed_s


def _hold(path: Path, pipe: Connection) -> None:
    with shoal.open(path, linger=LINGER_S) as db:
        task = shoal.TaskQueue(db).claim(RUN, _QUEUE, ttl=_ANSWER_TIMEOUT_S)
        if task is None:
            raise BenchError("a task that was put could not be claimed")
        pipe.send(os.getpid())
        pipe.recv()


def _claim_when_told(path: Path, pipe: Connection) -> None:
    with shoal.open(path, linger=LINGER_S) as db:
        queue = shoal.TaskQueue(db)
        pipe.send(None)
        while True:
            pipe.recv()
            task = queue.claim(RUN, _QUEUE, wait=_ANSWER_TIMEOUT_S)
            taken_s = time.monotonic()
            if task is None:
                raise BenchError("the task of a process that was killed was not taken over")
            task.complete()
            pipe.send((task.attempt, taken_s))


def _beside_sweeper(path: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Latencies of one process's commits before events are removed, and while they are."""
    with opened(path) as db:
        log, runs = shoal.EventLog(db), shoal.RunIndex(db)
        for start in range(0, _EVENTS, _APPENDED_TOGETHER):
            log.append_many(RUN, [("step", {"number": start + i}) for i in range(_APPENDED_TOGETHER)])
        with committing(path) as committers:
            begun_s = time.monotonic()
            time.sleep(1.0)
            runs.set_retention(shoal.RetentionPolicy(events=_KEPT_EVENTS), run_id=RUN)
            first_s = _await(lambda: log.first_sequence(RUN) > 0)
            last_s = _await(lambda: log.first_sequence(RUN) >= _EVENTS - _KEPT_EVENTS)
            latencies = committers.stop()
    length_s = max(last_s - first_s, 0.1)
    before = [took_s for at_s, took_s in latencies if max(begun_s, first_s - length_s) <= at_s < first_s - took_s]
    beside = [took_s for at_s, took_s in latencies if at_s + took_s >= first_s and at_s <= last_s]
    if not before or not beside:
        raise BenchError("no commit was made before or while the sweeper was at work")
    return percentiles(before), percentiles(beside)


def _await(is_so: Callable[[], bool]) -> float:
    """When it was so."""
    give_up_s = time.monotonic() + _SWEEP_TIMEOUT_S
    while not is_so():
        if time.monotonic() > give_up_s:
            raise BenchError(f"retention has not removed the events after {_SWEEP_TIMEOUT_S:.0f} s")
        time.sleep(_LOOK_EVERY_S)
    return time.monotonic()


@contextmanager
def _process(target: Callable[[Path, Connection], None], path: Path) -> Iterator[Connection]:
    """A process for the block, and the parent's end of the pipe to it."""
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_run, args=(target, path, theirs, ours), daemon=True)
    with signals.held_back():
        process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()
        ours.close()


def _run(target: Callable[[Path, Connection], None], path: Path, pipe: Connection, other: Connection) -> None:
    """Main function of a process. It sends an error to the parent, which ends the run."""
    signals.leave_to_parent()
    other.close()
    try:
        target(path, pipe)
    except (EOFError, BrokenPipeError):
        return  # the parent has ended
    except Exception as error:
        pipe.send(error if isinstance(error, BenchError) else BenchError(f"{type(error).__name__}: {error}"))


def _receive(pipe: Connection) -> Any:
    if not pipe.poll(_ANSWER_TIMEOUT_S):
        raise BenchError(f"a process has not answered for {_ANSWER_TIMEOUT_S:.0f} s")
    try:
        answer = pipe.recv()
    except (EOFError, ConnectionError):
        raise BenchError("a process died") from None
    if isinstance(answer, BenchError):
        raise answer
    return answer
