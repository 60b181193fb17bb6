"""The table of all planted bugs, as markdown; exit status 1 if one was not caught."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import plants

from .catching import WITH_PROCESSES, Catch, catch_by_scenario, catch_with_processes
from .scenarios import SCENARIOS


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
    options = parser.parse_args()
    missed = []
    print("| plant | in | what it breaks | single moments: seeds, oracle | processes: seeds, oracle |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        for name in options.plants or sorted(plants.PLANTS, key=lambda each: plants.PLANTS[each].area):
            plant = plants.PLANTS[name]
            moment = catch_by_scenario(name)
            real = catch_with_processes(name, Path(directory)) if name in WITH_PROCESSES else None
            cells = (f"`{name}`", plant.area, plant.breaks, _cell(moment), _cell(real))
            print(f"| {' | '.join(cells)} |", flush=True)
            if moment is None and real is None:
                missed.append(name)
    print(f"\n{len(missed)} missed{': ' if missed else ''}{', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
