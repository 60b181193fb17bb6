"""Plants a bug and takes seeds from 0 on until an oracle says that something is wrong.

With single moments in this process (``scenarios``), and with real processes that make a history under the fault.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import plants
import sabotage
from acknowledged_workers import run_acknowledged
from crash_workers import kill, processes_of
from history import violations
from history_workers import WorkersFailedError, run_history
from list_append import anomalies
from list_append_workers import run_lists

import shoal
from shoal import CorruptionError
from shoal.shm.host.child_python import python_environment
from shoal.workers.shared_memory import take_over

from .rig import Problem
from .scenarios import SCENARIOS, run_scenario

MOST_SCENARIO_SEEDS = 20
MOST_PROCESS_SEEDS = 5
_TRANSACTIONS = 800
_MOST_NAMED = 4


class Catch(NamedTuple):
    """How a plant was caught: ``seeds`` is how many it took."""

    how: str
    seeds: int
    oracle: str
    text: str


Run = Callable[[str | None, Path, int], list[Problem]]


def _sides(plant: str | None) -> tuple[str | None, Callable[[], None] | None]:
    """The plant as a fault of coordinators, and as what a worker does first."""
    if plant is None or plants.PLANTS[plant].side == plants.COORDINATOR:
        return plant, None
    return None, lambda: sabotage.plant_for_good(plant)


def _replayed(directory: Path, seed: int, count: int, **options: Any) -> list[Problem]:
    """Random transactions, judged by replay in commit order and by ``check()``."""
    checked: list[str] = []
    events = run_history(directory, seed, count, checked=checked, **options)
    return [("replay", text) for text in violations(events)] + [("check()", text) for text in checked]


def _lists(directory: Path, seed: int, count: int, **options: Any) -> list[Problem]:
    """Lists that are read and appended to, judged by the list-append checker."""
    return [(anomaly.name, anomaly.text) for anomaly in anomalies(run_lists(directory, seed, count, **options))]


def _many(judge: Callable[..., list[Problem]], *, occasion: str | None = None, **options: Any) -> Run:
    """Four processes on one store whose coordinators have the fault, or who have it themselves."""

    def run(plant: str | None, directory: Path, seed: int) -> list[Problem]:
        fault, first = _sides(plant)
        faults = [name for name in (occasion, fault) if name is not None]
        with sabotage.planted("+".join(faults) or None):
            try:
                return judge(directory, seed, _TRANSACTIONS, first=first, **options)
            except WorkersFailedError as error:
                return [("no such error", f"workers ended with {error}")]
            except CorruptionError as error:
                return [("event chain", str(error))]

    return run


def _reader_of_two_coordinators(plant: str | None, directory: Path, _seed: int) -> list[Problem]:
    """Who only reads sees what was committed under the next coordinator."""
    with (
        plants.planted_here(plant),
        shoal.open(directory / "db", linger=0.2) as reading,
        shoal.open(directory / "db") as writing,
    ):
        shoal.KVStore(writing).put("run", "k", "old")
        kill(writing.info().coordinator_pid)
        shoal.KVStore(writing).put("run", "k", "new")
        with reading.snapshot("run") as view:
            found = view.kv.get("k")
    return [] if found == "new" else [("real time", f"a snapshot after the commit of 'new' read {found!r}")]


def _two_coordinators(plant: str | None, directory: Path, _seed: int) -> list[Problem]:
    """A second coordinator of a store that is served ends without serving."""
    path = directory / "db"
    with shoal.open(path, linger=0.2), sabotage.planted(plant):
        said, says = os.pipe()
        command = take_over.python_command("shoal.coordinator_main", str(path), "--report-fd", str(says))
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


_TRANSACTIONS_REPLAYED = _many(_replayed, durability="memory")
_LISTS_CHECKED = _many(_lists, durability="memory")
_REPLAYED_AFTER_DEATHS = _many(_replayed, occasion="die_logged", durability="strict")
_APPENDS_AFTER_DEATHS = _many(run_acknowledged, occasion="die_logged")

# The conflict, or the death, that a fault shows at may not happen: then the next seed is taken.
WITH_PROCESSES: dict[str, Run] = {
    **dict.fromkeys(
        ("skip_point_validation", "commit_in_spite_of_conflict", "window_forgets_too_much"), _LISTS_CHECKED
    ),
    **dict.fromkeys(("stale_snapshots", "answer_refused_as_committed"), _LISTS_CHECKED),
    **dict.fromkeys(("skip_range_validation", "skip_absence_validation"), _TRANSACTIONS_REPLAYED),
    **dict.fromkeys(("validate_one_version_late", "scan_without_own_writes"), _TRANSACTIONS_REPLAYED),
    **dict.fromkeys(("publish_before_index", "publish_half_a_commit"), _TRANSACTIONS_REPLAYED),
    **dict.fromkeys(("answer_before_log", "forget_outcomes", "resend_as_another"), _REPLAYED_AFTER_DEATHS),
    **dict.fromkeys(("forget_batch_outcomes", "append_after_a_stale_head"), _APPENDS_AFTER_DEATHS),
    "exchange_answers": _many(run_acknowledged, durability="strict"),
    "keep_old_attachment": _reader_of_two_coordinators,
    "serve_without_lock": _two_coordinators,
}


def catch_by_scenario(plant: str, most_seeds: int = MOST_SCENARIO_SEEDS) -> Catch | None:
    """The first problem that single moments show, None if there is none within ``most_seeds``."""
    for seed in range(most_seeds):
        for name in SCENARIOS:
            with plants.planted_here(plant):
                problems = run_scenario(name, seed)
            if problems:
                return Catch(name, seed + 1, *problems[0])
    return None


def catch_with_processes(plant: str, directory: Path, most_seeds: int = MOST_PROCESS_SEEDS) -> Catch | None:
    """The first problem that real processes show, None if there is none within ``most_seeds``."""
    for seed in range(most_seeds):
        own = directory / f"{plant}-{seed}"
        own.mkdir()
        problems = WITH_PROCESSES[plant](plant, own / "h", seed)
        if problems:
            oracles = list(dict.fromkeys(oracle for oracle, _ in problems))
            return Catch("processes", seed + 1, ", ".join(oracles[:_MOST_NAMED]), problems[0][1])
    return None
