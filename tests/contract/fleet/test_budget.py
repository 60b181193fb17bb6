"""Budgets over each engine: what is given, in which order, what comes back, and what is never passed."""

from __future__ import annotations

import threading
import time

import pytest

import shoal
from shoal.primitives.rules.budget_rules import decode_record, encode_record
from tests.contract.fleet.conftest import later
from tests.support.present import present


def test_what_is_reserved_settled_and_refunded(budget: shoal.Budget, run: str) -> None:
    """Reserved counts until it is settled; what was not used of it is available again."""
    budget.create(run, "b", 100)
    assert budget.read(run, "b") == shoal.BudgetState(limit=100, used=0, reserved=0, available=100)
    first, second = budget.reserve(run, "b", 60), budget.reserve(run, "b", 40)
    assert budget.read(run, "b") == shoal.BudgetState(100, 0, 100, 0)
    assert (first.name, first.amount) == ("b", 60)
    with pytest.raises(shoal.BudgetExceededError, match="5 was requested of budget 'b', and 0 is available") as caught:
        budget.reserve(run, "b", 5)
    assert (caught.value.name, caught.value.requested, caught.value.available) == ("b", 5, 0)
    first.settle(25)
    assert budget.read(run, "b") == shoal.BudgetState(100, 25, 40, 35)
    second.settle(0)
    assert budget.read(run, "b") == shoal.BudgetState(100, 25, 0, 75)
    budget.reserve(run, "b", 75).settle(75)
    assert budget.read(run, "b") == shoal.BudgetState(100, 100, 0, 0)


def test_as_a_context_manager(budget: shoal.Budget, run: str) -> None:
    """It settles in full at the end, refunds on an exception, and what was said inside is final."""
    budget.create(run, "b", 100)
    with budget.reserve(run, "b", 10):
        pass
    assert budget.read(run, "b").used == 10
    with pytest.raises(ZeroDivisionError), budget.reserve(run, "b", 10):
        raise ZeroDivisionError
    assert budget.read(run, "b") == shoal.BudgetState(100, 10, 0, 90)
    with budget.reserve(run, "b", 10) as reservation:
        reservation.settle(3)
    with pytest.raises(ZeroDivisionError), budget.reserve(run, "b", 10) as reservation:  # noqa: PT012
        reservation.settle(3)
        raise ZeroDivisionError
    assert budget.read(run, "b") == shoal.BudgetState(100, 16, 0, 84)
    with pytest.raises(shoal.InvalidOperationError, match="settled already"):
        reservation.settle(3)


def test_more_than_was_reserved(budget: shoal.Budget, run: str) -> None:
    """It happened, so it counts; nothing is available until that is made up for."""
    budget.create(run, "b", 100)
    budget.reserve(run, "b", 10).settle(130)
    assert budget.read(run, "b") == shoal.BudgetState(100, 130, 0, 0)
    with pytest.raises(shoal.BudgetExceededError) as caught:
        budget.reserve(run, "b", 1)
    assert caught.value.available == 0
    budget.adjust(run, "b", 135)
    assert budget.read(run, "b") == shoal.BudgetState(135, 130, 0, 5)


def test_a_block_after_the_end(budget: shoal.Budget, run: str) -> None:
    """A second ``with`` does not begin: what its block uses would count nowhere."""
    budget.create(run, "b", 10)
    with budget.reserve(run, "b", 4) as reservation:
        pass
    with pytest.raises(shoal.InvalidOperationError, match="was settled already; reserve anew"), reservation:
        pytest.fail("nothing was reserved")
    assert budget.read(run, "b") == shoal.BudgetState(10, 4, 0, 6)


def test_nothing_can_always_be_reserved(budget: shoal.Budget, run: str) -> None:
    """An amount of 0 is not more than is available, also while more is used than the limit."""
    budget.create(run, "b", 10)
    budget.reserve(run, "b", 5).settle(20)
    assert budget.read(run, "b").available == 0
    with budget.reserve(run, "b", 0) as reservation:
        assert reservation.amount == 0
    assert budget.read(run, "b") == shoal.BudgetState(10, 20, 0, 0)
    with pytest.raises(shoal.BudgetExceededError, match="1 was requested of budget 'b', and 0 is available"):
        budget.reserve(run, "b", 1)


def test_adjust(budget: shoal.Budget, run: str) -> None:
    """Below what is used and reserved it leaves nothing available, and takes nothing from anybody."""
    budget.create(run, "b", 100)
    reservation = budget.reserve(run, "b", 50)
    budget.reserve(run, "b", 30).settle(30)
    budget.adjust(run, "b", 40)
    assert budget.read(run, "b") == shoal.BudgetState(40, 30, 50, 0)
    reservation.settle(5)
    assert budget.read(run, "b") == shoal.BudgetState(40, 35, 0, 5)
    with pytest.raises(shoal.NotFoundError):
        budget.adjust(run, "other", 1)


def test_amounts_are_exact(budget: shoal.Budget, run: str) -> None:
    """Ten tenths are one, large numbers lose nothing, and whole ones are ints."""
    budget.create(run, "b", 1)
    tenths = [budget.reserve(run, "b", 0.1) for _ in range(10)]
    assert budget.read(run, "b") == shoal.BudgetState(1, 0, 1, 0)
    for tenth in tenths:
        tenth.settle(0.1)
    assert budget.read(run, "b") == shoal.BudgetState(1, 1, 0, 0)
    assert isinstance(budget.read(run, "b").used, int)
    budget.create(run, "dollars", 0.3)
    for _ in range(3):
        budget.reserve(run, "dollars", 0.1).settle(0.1)
    assert budget.read(run, "dollars").available == 0
    budget.create(run, "large", 2**63)
    budget.reserve(run, "large", 2**63 - 1).settle(2**63 - 2)
    assert budget.read(run, "large") == shoal.BudgetState(2**63, 2**63 - 2, 0, 2)


@pytest.mark.long
def test_those_that_wait_are_served_in_order(budget: shoal.Budget, run: str) -> None:
    """A small request does not overtake a large one; each change of the budget serves those that have enough."""
    budget.create(run, "b", 10)
    first = budget.reserve(run, "b", 10)
    order: list[int] = []

    def take(amount: int) -> None:
        with budget.reserve(run, "b", amount, wait=None):
            order.append(amount)

    threads = [later(take, amount) for amount in (9, 1, 2, 3)]
    assert order == []
    budget.adjust(run, "b", 18)
    time.sleep(0.05)
    assert order == []
    budget.adjust(run, "b", 19)
    threads[0].join()
    first.settle(5)
    for thread in threads[1:]:
        thread.join(0.3)
    assert (order[0], sorted(order[1:])) == (9, [1, 2])  # the two at the same time: 5 were available
    budget.adjust(run, "b", 20)
    threads[3].join()
    assert order[3] == 3


@pytest.mark.long
def test_waiting_is_bounded(budget: shoal.Budget, run: str) -> None:
    """It ends after ``wait`` seconds, whatever the reason, and leaves the line to the others."""
    budget.create(run, "b", 10, refill_per_s=0.001)
    budget.reserve(run, "b", 8).settle(8)
    for amount in (5, 50):
        begin_s = time.monotonic()
        with pytest.raises(shoal.BudgetExceededError):
            budget.reserve(run, "b", amount, wait=0.15)
        assert 0.15 <= time.monotonic() - begin_s < 10
    budget.reserve(run, "b", 1).settle(0)


def test_more_than_the_limit_waits_for_another_limit(budget: shoal.Budget, run: str) -> None:
    """And keeps nobody else waiting, whether it was so from the start or became so."""
    budget.create(run, "b", 10)
    got: list[float] = []

    def take(amount: int) -> None:
        with budget.reserve(run, "b", amount, wait=None) as reservation:
            got.append(amount)
            reservation.settle(0)

    threads = [later(take, 20)]
    held = budget.reserve(run, "b", 10)
    threads += [later(take, 8), later(take, 4)]
    budget.adjust(run, "b", 5)
    held.settle(0)
    threads[2].join()
    assert got == [4]
    budget.adjust(run, "b", 20)
    for thread in threads:
        thread.join()
    assert sorted(got) == [4, 8, 20]


@pytest.mark.long
def test_refill(budget: shoal.Budget, run: str) -> None:
    """What is used comes back at the rate, up to the limit; what is reserved does not."""
    budget.create(run, "b", 10, refill_per_s=20)
    reservation = budget.reserve(run, "b", 4)
    budget.reserve(run, "b", 6).settle(6)
    begin_s = time.monotonic()
    with budget.reserve(run, "b", 4, wait=None):
        took_s = time.monotonic() - begin_s
    assert 0.15 < took_s < 10
    time.sleep(0.3)
    state = budget.read(run, "b")
    assert (state.reserved, state.used, state.available) == (4, 0, 6)
    reservation.settle(4)


def test_the_clock_is_set_back(budget: shoal.Budget, run: str) -> None:
    """What is used comes back also if it was used by a clock that is an hour ahead; no one waits for that hour."""
    budget.create(run, "b", 10, refill_per_s=20)
    budget.reserve(run, "b", 10).settle(10)
    reader = budget._views[run]
    key = reader.at("b").key

    def advance() -> None:
        record = decode_record(present(reader.engine.find(key)).value)
        reader.engine.put(key, encode_record(record._replace(refilled_at=record.refilled_at + 3_600_000)))

    advance()
    with pytest.raises(shoal.BudgetExceededError):
        budget.reserve(run, "b", 10)  # nothing has come back yet, but it does from here on
    with budget.reserve(run, "b", 10, wait=60.0):
        advance()
        with pytest.raises(shoal.BudgetExceededError):
            budget.reserve(run, "b", 1)
        assert budget.read(run, "b").reserved == 10
    advance()
    budget.reserve(run, "b", 10, wait=60.0).settle(10)
    assert budget.read(run, "b").reserved == 0


@pytest.mark.long
def test_the_rate(budget: shoal.Budget, run: str) -> None:
    """Whoever asks for more than the limit gets it as it comes back, and no earlier."""
    budget.create(run, "b", 200, refill_per_s=400)
    begin_s = time.monotonic()

    def spend() -> None:
        for _ in range(20):
            with budget.reserve(run, "b", 10, wait=None):
                pass

    threads = [threading.Thread(target=spend) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (200 + 400 * (time.monotonic() - begin_s)) * 1.01 >= 600


def test_in_a_transaction(budget: shoal.Budget, any_db: shoal.Database, run: str) -> None:
    """Effect and settlement are one commit: both or none. It does not conflict with what others reserve."""
    kv = shoal.KVStore(any_db)
    budget.create(run, "b", 100)
    with budget.reserve(run, "b", 40) as reservation:
        with pytest.raises(ZeroDivisionError), any_db.transaction(run) as txn:  # noqa: PT012
            txn.kv.put("k", 1)
            txn.budget.settle(reservation, 30)
            raise ZeroDivisionError
        assert (budget.read(run, "b"), kv.exists(run, "k")) == (shoal.BudgetState(100, 0, 40, 60), False)
        with any_db.transaction(f"{run}-other") as txn:  # a reservation of any run
            txn.on(run).kv.put("k", 2)
            txn.budget.settle(reservation, 30)
            budget.reserve(run, "b", 5).settle(5)
    assert (budget.read(run, "b"), kv.get(run, "k")) == (shoal.BudgetState(100, 35, 0, 65), 2)
    with pytest.raises(shoal.InvalidOperationError), any_db.transaction(run) as txn:
        txn.budget.settle(reservation, 30)
    with budget.reserve(run, "b", 5) as twice:
        with pytest.raises(shoal.InvalidOperationError, match="already"), any_db.transaction(run) as txn:  # noqa: PT012
            txn.budget.settle(twice, 3)
            txn.budget.settle(twice, 2)
        twice.settle(0)
    with any_db.transaction(run) as txn, any_db.transaction(run) as other:
        assert txn.budget.read("b") == other.budget.read("b") == budget.read(run, "b")
        budget.reserve(run, "b", 5).settle(5)
        assert txn.budget.read("b").used == 35
    with pytest.raises(shoal.ConflictError, match="'budget b' was read"), any_db.transaction(run) as txn:  # noqa: PT012
        txn.kv.put("k", txn.budget.read("b").used)
        budget.adjust(run, "b", 90)


def test_a_transaction_that_runs_again(budget: shoal.Budget, any_db: shoal.Database, run: str) -> None:
    """It settles once; and what it was to settle, and did not, is settled at the end of the block."""
    kv = shoal.KVStore(any_db)
    budget.create(run, "b", 100)

    def spend(txn: shoal.Transaction, amount: int) -> None:
        txn.budget.settle(reservation, amount)
        seen = txn.kv.get("k", 0)
        if seen < 2:
            kv.put(run, "k", seen + 1)
        txn.kv.put("done", seen)

    with budget.reserve(run, "b", 40) as reservation:
        any_db.transact(run, lambda txn: spend(txn, 30))
    assert (kv.get(run, "done"), budget.read(run, "b")) == (2, shoal.BudgetState(100, 30, 0, 70))
    kv.put(run, "k", 0)
    with budget.reserve(run, "b", 40) as reservation, pytest.raises(shoal.ConflictError):
        any_db.transact(run, lambda txn: spend(txn, 20), retries=0)
    assert budget.read(run, "b") == shoal.BudgetState(100, 70, 0, 30)


def test_a_block_inside_a_transaction(budget: shoal.Budget, any_db: shoal.Database, run: str) -> None:
    """What a transaction says that is open still is final: the end of the block settles nothing beside it."""
    budget.create(run, "b", 100)
    with any_db.transaction(run) as txn:
        with budget.reserve(run, "b", 40) as reservation:
            txn.budget.settle(reservation, 25)
        assert budget.read(run, "b") == shoal.BudgetState(100, 0, 40, 60)
    assert budget.read(run, "b") == shoal.BudgetState(100, 25, 0, 75)
    with (  # noqa: PT012
        pytest.raises(ZeroDivisionError),
        any_db.transaction(run) as txn,
        budget.reserve(run, "b", 40) as reservation,
    ):
        txn.budget.settle(reservation, 30)
        raise ZeroDivisionError
    assert budget.read(run, "b") == shoal.BudgetState(100, 25, 0, 75)
