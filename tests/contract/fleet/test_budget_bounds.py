"""Budgets over each engine: their runs, names, processes and databases, and what is refused."""

from __future__ import annotations

import copy
import os
import pickle
from typing import Any

import pytest

import shoal
from tests.contract.fleet.conftest import later
from tests.support.workers.crash_workers import wait_for


def test_create_fork_and_delete(budget: shoal.Budget, any_db: shoal.Database, run: str) -> None:
    """A name is used once; a fork has no budget; a deleted run forgets its own, and who waits is told."""
    runs = shoal.RunIndex(any_db)
    runs.create_run(run_id=run)
    budget.create(run, "b", 10)
    with pytest.raises(shoal.AlreadyExistsError, match="budget 'b' exists"):
        budget.create(run, "b", 20)
    fork = runs.fork_run(run).run_id
    for call in (lambda: budget.read(fork, "b"), lambda: budget.reserve(fork, "b", 1)):
        with pytest.raises(shoal.NotFoundError, match="budget 'b' does not exist"):
            call()
    reservation = budget.reserve(run, "b", 10)
    told: list[Exception] = []

    def wait(amount: int) -> None:
        try:
            budget.reserve(run, "b", amount, wait=None)
        except shoal.NotFoundError as error:
            told.append(error)

    threads = [later(wait, 1), later(wait, 100)]
    runs.delete_run(run)
    for thread in threads:
        thread.join()
    assert len(told) == 2
    with pytest.raises(shoal.NotFoundError):
        reservation.settle(1)
    budget.create(run, "b", 10)
    assert budget.read(run, "b") == shoal.BudgetState(10, 0, 0, 10)


def test_namespaces_and_names(any_db: shoal.Database, budget: shoal.Budget, run: str) -> None:
    """Each namespace, run and name has a budget of its own, whatever is in the name."""
    other = shoal.Budget(any_db, namespace=shoal.Namespace(tenant=run))
    names = ["a", "ab", "a\0b", "\0", "é", "x" * 1024]
    for number, name in enumerate(names):
        for each in (budget, other):
            each.create(run, name, number + 1)
    held = [each.reserve(run, name, 0.5) for name in names for each in (budget, other)]
    assert [budget.read(run, name).available for name in names] == [number + 0.5 for number in range(len(names))]
    for reservation in held:
        reservation.settle(0)


@pytest.mark.parametrize("bad", ["1", None, True, -1, float("nan"), float("inf"), 2**64, -0.001])
def test_bad_amounts(budget: shoal.Budget, run: str, bad: Any) -> None:
    """They are refused, and nothing has changed."""
    budget.create(run, "b", 10, refill_per_s=0)
    reservation = budget.reserve(run, "b", 5)
    for call in (
        lambda: budget.create(run, "c", bad),
        lambda: budget.create(run, "c", 1, refill_per_s=bad),
        lambda: budget.reserve(run, "b", bad),
        lambda: budget.adjust(run, "b", bad),
        lambda: reservation.settle(bad),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
    assert budget.read(run, "b") == shoal.BudgetState(10, 0, 5, 5)
    with pytest.raises(shoal.NotFoundError):
        budget.read(run, "c")
    reservation.settle(0)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": ""}, ValueError),
        ({"name": 1}, TypeError),
        ({"name": "a" * 1025}, shoal.LimitExceededError),
        ({"run_id": ""}, ValueError),
        ({"wait": -1}, ValueError),
        ({"wait": "1"}, TypeError),
        ({"name": "unknown"}, shoal.NotFoundError),
    ],
)
def test_bad_arguments(budget: shoal.Budget, run: str, arguments: Any, error: type[Exception]) -> None:
    """They are refused before anything is sent."""
    budget.create(run, "b", 10)
    with pytest.raises(error):
        budget.reserve(**({"run_id": run, "name": "b", "amount": 1} | arguments))
    with pytest.raises(TypeError, match=r"give what Budget\.reserve returned"), budget.transaction(run) as txn:
        txn.budget.settle("b", 1)
    assert budget.read(run, "b").reserved == 0


def test_a_reservation_stays_in_its_process(budget: shoal.Budget, run: str) -> None:
    """It cannot be pickled or copied; a forked child can neither settle nor refund it."""
    budget.create(run, "b", 10)
    with budget.reserve(run, "b", 5) as reservation:
        for way in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="belongs to the process that made it"):
                way(reservation)
    if budget._db._store.holding.holder == 1:
        return  # the smallest engine has one process
    with budget.reserve(run, "b", 5) as reservation:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                with pytest.raises(shoal.InvalidOperationError, match="belongs to the process"):
                    reservation.settle(5)
                with reservation:
                    pass
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert budget.read(run, "b").reserved == 5


def test_close_refunds(run: str, another: shoal.Database, memory_db: shoal.Database) -> None:
    """At once, as the death of the process would; a block that raises ends as it does else."""
    budget, other = shoal.Budget(memory_db), shoal.Budget(another)
    budget.create(run, "b", 10)
    with pytest.raises(ZeroDivisionError), other.reserve(run, "b", 5):  # noqa: PT012
        another.close()
        wait_for(lambda: not budget.read(run, "b").reserved, "the refund")
        raise ZeroDivisionError
    assert budget.read(run, "b") == shoal.BudgetState(10, 0, 0, 10)
