"""The registry of mutants and failpoints: every deliberate fault of the tests is listed here, and nowhere else.

A mutant is a fault that replaces parts of shoal's own classes in this process and is taken out again. Nothing of it is
in shoal. Each mutant names the checks that must catch it: scenarios of ``catching.scenarios`` (one process), histories
of ``catching.catching.HISTORIES`` (several processes), ``simulation`` (``tests.simulation``), or ``soak``.

A condition is no fault of shoal: it is what a coordinator meets, as a full disk or a commit that kills it.

A failpoint is a place before, after or in the middle of a call of shoal where a process is killed. ``tests.failpoints``
kills there and audits the store afterwards: one check for all of them.

``python -m tests.mutants --list`` prints all three.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

COORDINATOR, WORKER, HELPER = "coordinator", "worker", "checkpoint helper"
SOAK, SIMULATION = "soak", "simulation"


class Patch:
    """Replaces attributes and puts them back."""

    def __init__(self) -> None:
        self.replaced: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> Any:
        """Give ``owner`` another attribute ``name``; the one it had."""
        sound = vars(owner)[name]
        self.replaced.append((owner, name, sound))
        setattr(owner, name, value)
        return sound

    def restore(self) -> None:
        """Put everything back."""
        while self.replaced:
            setattr(*self.replaced.pop())


class Mutant(NamedTuple):
    """One fault: ``side`` is the process it belongs in, ``caught_by`` the checks that must notice it."""

    name: str
    area: str
    side: str
    breaks: str
    caught_by: tuple[str, ...]
    install: Callable[[Patch], None]

    @property
    def only_grows(self) -> bool:
        """Whether every commit is right and only the process grows, which nothing but the soak can notice."""
        return self.caught_by == (SOAK,)


class Failpoint(NamedTuple):
    """Where a process is killed: before, after or in the middle of ``owner.name``."""

    process: str
    owner: Any
    name: str
    when: str  # "before", "after", or "half": after half of the bytes it was to write
    only: Callable[..., bool] = lambda *_arguments: True  # which calls count


MUTANTS: dict[str, Mutant] = {}
CONDITIONS: dict[str, Callable[[], None]] = {}


def mutant(
    area: str, *caught_by: str, side: str = COORDINATOR
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a function as the mutant of its name; the first line of its docstring says what it breaks."""

    def register(install: Callable[[Patch], None]) -> Callable[[Patch], None]:
        name = install.__name__
        assert caught_by
        assert name not in MUTANTS
        MUTANTS[name] = Mutant(name, area, side, _first_line(install), caught_by, install)
        return install

    return register


def condition(install: Callable[[], None]) -> Callable[[], None]:
    """Register a function as the condition of its name; it holds for the rest of the process."""
    assert _first_line(install)
    CONDITIONS[install.__name__] = install
    return install


def in_commits() -> list[str]:
    """Names of the mutants that show in what commits do, by area; the others only grow."""
    return [each.name for each in sorted(MUTANTS.values(), key=lambda each: each.area) if not each.only_grows]


def coordinator_faults() -> set[str]:
    """Names of everything that a coordinator can be started with."""
    return {*CONDITIONS, *(each.name for each in MUTANTS.values() if each.side == COORDINATOR)}


@contextlib.contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """This process has the mutant ``name`` meanwhile, or none."""
    patch = Patch()
    try:
        if name is not None:
            MUTANTS[name].install(patch)
        yield
    finally:
        patch.restore()


def listing(failpoints: dict[str, Failpoint]) -> str:
    """Every mutant, condition and failpoint, as markdown."""
    lines = ["| mutant | area | process | what it breaks | caught by |", "|---|---|---|---|---|"]
    for each in sorted(MUTANTS.values(), key=lambda each: (each.area, each.name)):
        lines.append(f"| `{each.name}` | {each.area} | {each.side} | {each.breaks} | {', '.join(each.caught_by)} |")
    lines += ["", "| condition | what a coordinator meets |", "|---|---|"]
    lines += [f"| `{name}` | {_first_line(install)} |" for name, install in sorted(CONDITIONS.items())]
    lines += ["", "| failpoint | process killed | when | at |", "|---|---|---|---|"]
    for name, failpoint in failpoints.items():
        owner = getattr(failpoint.owner, "__name__", type(failpoint.owner).__name__)
        lines.append(f"| {name} | {failpoint.process} | {failpoint.when} | `{owner}.{failpoint.name}` |")
    lines += ["", f"{len(MUTANTS)} mutants, {len(CONDITIONS)} conditions, {len(failpoints)} failpoints"]
    return "\n".join(lines)


def _first_line(install: Callable[..., None]) -> str:
    line = (install.__doc__ or "").strip().partition("\n")[0]
    assert line, f"{install.__name__} does not say what it does"
    return line
