"""The proof that the oracles see: every planted bug is caught, and the sound product on the same seeds is silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import mutants as plants
from tests.mutants.catching.catching import MOST_PROCESS_SEEDS, WITH_PROCESSES, catch_by_scenario, catch_with_processes
from tests.mutants.catching.scenarios import SCENARIOS, run_scenario

# What is wrong in a transaction or a connection of a process, or between two of them, needs processes.
NEED_PROCESSES = {
    *("skip_absence_validation", "scan_without_own_writes"),
    *("resend_as_another", "keep_old_attachment", "serve_without_lock"),
}
QUICK_WITH_PROCESSES = ["keep_old_attachment", "serve_without_lock"]
BY_SCENARIO = sorted(plants.PLANTS.keys() - NEED_PROCESSES)
DEFAULT_SEEDS = 5  # of each scenario, sound; with --slow many more than any fault needs


def test_every_plant_is_looked_for() -> None:
    """No plant is left out by mistake, and each of its areas has some."""
    assert set(WITH_PROCESSES) >= NEED_PROCESSES
    assert set(plants.PLANTS) >= set(WITH_PROCESSES)
    assert len(plants.PLANTS) >= 40


@pytest.mark.parametrize("plant", sorted(plants.PLANTS))
def test_planting_is_undone(plant: str) -> None:
    """After a plant is taken out every class is as it was."""
    patch = plants.Patch()
    plants.PLANTS[plant].install(patch)
    places = [(owner, name, sound) for owner, name, sound in patch.replaced]
    assert all(vars(owner)[name] is not sound for owner, name, sound in places)
    patch.restore()
    assert places
    assert all(vars(owner)[name] is sound for owner, name, sound in places)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_sound_store_is_silent(scenario: str) -> None:
    """On the first seeds, with which most plants are caught, nothing is said of shoal as it is."""
    for seed in range(DEFAULT_SEEDS):
        assert run_scenario(scenario, seed) == []


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_sound_store_is_silent_on_many_seeds(scenario: str) -> None:
    """The same on 300 seeds: all that any plant may take, and more."""
    for seed in range(300):
        assert (seed, run_scenario(scenario, seed)) == (seed, [])


@pytest.mark.parametrize("plant", BY_SCENARIO)
def test_planted_bug_is_caught(plant: str) -> None:
    """An oracle notices the fault within a few seeds."""
    catch = catch_by_scenario(plant)
    assert catch is not None
    print(plant, catch)


@pytest.mark.parametrize(
    "plant",
    [
        *QUICK_WITH_PROCESSES,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in sorted(set(WITH_PROCESSES) - set(QUICK_WITH_PROCESSES))
        ),
    ],
)
def test_planted_bug_is_caught_with_processes(tmp_path: Path, plant: str) -> None:
    """What needs processes, or shows in them as well, is noticed in a history they make under the fault."""
    catch = catch_with_processes(plant, tmp_path)
    assert catch is not None
    print(plant, catch)


@pytest.mark.slow
@pytest.mark.parametrize("plant", sorted({run: name for name, run in WITH_PROCESSES.items()}.values()))
def test_sound_processes_are_silent(tmp_path: Path, plant: str) -> None:
    """The same processes on the same seeds without the fault: nothing is said."""
    for seed in range(MOST_PROCESS_SEEDS):
        assert (seed, WITH_PROCESSES[plant](None, tmp_path / f"{seed}", seed)) == (seed, [])
