"""Budget: a limit that processes reserve from before they spend, and settle afterwards.

``rules.budget_rules`` has the records and the rules; the port ``Holding`` keeps what is reserved, and waits in line.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import NoReturn

from shoal.primitives.facades.facade import Facade
from shoal.primitives.keys import only
from shoal.primitives.rules import budget_requests
from shoal.primitives.rules.budget_rules import to_number
from shoal.primitives.views.fleet.budgets import (
    BudgetReader,
    BudgetState,
    Hold,
    check_open,
    check_unsettled,
    refill_of,
    units_of,
)
from shoal.shm.arguments import check_wait, text_of
from shoal.shm.errors import ShoalError
from shoal.shm.fleet_errors import BudgetExceededError
from shoal.shm.host.randomness import random_id

TTL_MS = 30_000


class Reservation:
    """What this process has reserved of a budget: what ``Budget.reserve`` returns.

    - ``name`` (str): the name of the budget.
    - ``amount`` (int or float): how much is reserved.

    A context manager: at the end of the block it settles the whole amount, and refunds it on an exception. What was
    settled inside with ``settle`` or in a transaction (``txn.budget``) is final. To enter one that was settled already
    is ``InvalidOperationError``.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     budget = shoal.Budget(db)
    ...     budget.create("run-1", "tokens", 1_000)
    ...     with budget.reserve("run-1", "tokens", 400) as reservation:
    ...         reservation.settle(250)
    ...     budget.read("run-1", "tokens").available
    750
    """

    __slots__ = ("_hold", "amount", "name")

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self.name = text_of(hold.budget.name)
        self.amount = to_number(hold.units)

    def __enter__(self) -> Reservation:
        check_unsettled(self._hold)  # what the block uses would count nowhere
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        hold = self._hold
        try:
            if hold.ended or not hold.is_own:
                return
            if error is not None:
                hold.refund()
            elif not hold.is_said():
                hold.settle(hold.units)
        except ShoalError:  # then it is settled as soon as a coordinator answers
            raise
        except BaseException:  # a signal handler's, perhaps before anything was done
            hold.settle_in_doubt(0 if error is not None or hold.is_said() else hold.units)
            raise

    def __repr__(self) -> str:
        return f"<shoal.Reservation {self.name!r} amount={self.amount}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a reservation belongs to the process that made it and cannot be copied or pickled; reserve there"
        )

    def settle(self, used: float) -> None:
        """End it: ``used`` was used, and the rest is available again. 0 refunds all of it.

        ``used`` may be more than was reserved: it happened, so it counts. It counts also if the reservation was
        refunded before, because this process did not answer for 30 seconds.

        Raises ``InvalidOperationError`` if it was settled already, or in a forked process, ``NotFoundError`` if the
        budget was deleted, and ``TypeError`` or ``ValueError`` for a bad argument.
        """
        units = units_of("used", used)
        check_open(self._hold)
        self._hold.settle(units)


class Budget(Facade[BudgetReader]):
    """Named budgets of a run: however many processes reserve from one, they never pass its limit together.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     budget = shoal.Budget(db)
    ...     budget.create("run-1", "tokens", 1_000)
    ...     with budget.reserve("run-1", "tokens", 400) as reservation:
    ...         held = budget.read("run-1", "tokens")
    ...         reservation.settle(250)
    ...     held.reserved, budget.read("run-1", "tokens").used
    (400, 250)

    ``db``: what ``shoal.open`` returns. ``namespace``: whose runs these are.

    With ``refill_per_s`` a budget is a rate limit. A name is a str of 1 to 1,024 bytes of UTF-8, any character. Amounts
    are an int or a float, from 0 to 2**63, and are kept to 12 decimals. ``TypeError``, ``ValueError`` and
    ``LimitExceededError`` are raised before anything is sent.

    Any call may also raise ``InvalidOperationError`` (the database is closed, or a write to one that only reads),
    ``CoordinatorLostError``, ``StoreMovedError`` and ``CorruptionError`` (a record is none); a write
    ``StoreFullError``; ``SnapshotExpiredError`` does not occur.
    """

    __slots__ = ()
    _view = BudgetReader

    def create(self, run_id: str, name: str, limit: float, *, refill_per_s: float = 0.0) -> None:
        """Create a budget of which nothing is used.

        With ``refill_per_s`` (int or float), what is used comes back at that rate, until all of ``limit`` is available:
        so much may be spent at once, and ``refill_per_s`` in the long run.

        Raises ``AlreadyExistsError`` if it is there, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a
        bad argument.
        """
        reader = self._views[run_id]
        budget = reader.at(name)
        budget_requests.create_budget(
            reader.engine, budget.key, name, units_of("limit", limit), refill_of(refill_per_s)
        )

    def reserve(self, run_id: str, name: str, amount: float, *, wait: float | None = 0.0) -> Reservation:
        """Reserve ``amount`` of a budget until it is settled. If this process dies, it is refunded at once.

        While less is available, this waits for ``wait`` seconds (None: for ever): until others settle or are refunded,
        the limit is adjusted, or enough has come back by the refill. Those that wait are served in the order of
        arrival; only one that asks for more than the limit lets the others pass. Then ``BudgetExceededError`` is
        raised. If the process stops answering, it is refunded 30 seconds later.

        Raises ``BudgetExceededError``, ``NotFoundError`` if the budget does not exist, and ``TypeError``,
        ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        reader = self._views[run_id]
        budget, units = reader.at(name), units_of("amount", amount)
        give_up_s = time.monotonic() + check_wait("wait", wait)
        store = self._db._store

        def fits_the_limit() -> bool | None:
            record = reader.record(budget)
            return None if record is not None and record.limit < units else True

        while True:
            ticket = random_id()
            try:
                if not budget_requests.reserve(store.holding, budget.key, name, ticket, units, TTL_MS, give_up_s):
                    continue
            except BudgetExceededError:
                if time.monotonic() >= give_up_s:
                    raise
                store.auto_commit.wait_for(fits_the_limit, [only(budget.key)], give_up_s)
                continue
            try:
                return Reservation(Hold(store, budget, ticket, units))
            except BaseException:  # a signal handler's: nobody has got the reservation
                budget_requests.settle_in_doubt(store.holding, budget.key, name, ticket, 0)
                raise

    def read(self, run_id: str, name: str) -> BudgetState:
        """The budget as it is now. What a process has reserved that has ended by then is refunded already.

        Raises ``NotFoundError`` if it does not exist, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a
        bad run id or name.
        """
        state = self._views[run_id].state(name)
        if not state.reserved:
            return state
        self._db._store.holding.see_ends()
        return self._views[run_id].state(name)

    def adjust(self, run_id: str, name: str, limit: float) -> None:
        """Give the budget another limit. Below what is used and reserved it leaves nothing available.

        Raises ``NotFoundError`` if it does not exist, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a
        bad argument.
        """
        reader = self._views[run_id]
        budget = reader.at(name)
        budget_requests.adjust_budget(reader.engine, budget.key, name, units_of("limit", limit))
