"""The table of all planted bugs, as markdown; exit status 1 if one was not caught."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests import mutants as plants
from tests.mutants.catching.catching import WITH_PROCESSES, Catch, catch_by_scenario, catch_with_processes
from tests.mutants.catching.scenarios import SCENARIOS
from tests.simulation import batches


def _cell(catch: Catch | None) -> str:
    return (
        ""
        if catch is None
        else f"{catch.seeds}: {catch.oracle}" + (f" ({catch.how})" if catch.how in SCENARIOS else "")
    )


def main() -> int:
    """Print the table; 1 if a plant was not caught by anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.planted_bugs", description=__doc__)
    parser.add_argument("plants", nargs="*", help="only these")
    parser.add_argument("--seeds", type=int, default=300, help="how many histories to simulate at most")
    parser.add_argument("--jobs", type=int, default=2, help="how many plants to simulate at once")
    options = parser.parse_args()
    names = options.plants or sorted(plants.PLANTS, key=lambda each: plants.PLANTS[each].area)
    simulated = {each.plant: each for each in batches.catches(names, options.seeds, options.jobs)}
    missed = []
    print("| plant | in | what it breaks | single moments: seeds, oracle | processes: seeds, oracle | simulation |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            plant = plants.PLANTS[name]
            moment = catch_by_scenario(name)
            real = catch_with_processes(name, Path(directory)) if name in WITH_PROCESSES else None
            found = simulated[name]
            seeds = "" if found.seed is None else f"{found.seed + 1}: {found.oracle}"
            cells = (f"`{name}`", plant.area, plant.breaks, _cell(moment), _cell(real), seeds)
            print(f"| {' | '.join(cells)} |", flush=True)
            if moment is None and real is None and found.seed is None:
                missed.append(name)
    print(f"\n{len(missed)} missed{': ' if missed else ''}{', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
