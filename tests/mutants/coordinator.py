"""A coordinator with mutants or under conditions: ``python coordinator.py NAME[+NAME...] ARGUMENT...``.

``mutated_coordinators`` makes this process, and those it forks, start such a coordinator in place of a sound one.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":  # started with -P, so that nothing from the current directory is imported by accident
    sys.path.append(str(Path(__file__).resolve().parents[2]))

import tests.support.plain_python  # noqa: F401 (first)
from shoal.coordinator.server import process
from shoal.primitives.rules.retention.coordinator_table import COORDINATOR_TABLE
from shoal.workers import coordinator_start
from tests.mutants import CONDITIONS, MUTANTS, Patch
from tests.mutants.registry import coordinator_faults

_FOR_GOOD = Patch()


@contextlib.contextmanager
def mutated_coordinators(names: str | None) -> Iterator[None]:
    """Coordinators started meanwhile by this process, and by those it forks, have these faults ("one+another")."""
    sound = coordinator_start.python_command
    if names is not None:
        unknown = set(names.split("+")) - coordinator_faults()
        assert not unknown, f"{unknown} are no faults of a coordinator's"
        coordinator_start.python_command = lambda _module, *arguments: [
            *(sys.executable, "-P", str(Path(__file__).resolve()), names, *arguments)
        ]
    try:
        yield
    finally:
        coordinator_start.python_command = sound


def mutate_for_good(name: str) -> None:
    """Give this process, which was made for it, the mutant for the rest of its life."""
    MUTANTS[name].install(_FOR_GOOD)


def main() -> int:
    """Install the faults and be a coordinator."""
    for name in sys.argv[1].split("+"):
        if name in CONDITIONS:
            CONDITIONS[name]()
        else:
            mutate_for_good(name)
    return process.main(COORDINATOR_TABLE, sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
