"""A signal handler raises at the end of a call that takes something to hold, or of the block that gives it back.

Nobody has it then, or nobody gives it back any more. So another thread gives it back, and nobody waits for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.primitives.facades import event_log, leases, task_queue
from shoal.primitives.facades.fleet import budget as budgets
from shoal.primitives.rules import requests
from shoal.primitives.views.fleet import budgets as holds
from shoal.workers.presence.holding import Holding
from tests.processes.interrupted.handling import RUN, Alarm
from tests.support.shared_memory import store_of
from tests.support.workers.crash_workers import wait_for

Interrupt = Callable[[Any, str], None]


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Have a function raise, once, as if a handler raised right before it."""

    def begin(owner: Any, name: str) -> None:
        def interrupted(*_: object, **__: object) -> None:
            monkeypatch.undo()
            raise Alarm

        is_property = isinstance(vars(owner)[name], property)
        monkeypatch.setattr(owner, name, property(interrupted) if is_property else interrupted)

    return begin


@pytest.fixture
def other(db: shoal.Database, store: Path) -> Iterator[shoal.Database]:
    """The store as another holder sees it. ``db`` stays open: its end would end all that it holds."""
    with shoal.open(store) as opened:
        yield opened


def _holds_nothing(db: shoal.Database) -> bool:
    holding = store_of(db).holding
    assert isinstance(holding, Holding)
    return not holding._held and not holding._undone


@pytest.mark.long
def test_a_lease_that_is_taken(db: shoal.Database, other: shoal.Database, interrupt: Interrupt) -> None:
    """Others get it."""
    interrupt(leases, "Lease")
    with pytest.raises(Alarm):
        db.lease(RUN, "job")
    with other.lease(RUN, "job", wait=30):
        wait_for(lambda: _holds_nothing(db), "all to be forgotten")


@pytest.mark.long
def test_the_end_of_a_block_with_a_lease(db: shoal.Database, other: shoal.Database, interrupt: Interrupt) -> None:
    """Others get it."""
    with pytest.raises(Alarm), db.lease(RUN, "job"):
        interrupt(requests, "release_lease")
    with other.lease(RUN, "job", wait=30):
        wait_for(lambda: _holds_nothing(db), "all to be forgotten")


@pytest.mark.long
@pytest.mark.parametrize("where", ["taken", "left"])
def test_a_consumer(db: shoal.Database, other: shoal.Database, interrupt: Interrupt, where: str) -> None:
    """Another one gets the name."""
    if where == "taken":
        interrupt(event_log, "Consumer")
    with pytest.raises(Alarm), shoal.EventLog(db).consumer(RUN, "reader"):
        interrupt(requests, "release_lease")
    with shoal.EventLog(other).consumer(RUN, "reader", wait=30):
        wait_for(lambda: _holds_nothing(db), "all to be forgotten")


@pytest.mark.long
def test_the_end_of_a_block_with_a_task(db: shoal.Database, other: shoal.Database, interrupt: Interrupt) -> None:
    """The block was done, so the task is completed."""
    task_id = shoal.TaskQueue(db).put(RUN, "q", 1)
    with pytest.raises(Alarm), _claimed(db):
        interrupt(requests, "complete_task")
    assert shoal.TaskQueue(other).result(RUN, task_id, timeout=30) is None
    wait_for(lambda: _holds_nothing(db), "the claim to be forgotten")


@pytest.mark.long
def test_a_failed_block_with_a_task(db: shoal.Database, other: shoal.Database, interrupt: Interrupt) -> None:
    """The attempt has failed: another process claims the task, and sees with what."""
    task_id = shoal.TaskQueue(db).put(RUN, "q", 1)
    with pytest.raises(Alarm), _claimed(db):
        _fail(interrupt, requests, "fail_task")
    again = shoal.TaskQueue(other).claim(RUN, "q", wait=30)
    found = shoal.TaskQueue(other).get(RUN, task_id)
    assert again is not None
    assert found is not None
    assert (again.attempt, found.error) == (2, "ValueError: of the block")
    wait_for(lambda: _holds_nothing(db), "all to be forgotten")


@pytest.mark.long
def test_tasks_that_end_one_by_one(db: shoal.Database, interrupt: Interrupt) -> None:
    """Of tasks that were claimed together, one whose end is interrupted leaves the others claimed."""
    queue = shoal.TaskQueue(db)
    ids = queue.put_many(RUN, "q", range(3))
    first, second, third = queue.claim_many(RUN, "q", 3)
    for task in (first, second):
        with pytest.raises(Alarm), task:
            interrupt(requests, "complete_task")
    assert [queue.result(RUN, task_id, timeout=30) for task_id in ids[:2]] == [None] * 2
    third.complete("as usual")
    assert queue.result(RUN, ids[2]) == "as usual"
    wait_for(lambda: _holds_nothing(db), "the claims to be forgotten")
    queue.put(RUN, "q", 4)
    with _claimed(db) as fourth:
        assert fourth.payload == 4


@pytest.mark.long
def test_tasks_that_are_claimed_in_several_commits(
    db: shoal.Database, other: shoal.Database, interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a later one is cut off, nobody has got the tasks of those before: they are ready, and it was no attempt."""
    queue = shoal.TaskQueue(db)
    queue.put_many(RUN, "q", range(3))
    monkeypatch.setattr(task_queue, "MOST_CLAIMED", 2)
    claim_tasks = requests.claim_tasks

    def first_claim(*arguments: Any) -> Any:
        interrupt(requests, "claim_tasks")
        return claim_tasks(*arguments)

    monkeypatch.setattr(requests, "claim_tasks", first_claim)
    with pytest.raises(Alarm):
        queue.claim_many(RUN, "q", 3)
    wait_for(lambda: queue.stats(RUN, "q").ready == 3, "the tasks to be ready")
    assert [task.attempt for task in shoal.TaskQueue(other).claim_many(RUN, "q", 3)] == [1, 1, 1]
    wait_for(lambda: _holds_nothing(db), "all to be forgotten")


@pytest.mark.long
def test_a_reservation_that_is_made(db: shoal.Database, interrupt: Interrupt) -> None:
    """It is refunded."""
    budget = shoal.Budget(db)
    budget.create(RUN, "tokens", 10)
    interrupt(budgets, "Reservation")
    with pytest.raises(Alarm):
        budget.reserve(RUN, "tokens", 10)
    with budget.reserve(RUN, "tokens", 10, wait=30):
        pass


@pytest.mark.long
@pytest.mark.parametrize(("owner", "step"), [(holds.Hold, "is_own"), (holds.Hold, "settle"), (Holding, "forget")])
def test_the_end_of_a_block_with_a_reservation(
    db: shoal.Database, interrupt: Interrupt, owner: type, step: str
) -> None:
    """It is settled, once."""
    budget = shoal.Budget(db)
    budget.create(RUN, "tokens", 100)
    with pytest.raises(Alarm), budget.reserve(RUN, "tokens", 10):
        interrupt(owner, step)
    wait_for(lambda: _holds_nothing(db), "the reservation to be settled")
    found = budget.read(RUN, "tokens")
    assert (found.used, found.reserved) == (10, 0)


@pytest.mark.long
def test_a_failed_block_with_a_reservation(db: shoal.Database, interrupt: Interrupt) -> None:
    """It is refunded."""
    budget = shoal.Budget(db)
    budget.create(RUN, "tokens", 100)
    with pytest.raises(Alarm), budget.reserve(RUN, "tokens", 10):
        _fail(interrupt, holds.Hold, "refund")
    wait_for(lambda: _holds_nothing(db), "the reservation to be refunded")
    assert budget.read(RUN, "tokens").available == 100


@pytest.mark.long
def test_the_database_is_closed_next(store: Path, other: shoal.Database, interrupt: Interrupt) -> None:
    """It is usual that the exception closes it: what was cut off is done before."""
    budget = shoal.Budget(other)
    budget.create(RUN, "tokens", 100)
    task_id = shoal.TaskQueue(other).put(RUN, "q", 1)
    with pytest.raises(Alarm), shoal.open(store) as own, shoal.Budget(own).reserve(RUN, "tokens", 10):
        interrupt(holds.Hold, "settle")
    assert budget.read(RUN, "tokens").used == 10
    with pytest.raises(Alarm), shoal.open(store) as own, _claimed(own):
        interrupt(requests, "complete_task")
    assert shoal.TaskQueue(other).result(RUN, task_id, timeout=0) is None


@pytest.mark.long
def test_a_release_that_is_interrupted_at_its_end(db: shoal.Database, interrupt: Interrupt) -> None:
    """Nothing is left to be renewed."""
    lease = db.lease(RUN, "job")
    interrupt(Holding, "_drop")
    with pytest.raises(Alarm):
        lease.release()
    wait_for(lambda: _holds_nothing(db), "the lease to be forgotten")


def _fail(interrupt: Interrupt, owner: Any, name: str) -> None:
    interrupt(owner, name)
    raise ValueError("of the block")


def _claimed(db: shoal.Database) -> shoal.Task:
    task = shoal.TaskQueue(db).claim(RUN, "q")
    assert task is not None
    return task
