"""Simulated histories: coordinator and clients on a machine whose every step follows from a seed."""

from __future__ import annotations

import pytest

from tests.simulation import plan as plans
from tests.simulation.batches import catch, run_seeds
from tests.simulation.run import run_plan, run_seed
from tests.simulation.shrink import shrink, size
from tests.support.slow import slow

pytestmark = pytest.mark.plain

_BATCH = 25


def test_the_simulated_machine_fits_the_code() -> None:
    """Some histories commit and none fails: else whatever is done to the code counts as noticed below."""
    result = run_seeds(0, 2)
    assert (result.failing, result.totals["commits"] > 0) == ([], True)


@pytest.mark.long
@pytest.mark.parametrize("first", [*range(0, 75, _BATCH), *slow(*range(75, 300, _BATCH))])
def test_nothing_is_wrong_in_any_history(first: int) -> None:
    """Through kills, stops, power cuts, failing syncs and full disks every history passes every oracle."""
    result = run_seeds(first, first + _BATCH)
    assert result.failing == []
    assert result.totals["commits"] > _BATCH


@pytest.mark.long
def test_one_seed_is_one_history() -> None:
    """The same seed twice gives the same history, and another seed another."""
    digests = [run_seed(seed).digest for seed in (3, 4, 3)]
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize(
    "mutant", ["skip_point_validation", "drop_last_record", "forget_outcomes", "skip_sync_in_strict"]
)
def test_a_mutant_is_found(mutant: str) -> None:
    """An oracle notices a bug within a few seeds."""
    assert catch(mutant, 60).seed is not None


@pytest.mark.long
def test_a_failing_history_is_shrunk() -> None:
    """What is left of a failing plan fails, too, and is smaller."""
    mutant = "drop_last_record"
    seed = catch(mutant, 60).seed
    assert seed is not None
    plan = plans.draw(seed)
    smaller = shrink(plan, lambda each: bool(run_plan(each, mutant).problems), most_tries=30)
    assert run_plan(smaller, mutant).problems
    assert size(smaller) != size(plan)
