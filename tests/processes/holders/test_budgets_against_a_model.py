"""Budgets against a plain model."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import shoal
from tests.support.workers.crash_workers import wait_for

RUN = "run"


class BudgetMachine(RuleBasedStateMachine):
    """One budget against a model: a limit, what was used, and what is reserved by whom."""

    db: shoal.Database
    number = 0

    def __init__(self) -> None:
        super().__init__()
        BudgetMachine.number += 1
        self.name = f"budget {BudgetMachine.number}"
        self.budget = shoal.Budget(self.db)
        self.others: list[shoal.Database] = []
        self.limit, self.used = 50, 0
        self.held: list[tuple[shoal.Reservation, int, shoal.Database]] = []
        self.budget.create(RUN, self.name, 50)

    def teardown(self) -> None:
        """Leave nothing open."""
        for reservation, _, _ in self.held:
            reservation.settle(0)
        for other in self.others:
            other.close()

    def compare(self) -> None:
        reserved = sum(amount for _, amount, _ in self.held)
        state = shoal.BudgetState(self.limit, self.used, reserved, max(0, self.limit - self.used - reserved))
        assert self.budget.read(RUN, self.name) == state

    @rule(amount=st.integers(0, 60), elsewhere=st.booleans())
    def reserve(self, amount: int, elsewhere: bool) -> None:
        available = max(0, self.limit - self.used - sum(amount for _, amount, _ in self.held))
        db = self.db
        if elsewhere:
            self.others = self.others or [shoal.open(self.db.path)]
            db = self.others[0]
        try:
            reservation = shoal.Budget(db).reserve(RUN, self.name, amount)
            assert amount <= available
            self.held.append((reservation, amount, db))
        except shoal.BudgetExceededError as error:
            told = error.requested, error.available
            assert told == (amount, available)
        self.compare()

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 1000), used=st.integers(0, 80), in_transaction=st.booleans())
    def settle(self, which: int, used: int, in_transaction: bool) -> None:
        reservation, _, db = self.held.pop(which % len(self.held))
        if in_transaction:
            with db.transaction(RUN) as txn:
                txn.kv.put("k", used)
                txn.budget.settle(reservation, used)
        else:
            reservation.settle(used)
        self.used += used
        self.compare()

    @rule(limit=st.integers(0, 200))
    def adjust(self, limit: int) -> None:
        self.budget.adjust(RUN, self.name, limit)
        self.limit = limit
        self.compare()

    @precondition(lambda self: self.others)
    @rule()
    def close(self) -> None:
        """Another database is closed, as if its process had died."""
        gone = self.others.pop()
        gone.close()
        self.held = [each for each in self.held if each[2] is not gone]
        reserved = sum(amount for _, amount, _ in self.held)
        wait_for(lambda: self.budget.read(RUN, self.name).reserved == reserved, "the refund")
        self.compare()


@pytest.mark.long
def test_against_a_model(memory_db: shoal.Database) -> None:
    """Whatever is done in whatever order, the budget says what a model of three numbers says."""
    BudgetMachine.db = memory_db
    profile = settings(max_examples=max(10, settings().max_examples // 3), stateful_step_count=25, deadline=None)
    run_state_machine_as_test(BudgetMachine, settings=profile)
