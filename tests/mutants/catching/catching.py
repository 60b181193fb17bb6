"""Installs a mutant and takes seeds from 0 on until one of the checks it names says that something is wrong.

The checks are scenarios in this process (``scenarios``), and histories that real processes make with the mutant.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import shoal
from shoal import CorruptionError
from shoal.shm.host.child_python import python_environment
from shoal.workers import coordinator_start
from tests import mutants
from tests.mutants.catching.rig import Problem
from tests.mutants.catching.scenarios import SCENARIOS, run_scenario
from tests.mutants.coordinator import mutate_for_good, mutated_coordinators
from tests.support.histories.acknowledged_workers import run_acknowledged
from tests.support.histories.history import violations
from tests.support.histories.history_workers import WorkersFailedError, run_history
from tests.support.histories.list_append import anomalies
from tests.support.histories.list_append_workers import run_lists
from tests.support.workers.crash_workers import kill, processes_of

MOST_SCENARIO_SEEDS = 20
MOST_HISTORY_SEEDS = 5
_TRANSACTIONS = 800
_MOST_NAMED = 4


class Catch(NamedTuple):
    """How a mutant was caught: ``seeds`` is how many it took."""

    how: str
    seeds: int
    oracle: str
    text: str


History = Callable[[str | None, Path, int], list[Problem]]


def _sides(mutant: str | None) -> tuple[str | None, Callable[[], None] | None]:
    """The mutant as a fault of coordinators, and as what a worker does first."""
    if mutant is None or mutants.MUTANTS[mutant].side == mutants.COORDINATOR:
        return mutant, None
    return None, lambda: mutate_for_good(mutant)


def _replayed(directory: Path, seed: int, count: int, **options: Any) -> list[Problem]:
    """Random transactions, judged by replay in commit order and by ``check()``."""
    checked: list[str] = []
    events = run_history(directory, seed, count, checked=checked, **options)
    return [("replay", text) for text in violations(events)] + [("check()", text) for text in checked]


def _lists(directory: Path, seed: int, count: int, **options: Any) -> list[Problem]:
    """Lists that are read and appended to, judged by the list-append checker."""
    return [(anomaly.name, anomaly.text) for anomaly in anomalies(run_lists(directory, seed, count, **options))]


def _many(judge: Callable[..., list[Problem]], *, condition: str | None = None, **options: Any) -> History:
    """Four processes on one store whose coordinators have the fault, or who have it themselves."""

    def run(mutant: str | None, directory: Path, seed: int) -> list[Problem]:
        fault, first = _sides(mutant)
        faults = [name for name in (condition, fault) if name is not None]
        with mutated_coordinators("+".join(faults) or None):
            try:
                return judge(directory, seed, _TRANSACTIONS, first=first, **options)
            except WorkersFailedError as error:
                return [("no such error", f"workers ended with {error}")]
            except CorruptionError as error:
                return [("event chain", str(error))]

    return run


def _reader_of_two_coordinators(mutant: str | None, directory: Path, _seed: int) -> list[Problem]:
    """Who only reads sees what was committed under the next coordinator."""
    with (
        mutants.mutated(mutant),
        shoal.open(directory / "db", linger=0.2) as reading,
        shoal.open(directory / "db") as writing,
    ):
        shoal.KVStore(writing).put("run", "k", "old")
        kill(writing.info().coordinator_pid)
        shoal.KVStore(writing).put("run", "k", "new")
        with reading.snapshot("run") as view:
            found = view.kv.get("k")
    return [] if found == "new" else [("real time", f"a snapshot after the commit of 'new' read {found!r}")]


def _two_coordinators(mutant: str | None, directory: Path, _seed: int) -> list[Problem]:
    """A second coordinator of a store that is served ends without serving."""
    path = directory / "db"
    with shoal.open(path, linger=0.2), mutated_coordinators(mutant):
        said, says = os.pipe()
        command = coordinator_start.python_command("shoal.coordinator_main", str(path), "--report-fd", str(says))
        pid = os.posix_spawn(
            command[0], command, python_environment(), file_actions=[(os.POSIX_SPAWN_DUP2, says, says)]
        )
        os.close(says)
        os.waitpid(pid, 0)
        report = os.read(said, 65536)
        os.close(said)
        if report:
            for other in processes_of(path):
                kill(other)
    return [("one coordinator", "a second one serves the same store")] if report else []


# Histories of real processes, by the name that mutants call them by.
# The conflict, or the death, that a fault shows at may not happen: then the next seed is taken.
HISTORIES: dict[str, History] = {
    "lists": _many(_lists, durability="memory"),
    "transactions": _many(_replayed, durability="memory"),
    "transactions_after_deaths": _many(_replayed, condition="die_logged", durability="strict"),
    "appends": _many(run_acknowledged, durability="strict"),
    "appends_after_deaths": _many(run_acknowledged, condition="die_logged"),
    "reader_of_two_coordinators": _reader_of_two_coordinators,
    "two_coordinators": _two_coordinators,
}


def scenarios_of(name: str) -> list[str]:
    """The scenarios that must catch the mutant."""
    return [check for check in mutants.MUTANTS[name].caught_by if check in SCENARIOS]


def histories_of(name: str) -> list[str]:
    """The histories of processes that must catch the mutant."""
    return [check for check in mutants.MUTANTS[name].caught_by if check in HISTORIES]


def catch_by_scenario(name: str, most_seeds: int = MOST_SCENARIO_SEEDS) -> Catch | None:
    """The first problem that the mutant's scenarios show, None if there is none within ``most_seeds``."""
    for seed in range(most_seeds):
        for scenario in scenarios_of(name):
            with mutants.mutated(name):
                problems = run_scenario(scenario, seed)
            if problems:
                return Catch(scenario, seed + 1, *problems[0])
    return None


def catch_by_history(name: str, directory: Path, most_seeds: int = MOST_HISTORY_SEEDS) -> Catch | None:
    """The first problem that the mutant's histories show, None if there is none within ``most_seeds``."""
    for seed in range(most_seeds):
        for history in histories_of(name):
            own = directory / f"{name}-{history}-{seed}"
            own.mkdir()
            problems = HISTORIES[history](name, own / "h", seed)
            if problems:
                oracles = list(dict.fromkeys(oracle for oracle, _ in problems))
                return Catch(history, seed + 1, ", ".join(oracles[:_MOST_NAMED]), problems[0][1])
    return None
