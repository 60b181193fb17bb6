"""The proof that the oracles see: every mutant is caught, and shoal as it is on the same seeds is silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import mutants
from tests.failpoints import FAILPOINTS
from tests.mutants.catching.catching import (
    HISTORIES,
    MOST_HISTORY_SEEDS,
    catch_by_history,
    catch_by_scenario,
    histories_of,
    scenarios_of,
)
from tests.mutants.catching.scenarios import SCENARIOS, run_scenario
from tests.mutants.registry import SIMULATION, SOAK
from tests.simulation.batches import catch as catch_by_simulation
from tests.support.repository import ROOT

pytestmark = pytest.mark.plain

# These two take a second; the others make a history of 800 transactions for each seed.
QUICK_HISTORIES = ["reader_of_two_coordinators", "two_coordinators"]
BY_SCENARIO = [name for name in sorted(mutants.MUTANTS) if scenarios_of(name)]
BY_HISTORY = [(name, histories_of(name)) for name in sorted(mutants.MUTANTS) if histories_of(name)]
BY_SIMULATION = [name for name, each in sorted(mutants.MUTANTS.items()) if SIMULATION in each.caught_by]
# These show in a few histories of hundreds; the others in one of the first twenty or so.
LATE_IN_SIMULATION = {
    *("effect_without_intent", "lease_of_the_dead", "lines_form_by_arrival", "pipelined_again", "ttl_of_the_living")
}
MOST_HISTORIES = 400
DEFAULT_SEEDS = 5  # of each scenario, sound; with --slow many more than any mutant needs


def test_every_mutant_names_its_checks() -> None:
    """Each mutant names checks that exist, and none is lost: 70 that show in commits, two that leak."""
    checks = {*SCENARIOS, *HISTORIES, SIMULATION, SOAK}
    assert {
        name: each.caught_by for name, each in mutants.MUTANTS.items() if not checks.issuperset(each.caught_by)
    } == {}
    assert len(mutants.in_commits()) == 70
    assert len(mutants.MUTANTS) == 72


def test_the_documentation_counts_them() -> None:
    """The pages say how many mutants, scenarios and failpoints there are."""
    tested, caught = ((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("reliability.md", "mutants.md"))
    assert f"{len(mutants.MUTANTS)} mutants are in" in tested
    assert f"the same {len(SCENARIOS)} scenarios" in tested
    assert f"at {len(FAILPOINTS)} named places" in tested
    assert f"{len(mutants.in_commits())} mutants, one switch for each" in caught


@pytest.mark.parametrize("mutant", sorted(mutants.MUTANTS))
def test_a_mutant_is_undone(mutant: str) -> None:
    """After a mutant is taken out every class is as it was."""
    patch = mutants.Patch()
    mutants.MUTANTS[mutant].install(patch)
    places = [(owner, name, sound) for owner, name, sound in patch.replaced]
    assert all(vars(owner)[name] is not sound for owner, name, sound in places)
    patch.restore()
    assert places
    assert all(vars(owner)[name] is sound for owner, name, sound in places)


@pytest.mark.long
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_sound_store_is_silent(scenario: str) -> None:
    """On the first seeds, with which most mutants are caught, nothing is said of shoal as it is."""
    for seed in range(DEFAULT_SEEDS):
        assert run_scenario(scenario, seed) == []


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_sound_store_is_silent_on_many_seeds(scenario: str) -> None:
    """The same on 300 seeds: all that any mutant may take, and more."""
    for seed in range(300):
        assert (seed, run_scenario(scenario, seed)) == (seed, [])


@pytest.mark.parametrize("mutant", BY_SCENARIO)
def test_mutant_is_caught_by_scenario(mutant: str) -> None:
    """An oracle notices the fault within a few seeds."""
    catch = catch_by_scenario(mutant)
    assert catch is not None
    print(mutant, catch)


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(name, marks=[] if set(histories) <= set(QUICK_HISTORIES) else [pytest.mark.slow])
        for name, histories in BY_HISTORY
    ],
)
def test_mutant_is_caught_by_history(tmp_path: Path, mutant: str) -> None:
    """What needs processes, or shows in them as well, is noticed in a history they make under the fault."""
    catch = catch_by_history(mutant, tmp_path)
    assert catch is not None
    print(mutant, catch)


@pytest.mark.parametrize(
    "mutant",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LATE_IN_SIMULATION else []) for name in BY_SIMULATION],
)
def test_mutant_is_caught_by_simulation(mutant: str) -> None:
    """What shows only where clients of a fleet meet is noticed in a simulated history."""
    found = catch_by_simulation(mutant, MOST_HISTORIES)
    assert found.seed is not None
    print(mutant, found)


@pytest.mark.slow
@pytest.mark.parametrize("history", HISTORIES)
def test_sound_processes_are_silent(tmp_path: Path, history: str) -> None:
    """The same processes on the same seeds without a mutant: nothing is said."""
    for seed in range(MOST_HISTORY_SEEDS):
        assert (seed, HISTORIES[history](None, tmp_path / f"{seed}", seed)) == (seed, [])
