"""Simulated histories: ``python -m tests.simulation --seeds 1000``, or one of them: ``--seed 7 --verbose``.

Exit status 1 if any failed. A failing seed is shrunk, and printed with the command that replays it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests import mutants as plants
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
    parser.add_argument("--plant", choices=sorted(plants.PLANTS), help="with this bug planted")
    parser.add_argument("--plants", action="store_true", help="every planted bug, and the seed that catches it")
    parser.add_argument("--verbose", action="store_true", help="print the history of --seed")
    parser.add_argument("--no-shrink", action="store_true")
    options = parser.parse_args()
    if options.plants:
        return _all_plants(options.seeds, options.processes)
    if options.seed is not None:
        return _one(options.seed, options.plant, options.verbose, not options.no_shrink)
    return _many(options)


def _one(seed: int, plant: str | None, verbose: bool, shrinks: bool) -> int:
    verdict = run_seed(seed, plant, verbose)
    if verdict.problems and shrinks:
        oracle = verdict.problems[0][0]
        smaller = shrink(plans.draw(seed), lambda plan: any(o == oracle for o, _ in run_plan(plan, plant).problems))
        print(f"seed {seed} shrunk from {size(plans.draw(seed))} to {size(smaller)}")
        verdict = run_plan(smaller, plant, verbose)
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
    for result in batches(options.first, options.seeds, options.plant, options.processes):
        done += result.seeds
        totals.update(result.totals)
        failed += len(result.failing)
        for seed, problems in result.failing:
            oracle, text = problems[0]
            plant = f" --plant {options.plant}" if options.plant else ""
            print(f"seed {seed} fails: {oracle}: {text:.300}")
            print(f"  python -m tests.simulation --seed {seed} --verbose{plant}", flush=True)
        now_s = time.monotonic()
        if now_s - said_s >= _SAY_EVERY_S or done == options.seeds:
            said_s = now_s
            rate = done / (now_s - begun_s)
            counted = ", ".join(f"{count:,} {name}" for name, count in sorted(totals.items()))
            print(f"{done:,} seeds, {failed} failed, {rate:.1f} seeds/s: {counted}", flush=True)
    return 1 if failed else 0


def _all_plants(most_seeds: int, processes: int) -> int:
    missed = []
    print("| plant | in | what it breaks | caught by seed | oracle |\n|---|---|---|---|---|")
    names = sorted(plants.PLANTS, key=lambda name: plants.PLANTS[name].area)
    for found in catches(names, most_seeds, processes):
        plant = plants.PLANTS[found.plant]
        caught = "" if found.seed is None else str(found.seed)
        print(f"| `{plant.name}` | {plant.area} | {plant.breaks} | {caught} | {found.oracle} |", flush=True)
        if found.seed is None:
            missed.append(plant.name)
    print(
        f"\n{len(names) - len(missed)} of {len(names)} caught; missed: {', '.join(missed) or 'none'}", file=sys.stderr
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
