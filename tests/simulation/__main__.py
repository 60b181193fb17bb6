"""Simulated histories: ``python -m tests.simulation --seeds 1000``, or one of them: ``--seed 7 --verbose``.

Exit status 1 if any failed. A failing seed is shrunk, and printed with the command that replays it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests import mutants
from tests.simulation import plan as plans
from tests.simulation.batches import batches, catches
from tests.simulation.run import Verdict, run_plan, run_seed
from tests.simulation.shrink import shrink, size

_SAY_EVERY_S = 10.0


def main() -> int:
    """Run seeds; 1 if one fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--mutant", "--plant", choices=sorted(mutants.MUTANTS), metavar="NAME", help="with this mutant in shoal"
    )
    parser.add_argument("--mutants", "--plants", action="store_true", help="every mutant, and the seed that catches it")
    parser.add_argument("--verbose", action="store_true", help="print the history of --seed")
    parser.add_argument("--no-shrink", action="store_true")
    options = parser.parse_args()
    if options.mutants:
        return _all_mutants(options.seeds, options.processes)
    if options.seed is not None:
        return _one(options.seed, options.mutant, options.verbose, not options.no_shrink)
    return _many(options)


def _one(seed: int, mutant: str | None, verbose: bool, shrinks: bool) -> int:
    verdict = run_seed(seed, mutant, verbose)
    if verdict.problems and shrinks:
        oracle = verdict.problems[0][0]
        smaller = shrink(plans.draw(seed), lambda plan: any(o == oracle for o, _ in run_plan(plan, mutant).problems))
        print(f"seed {seed} shrunk from {size(plans.draw(seed))} to {size(smaller)}")
        verdict = run_plan(smaller, mutant, verbose)
    for line in verdict.trace:
        print(line)
    _print(verdict)
    return 1 if verdict.problems else 0


def _print(verdict: Verdict) -> None:
    print(f"seed {verdict.seed}: {verdict.steps} steps, {verdict.commits} commits, history {verdict.digest}")
    for oracle, text in verdict.problems[:10]:
        print(f"  {oracle}: {text}")


def _many(options: argparse.Namespace) -> int:
    done, totals, failed = 0, Counter[str](), 0
    begun_s = said_s = time.monotonic()
    for result in batches(options.first, options.seeds, options.mutant, options.processes):
        done += result.seeds
        totals.update(result.totals)
        failed += len(result.failing)
        for seed, problems in result.failing:
            oracle, text = problems[0]
            mutant = f" --mutant {options.mutant}" if options.mutant else ""
            print(f"seed {seed} fails: {oracle}: {text:.300}")
            print(f"  python -m tests.simulation --seed {seed} --verbose{mutant}", flush=True)
        now_s = time.monotonic()
        if now_s - said_s >= _SAY_EVERY_S or done == options.seeds:
            said_s = now_s
            rate = done / (now_s - begun_s)
            counted = ", ".join(f"{count:,} {name}" for name, count in sorted(totals.items()))
            print(f"{done:,} seeds, {failed} failed, {rate:.1f} seeds/s: {counted}", flush=True)
    return 1 if failed else 0


def _all_mutants(most_seeds: int, processes: int) -> int:
    missed = []
    print("| mutant | in | what it breaks | caught by seed | oracle |\n|---|---|---|---|---|")
    names = mutants.in_commits()
    for found in catches(names, most_seeds, processes):
        mutant = mutants.MUTANTS[found.mutant]
        caught = "" if found.seed is None else str(found.seed)
        print(f"| `{mutant.name}` | {mutant.area} | {mutant.breaks} | {caught} | {found.oracle} |", flush=True)
        if found.seed is None:
            missed.append(mutant.name)
    print(
        f"\n{len(names) - len(missed)} of {len(names)} caught; missed: {', '.join(missed) or 'none'}", file=sys.stderr
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
