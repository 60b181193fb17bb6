"""``python -m tests.system_calls``: every call, every fault, and a table of what came of them."""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from tests import mutants
from tests.system_calls import processes, runner, short_calls
from tests.system_calls.faults import SHORT, Case, cases
from tests.system_calls.runner import Outcome


def main() -> int:
    """Run what was asked for; 1 if anything was outside the contract."""
    parser = argparse.ArgumentParser(prog="python -m tests.system_calls", description=__doc__)
    parser.add_argument("--target", choices=["coordinator", "client"], action="append")
    parser.add_argument("--durability", choices=["buffered", "strict"], action="append")
    parser.add_argument("--call", action="append", help="only calls of this name")
    parser.add_argument("--fault", action="append", help="only this fault")
    parser.add_argument("--number", type=int, action="append", help="only the n-th call")
    parser.add_argument("--every", type=int, default=1, help="only every n-th case")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--mutant", choices=sorted(mutants.MUTANTS), metavar="NAME", help="with this mutant in shoal")
    parser.add_argument("--list", action="store_true", help="only say which calls there are")
    parser.add_argument("--verbose", action="store_true", help="a line for each case")
    options = parser.parse_args()
    if shutil.which("strace") is None:
        print("skipped: there is no strace")
        return 2
    refusal = short_calls.load() if SHORT in (options.fault or [SHORT]) else None
    if refusal:
        print(f"short calls are not tried: {refusal}")
    processes.adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="shoal-system-calls-") as directory, mutants.mutated(options.mutant):
        return _run(Path(directory), options)


def _run(directory: Path, options: argparse.Namespace) -> int:
    began_s = time.monotonic()
    runner.template(directory)
    wanted: list[Case] = []
    for target in options.target or ["coordinator", "client"]:
        for durability in options.durability or ["strict", "buffered"]:
            counts = runner.count_calls(directory, target, durability)
            print(f"{target}, {durability}: " + ", ".join(f"{n} {name}" for name, n in sorted(counts.items())))
            wanted += cases(target, durability, counts)
    wanted = [
        case
        for case in wanted
        if (not options.call or case.name in options.call)
        and (not options.fault or case.fault in options.fault)
        and (not options.number or case.number in options.number)
        and (case.fault != SHORT or short_calls.is_loaded())
    ][:: options.every]
    if options.list:
        return 0
    outcomes = []
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(options.jobs, context, processes.adopt_orphans) as pool:
        for outcome in pool.map(runner.run_case, [directory] * len(wanted), wanted):
            outcomes.append(outcome)
            if options.verbose or outcome.problems:
                print(outcome, flush=True)
    _print_table(outcomes)
    met = sum(outcome.met for outcome in outcomes)
    bad = [outcome for outcome in outcomes if outcome.problems]
    took_s = time.monotonic() - began_s
    print(f"\n{len(outcomes)} runs, {met} met their fault, {len(bad)} outside the contract, {took_s:.0f} s")
    return 1 if bad else 0


def _print_table(outcomes: list[Outcome]) -> None:
    print(
        "\n| process | call | fault | met | nothing noticed | coordinator replaced | refused | client died | outside |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    rows: dict[tuple[str, str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        case = outcome.case
        rows[case.target, case.name, case.fault].append(outcome)
    for (target, name, fault), members in sorted(rows.items()):
        met = [outcome for outcome in members if outcome.met]
        seen = [outcome.seen for outcome in met]
        refusals = sorted({each.removeprefix("refused with ") for each in seen if each.startswith("refused")})
        refused = sum(each.startswith("refused") for each in seen)
        cells = [
            *(target, name, fault, f"{len(met)}", f"{seen.count('nothing')}", f"{seen.count('coordinator replaced')}"),
            f"{refused}" + (f" ({', '.join(refusals)})" if refusals else ""),
            f"{seen.count('the client died')}",
            f"{sum(bool(outcome.problems) for outcome in members)}",
        ]
        print("| " + " | ".join(cell if cell != "0" else "" for cell in cells) + " |")


if __name__ == "__main__":
    sys.exit(main())
