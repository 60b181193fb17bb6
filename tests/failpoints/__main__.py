"""SIGKILL at failpoints: ``python -m tests.failpoints``.

Two clients do the reference workload (``tests/system_calls/reference.py``) on one store. The first process that comes
to the chosen failpoint for the n-th time is killed there, or killed together with the process it works for. Afterwards
everything acknowledged must be there once, and nothing left behind.

A failpoint is a place before, after or in the middle of a call; ``places`` says which.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import gc
import mmap
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from shoal.shm.files import checkpoint, storage
from tests import mutants
from tests.failpoints.places import CHECKPOINT_OS, FAILPOINTS, STORAGE_OS
from tests.mutants.registry import HELPER, WORKER
from tests.support.workers.crash_workers import descriptors, shoal_mappings, strangers
from tests.system_calls import processes, reference, runner
from tests.system_calls.reference import BEGUN, NOT_BEGUN, REFUSED, RUNS, STEPS, Ledger

DEADLINE_S = 20.0


class Case(NamedTuple):
    """One run."""

    failpoint: str
    passage: int
    durability: str
    together: bool  # with the process it works for: a helper with its coordinator, a client with its coordinator


class Outcome(NamedTuple):
    """What it came to."""

    case: Case
    met: bool
    problems: list[str]


def arm(case: Case, fired: mmap.mmap, claim: Path) -> None:
    """Have the first process that comes to the failpoint killed there: the one that makes the file ``claim``.

    ``fired`` says that it has happened.
    """
    failpoint = FAILPOINTS[case.failpoint]
    storage.os, checkpoint.os = STORAGE_OS, CHECKPOINT_OS
    sound = getattr(failpoint.owner, failpoint.name)
    passages = {"pid": 0, "count": 0}

    def is_now(arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
        if fired[0] or not failpoint.only(*arguments, **options):
            return False
        if passages["pid"] != os.getpid():  # a fork counts for itself
            passages.update(pid=os.getpid(), count=0)
        passages["count"] += 1
        return passages["count"] == case.passage and is_first()

    def is_first() -> bool:
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
        except FileExistsError:  # another process came to it in the same instant
            return False
        fired[0] = 1
        return True

    def die() -> None:
        if case.together and failpoint.process == HELPER:
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def reach(*arguments: Any, **options: Any) -> Any:
        now = is_now(arguments, options)
        if now and failpoint.when == "before":
            die()
        if now and failpoint.when == "half":
            at = next(i for i, each in enumerate(arguments) if isinstance(each, bytes))
            data = arguments[at]
            sound(*arguments[:at], data[: len(data) // 2], *arguments[at + 1 :])
            die()
        result = sound(*arguments, **options)
        if now:
            die()
        return result

    setattr(failpoint.owner, failpoint.name, reach)


def run_case(directory: Path, case: Case) -> Outcome:
    """Two clients, one death."""
    return processes.undisturbed(lambda: _run(directory, case))


def _run(directory: Path, case: Case) -> Outcome:
    path = runner.fresh_store(directory)
    ledgers = {run: Ledger() for run in RUNS}
    fired, claim = mmap.mmap(-1, 4096), path.with_suffix(".killed")
    try:

        def client(run: str) -> Callable[[], None]:
            def work() -> None:
                before = descriptors()
                arm(case, fired, claim)
                reference.work(path, case.durability, ledgers[run], run)
                gc.collect()
                left = {fd: what for fd, what in descriptors().items() if before.get(fd) != what}
                assert (left, shoal_mappings()) == ({}, [])

            return work

        pids = {run: runner.in_child(client(run)) for run in RUNS}
        statuses, left = processes.wait_for_all(time.monotonic() + DEADLINE_S)
        problems = [f"did not end in {DEADLINE_S} s: {line}" for line in left]
        killed = [run for run, pid in pids.items() if statuses.get(pid) == -signal.SIGKILL]
        problems += [
            f"client {run} ended with {statuses.get(pid)}" for run, pid in pids.items() if statuses.get(pid, 0) > 0
        ]
        if len(killed) != (1 if fired[0] and FAILPOINTS[case.failpoint].process == WORKER else 0):
            problems.append(f"killed clients: {killed}")
        for run in RUNS:
            if run not in killed:
                problems += [f"{run}: {line}" for line in _unfinished(ledgers[run])]
        problems += runner.audit_in_child(path, ledgers)
        problems += [f"left behind: {name}" for name in strangers(path)]
        return Outcome(case, bool(fired[0]), problems)
    finally:
        fired.close()
        for ledger in ledgers.values():
            ledger.close()
        claim.unlink(missing_ok=True)
        shutil.rmtree(path)


def _unfinished(ledger: Ledger) -> list[str]:
    """What a client that was not killed noticed of the other's death: nothing."""
    states = [(name, n, ledger.state(n)) for n, (name, _, _) in enumerate(STEPS)]
    states += [("open", reference.OPEN, ledger.state(reference.OPEN))]
    found = [f"{name} was refused with {ledger.error(n)}" for name, n, state in states if state == REFUSED]
    return found + [f"{name} was not finished" for name, _, state in states if state in (NOT_BEGUN, BEGUN)]


def cases(passages: int) -> list[Case]:
    """Each failpoint at its first passages, in both durabilities, alone and together."""
    found = []
    for name, failpoint in FAILPOINTS.items():
        for durability in ("strict", "buffered"):
            for together in (False, True) if failpoint.process == HELPER else (False,):
                found += [Case(name, n, durability, together) for n in range(1, passages + 1)]
    return found


def main() -> int:
    """Run what was asked for; 1 if a promise was broken or a failpoint never came."""
    parser = argparse.ArgumentParser(prog="python -m tests.failpoints", description=__doc__.partition("\n")[0])
    parser.add_argument("--failpoint", action="append", help="only failpoints whose name contains this")
    parser.add_argument("--passages", type=int, default=4, help="kill at the first to the n-th passage")
    parser.add_argument("--durability", choices=["buffered", "strict"])
    parser.add_argument("--every", type=int, default=1, help="only every n-th case")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--mutant", choices=sorted(mutants.MUTANTS), metavar="NAME", help="with this mutant in shoal")
    options = parser.parse_args()
    wanted = [
        case
        for case in cases(options.passages)
        if (not options.failpoint or any(text in case.failpoint for text in options.failpoint))
        and options.durability in (None, case.durability)
    ][:: options.every]
    began_s = time.monotonic()
    processes.adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="shoal-failpoints-") as name, mutants.mutated(options.mutant):
        directory = Path(name)
        runner.template(directory)
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(options.jobs, context, processes.adopt_orphans) as pool:
            outcomes = list(pool.map(run_case, [directory] * len(wanted), wanted))
    return _report(outcomes, time.monotonic() - began_s)


def _report(outcomes: list[Outcome], took_s: float) -> int:
    print("| failpoint | kills | without a promise broken |\n|---|---|---|")
    for name in dict.fromkeys(outcome.case.failpoint for outcome in outcomes):
        met = [outcome for outcome in outcomes if outcome.case.failpoint == name and outcome.met]
        print(f"| {name} | {len(met)} | {sum(not outcome.problems for outcome in met)} |")
    bad = [outcome for outcome in outcomes if outcome.problems]
    for outcome in bad:
        print(outcome)
    never = {o.case.failpoint for o in outcomes} - {o.case.failpoint for o in outcomes if o.met}
    for name in sorted(never):
        print(f"never came: {name}")
    print(f"{sum(o.met for o in outcomes)} kills in {len(outcomes)} runs, {len(bad)} broke a promise, {took_s:.0f} s")
    return 1 if bad or never else 0


if __name__ == "__main__":
    sys.exit(main())
