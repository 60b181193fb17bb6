"""Budgets in a transaction (``txn.budget``), and how budgets are read. ``rules.budget_rules`` has the rules."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import Any, NamedTuple

from shoal.primitives.engine import Engine, EngineTransaction, Transactions
from shoal.primitives.keys import Namespace, Tag, encode_text
from shoal.primitives.rules import budget_requests, requests
from shoal.primitives.rules.budget_rules import BUDGET, REFILL_UNITS, UNITS, BudgetRecord, decode_record, to_number
from shoal.primitives.views.view import Held, View
from shoal.shm.arguments import check_number
from shoal.shm.clock import now_ms
from shoal.shm.errors import InvalidOperationError, NotFoundError, shown

_TAG = bytes((Tag.BUDGET,))
_LARGEST = 2**63


@dataclass(frozen=True)
class BudgetState:
    """A budget as it is now. Each is an int if it is whole, else a float.

    - ``limit``: what used and reserved together never pass, but by what is settled above its reservation.
    - ``used``: what was settled, and has not come back by a refill.
    - ``reserved``: what is reserved and not settled.
    - ``available``: what can be reserved; 0 if more is used than the limit.

    >>> BudgetState(limit=100, used=30, reserved=20, available=50).available
    50
    """

    limit: float
    used: float
    reserved: float
    available: float


class BudgetAt(NamedTuple):
    """The name of a budget and its key in the store."""

    name: str
    key: bytes


class Hold(Held):
    """What this process has reserved of a budget, until it is settled. ``units``: how much.

    With a transaction that was to settle it (``said_in``), if the reservation is gone, that may be why.
    """

    __slots__ = ("_holder", "_store", "_ticket", "budget", "ended", "units")

    def __init__(self, store: Transactions, budget: BudgetAt, ticket: int, units: int) -> None:
        super().__init__()
        self._store = store
        self._holder = store.holding.holder
        self._ticket = ticket
        self.budget = budget
        self.units = units
        self.ended = False  # it is settled, or will be as soon as a coordinator answers

    @property
    def is_own(self) -> bool:
        """Whether this process has it: a forked child does not hold what its parent holds."""
        return self._store.holding.holder == self._holder

    def settle(self, units: int) -> None:
        """Settle it now. If it was refunded meanwhile, what was used counts all the same."""
        name, key = self.budget
        self.ended = True
        try:
            budget_requests.settle(self._store.auto_commit, key, name, self._ticket, units, self.said_in is None)
            self._store.holding.forget(self._ticket)
        except BaseException:  # perhaps it is settled, and perhaps it is not
            self.settle_in_doubt(units)
            raise

    def refund(self) -> None:
        """Refund it, if it is there still."""
        name, key = self.budget
        self.ended = True
        budget_requests.settle_surely(self._store.holding, key, name, self._ticket, 0)

    def settle_in_doubt(self, units: int) -> None:
        """A settlement was cut off: it is made soon, if it was not, and this does not wait."""
        name, key = self.budget
        self.ended = True
        budget_requests.settle_in_doubt(self._store.holding, key, name, self._ticket, units)

    def settle_with(self, transaction: EngineTransaction, units: int) -> None:
        """Settle it when the transaction commits."""
        name, key = self.budget
        if self.said_in is not None and self.said_in() is transaction:
            raise InvalidOperationError(
                f"this transaction settles the reservation of budget {name!r} already; do it once"
            )
        counts, self.said_in = self.said_in is None, weakref.ref(transaction)
        budget_requests.settle_later(transaction, key, name, self._ticket, units, counts, self._committed)

    def _committed(self) -> None:
        self.ended = True
        if self.is_own:
            self._store.holding.forget(self._ticket)


class BudgetReader:
    """Reads the budgets of one run."""

    def __init__(self, engine: Engine, namespace: Namespace, run_id: str) -> None:
        self.engine = engine
        self.prefix = namespace._run_prefix(run_id) + _TAG + BUDGET

    def at(self, name: str) -> BudgetAt:
        """A budget by its name. Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad one."""
        return BudgetAt(name, self.prefix + encode_text("name", name))

    def record(self, budget: BudgetAt) -> BudgetRecord | None:
        """Its record, as it was written last; None if there is none."""
        found = self.engine.find(budget.key)
        return None if found is None else decode_record(found.value)

    def state(self, name: str) -> BudgetState:
        """What users see of a budget now. Raises ``NotFoundError`` if it does not exist."""
        record = self.record(self.at(name))
        if record is None:
            raise NotFoundError(f"budget {name!r} does not exist; create it")
        now = record.at(max(record.refilled_at, now_ms()))
        amounts = (now.limit, now.used, now.reserved, max(0, now.available))
        return BudgetState(*map(to_number, amounts))


class BudgetView(View):
    """Budgets in a transaction: ``txn.budget``.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     budget = shoal.Budget(db)
    ...     budget.create("run-1", "tokens", 1_000)
    ...     reservation = budget.reserve("run-1", "tokens", 400)
    ...     with db.transaction("run-1") as txn:
    ...         txn.kv.put("answer", 42)
    ...         txn.budget.settle(reservation, 250)
    ...     budget.read("run-1", "tokens")
    BudgetState(limit=1000, used=250, reserved=0, available=750)

    Any call may also raise ``InvalidOperationError`` (the transaction has ended, or only reads),
    ``SnapshotExpiredError`` (its snapshot was revoked) and ``CorruptionError`` (a record is none). ``Transaction`` says
    what the commit may raise.
    """

    __slots__ = ("_reader",)

    _engine: EngineTransaction

    def __init__(self, engine: EngineTransaction, namespace: Namespace, run_id: str) -> None:
        self._engine = engine
        self._reader = BudgetReader(engine, namespace, run_id)

    def read(self, name: str) -> BudgetState:
        """The budget at the snapshot of the transaction, without what this transaction settles.

        It is validated at commit: a reservation of another process is a conflict. Raises ``NotFoundError`` if it does
        not exist, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad name.
        """
        return self._reader.state(name)

    def settle(self, reservation: Any, used: float) -> None:
        """Have this commit end a ``Reservation`` of this process, of any run, of which ``used`` was used.

        It is decided when the transaction commits, on the newest state, so it never conflicts. The commit raises
        ``NotFoundError`` if the budget was deleted; nothing is written then.

        Raises ``InvalidOperationError`` for a reservation that was settled, also by this transaction, or that another
        process has taken, and ``TypeError`` or ``ValueError`` for a bad argument.
        """
        hold, units = hold_of(reservation), units_of("used", used)
        requests.refuse_if_read_only(self._engine)
        hold.settle_with(self._engine, units)


def hold_of(reservation: object) -> Hold:
    """What a reservation holds. Raises ``TypeError`` for what is none, ``InvalidOperationError`` if it is settled."""
    hold = getattr(reservation, "_hold", None)
    if not isinstance(hold, Hold):
        raise TypeError(f"reservation has type {type(reservation).__name__}; give what Budget.reserve returned")
    check_open(hold)
    return hold


def check_unsettled(hold: Hold) -> None:
    """``InvalidOperationError`` if the reservation is settled."""
    if hold.ended:
        raise InvalidOperationError(f"the reservation of budget {hold.budget.name!r} was settled already; reserve anew")


def check_open(hold: Hold) -> None:
    """``InvalidOperationError`` unless this process has the reservation and it is not settled."""
    check_unsettled(hold)
    if not hold.is_own:
        raise InvalidOperationError(
            f"the reservation of budget {hold.budget.name!r} belongs to the process that made it; reserve in this one"
        )


def units_of(what: str, amount: object) -> int:
    """A user's amount in units. Raises ``TypeError`` or ``ValueError`` for what is none."""
    return _units(what, amount, UNITS)


def refill_of(refill_per_s: object) -> int:
    """A user's refill in its units. Raises ``TypeError`` or ``ValueError`` for what is none."""
    return _units("refill_per_s", refill_per_s, REFILL_UNITS)


def _units(what: str, value: object, units: int) -> int:
    number = check_number(what, value)
    if not 0 <= number <= _LARGEST or math.isnan(number):
        raise ValueError(f"{what} is {shown(number)}; give a number from 0 to 2**63")
    return number * units if isinstance(number, int) else round(number * units)
