"""Seeds in bulk, over several processors: many histories of a sound store, or one after another with a mutant."""

from __future__ import annotations

import multiprocessing
import signal
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from tests.simulation.run import run_seed
from tests.simulation.truth import Problem

_BATCH = 20
# A walk through memory that a mutant gave to someone else may not end, and takes no step while it lasts.
_PATIENCE_S = 10


class Result(NamedTuple):
    """What came of a batch of seeds."""

    seeds: int
    totals: Counter[str]
    failing: list[tuple[int, list[Problem]]]


class Catch(NamedTuple):
    """The first seed that shows a mutant, None if none did."""

    mutant: str
    seed: int | None
    oracle: str


def run_seeds(first: int, last: int, mutant: str | None = None) -> Result:
    """The histories of ``[first, last)``."""
    totals: Counter[str] = Counter()
    failing = []
    for seed in range(first, last):
        verdict = run_seed(seed, mutant)
        totals.update(verdict.counts)
        totals.update(steps=verdict.steps, commits=verdict.commits)
        if verdict.problems:
            failing.append((seed, verdict.problems))
    return Result(last - first, totals, failing)


def batches(first: int, count: int, mutant: str | None, processes: int) -> Iterator[Result]:
    """The same in batches, as they are done."""
    last = first + count
    jobs = [(i, min(i + _BATCH, last), mutant) for i in range(first, last, _BATCH)]
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=50) as pool:
        yield from pool.imap(_run_job, jobs)


def catch(mutant: str, most_seeds: int) -> Catch:
    """Take seeds from 0 on until an oracle notices the mutant."""
    signal.signal(signal.SIGALRM, _lose_patience)
    for seed in range(most_seeds):
        signal.alarm(_PATIENCE_S)
        try:
            problems = run_seed(seed, mutant).problems
        except Exception as error:  # a log that a bug wrote may be more than its reader takes: noticed, too
            problems = [(type(error).__name__, str(error))]
        finally:
            signal.alarm(0)
        if problems:
            return Catch(mutant, seed, problems[0][0])
    return Catch(mutant, None, "")


def catches(names: list[str], most_seeds: int, processes: int) -> Iterator[Catch]:
    """The same for many mutants, in their order."""
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=4) as pool:
        yield from pool.imap(_catch_job, [(name, most_seeds) for name in names])


def _lose_patience(_number: int, _frame: object) -> None:
    raise TimeoutError(f"a history that takes more than {_PATIENCE_S} s")


def _run_job(job: tuple[int, int, str | None]) -> Result:
    return run_seeds(*job)


def _catch_job(job: tuple[str, int]) -> Catch:
    return catch(*job)
