"""Every mutant and what caught it, as markdown; exit status 1 if one was not caught."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests import failpoints, mutants
from tests.mutants.catching.catching import Catch, catch_by_history, catch_by_scenario
from tests.mutants.catching.scenarios import SCENARIOS
from tests.mutants.registry import listing
from tests.simulation import batches


def _cell(catch: Catch | None) -> str:
    return (
        ""
        if catch is None
        else f"{catch.seeds}: {catch.oracle}" + (f" ({catch.how})" if catch.how in SCENARIOS else "")
    )


def main() -> int:
    """Print the table; 1 if a mutant was not caught by anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--list", action="store_true", help="only list mutants, conditions and failpoints")
    parser.add_argument("mutants", nargs="*", help="only these")
    parser.add_argument("--seeds", type=int, default=1500, help="how many histories to simulate at most")
    parser.add_argument("--jobs", type=int, default=2, help="how many mutants to simulate at once")
    options = parser.parse_args()
    if options.list:
        print(listing(failpoints.FAILPOINTS))
        return 0
    names = options.mutants or mutants.in_commits()
    simulated = {each.mutant: each for each in batches.catches(names, options.seeds, options.jobs)}
    missed = []
    print("| mutant | in | what it breaks | scenario: seeds, oracle | history: seeds, oracle | simulation |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            mutant = mutants.MUTANTS[name]
            single = catch_by_scenario(name)
            real = catch_by_history(name, Path(directory))
            found = simulated[name]
            seeds = "" if found.seed is None else f"{found.seed + 1}: {found.oracle}"
            cells = (f"`{name}`", mutant.area, mutant.breaks, _cell(single), _cell(real), seeds)
            print(f"| {' | '.join(cells)} |", flush=True)
            if single is None and real is None and found.seed is None:
                missed.append(name)
    print(f"\n{len(missed)} missed{': ' if missed else ''}{', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
