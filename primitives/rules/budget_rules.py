"""The records of a budget, and the rules by which it is reserved from, settled and refunded.

    key          the run's prefix, the tag BUDGET, then
                 0 │ name -> the budget: msgpack [limit, used, reserved, refill, refilled at in ms]
                 1 │ length of the name (2) │ name │ ticket (8) -> a reservation: msgpack [amount, holder]
    amount       an integer in units of 10**-12, so that sums are exact; text if it has more than 64 bits
    refill       per second, an integer in units of 10**-9: times milliseconds it is an amount

Invariants: ``reserved`` is the sum of all reservations of the budget. Each has an entry in the index of holders
(``shm.holder_index``), written in the same commit, and is gone with it: settled, or refunded when its holder has ended.
A reservation is given only if used plus reserved is not above the limit with it. ``used`` is as of ``refilled at``:
what was used before comes back at the rate ``refill``, down to 0. A wall clock that is set back refills nothing and
takes nothing.

``ticket`` is a random number of the caller, by which a request that is sent again, or undone, is recognised.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from shoal.primitives.rules.layouts.parts import parts_end
from shoal.shm import codec, holder_index
from shoal.shm.errors import AlreadyExistsError, CorruptionError, NotFoundError
from shoal.shm.fleet_errors import BudgetExceededError
from shoal.shm.limits import MAX_INTEGER, MIN_INTEGER
from shoal.shm.operation import Decision, Read, Write

UNITS = 10**12  # of amounts, in 1
REFILL_UNITS = 10**9  # of refills, in 1 per second
BUDGET, RESERVATION = b"\0", b"\1"
_TICKET_BYTES = 8
_LENGTH_BYTES = 2

Stored = int | str


class BudgetRecord(NamedTuple):
    """A budget as it is stored; amounts in units."""

    limit: int
    used: int
    reserved: int
    refill: int
    refilled_at: int

    @property
    def available(self) -> int:
        """What can be reserved; less than 0 if more is used than the limit."""
        return self.limit - self.used - self.reserved

    def at(self, now_ms: int) -> BudgetRecord:
        """The same at a later moment."""
        back = self.refill * max(0, now_ms - self.refilled_at)
        return self._replace(used=max(0, self.used - back), refilled_at=now_ms)


def reservation_key(budget_key: bytes, ticket: int) -> bytes:
    """The key of the reservation ``ticket`` of a budget."""
    start = parts_end(budget_key) + 1
    name = budget_key[start + 1 :]
    length = len(name).to_bytes(_LENGTH_BYTES, "big")
    return budget_key[:start] + RESERVATION + length + name + ticket.to_bytes(_TICKET_BYTES, "big")


def to_number(units: int) -> float:
    """An amount as users see it: an int if it is whole."""
    whole, rest = divmod(units, UNITS)
    return units / UNITS if rest else whole


def to_stored(number: int) -> Stored:
    """A number in records and requests."""
    return number if MIN_INTEGER <= number <= MAX_INTEGER else str(number)


def encode_record(record: BudgetRecord) -> bytes:
    """The stored form of a budget."""
    return codec.pack([to_stored(number) for number in record])


def decode_record(raw: bytes) -> BudgetRecord:
    """The budget in ``raw``. ``CorruptionError`` for other bytes."""
    try:
        numbers = [_from_stored(number) for number in codec.unpackb(raw)]
        if min(numbers) >= 0:
            return BudgetRecord(*numbers)
    except (ValueError, TypeError):  # no msgpack, no numbers, or not as many
        pass
    raise CorruptionError("the record of a budget", 0, "five numbers", f"{len(raw)} bytes of something else")


def create(read: Read, now_ms: int, key: bytes, name: str, limit: Stored, refill: Stored) -> Decision:
    """Create a budget that is not there."""
    if read(key) is not None:
        raise AlreadyExistsError(f"budget {name!r} exists; use it, adjust its limit, or choose another name")
    return Decision([_write(key, BudgetRecord(_amount(limit), 0, 0, _amount(refill), now_ms))], None)


def adjust(read: Read, now_ms: int, key: bytes, name: str, limit: Stored) -> Decision:
    """Give a budget another limit."""
    return Decision([_write(key, _budget(read, now_ms, key, name)._replace(limit=_amount(limit)))], None)


def reserve(
    read: Read, now_ms: int, key: bytes, name: str, amount: Stored, holder: int, ttl_ms: int, ticket: int
) -> Decision:
    """Reserve an amount, if so much is available; the result is whether it is reserved.

    If it is not, nothing has come back since the clock was set back. What is written then lets it come back from now
    on, and not first when the clock has caught up: ask again.
    """
    if any(type(part) is not int or part < 1 for part in (holder, ttl_ms, ticket)):
        raise ValueError("holder, ttl or ticket of a reservation is no number from 1 on")
    budget, wanted, own_key = _budget(read, now_ms, key, name), _amount(amount), reservation_key(key, ticket)
    if read(own_key) is not None:  # sent again
        return Decision([], True)
    if wanted > max(0, budget.available):  # 0 is always available: to those who read it, too
        if budget.refill and _stored_budget(read, key, name).refilled_at > now_ms:
            return Decision([_write(key, budget)], False)
        raise _exceeded(name, budget, wanted)
    reservation = Write(own_key, codec.pack([to_stored(wanted), holder]), 0)
    writes = [_write(key, budget._replace(reserved=budget.reserved + wanted)), reservation]
    return Decision([*writes, holder_index.entry(holder, own_key, ttl_ms)], True)


def settle(read: Read, now_ms: int, key: bytes, name: str, ticket: int, used: Stored, counts_if_gone: bool) -> Decision:
    """End a reservation of which ``used`` was used; 0 refunds it. The result is whether it was there.

    If it is gone, because its holder did not answer for too long, what was used counts if ``counts_if_gone``.
    """
    own_key, spent = reservation_key(key, ticket), _amount(used)
    found = read(own_key)
    if found is None and not counts_if_gone:
        return Decision([], False)
    budget = _budget(read, now_ms, key, name)
    budget = budget._replace(used=budget.used + spent)
    if found is None:
        return Decision([_write(key, budget)], False)
    amount, holder = _reservation(found.value)
    entry = holder_index.no_entry(holder, own_key)
    writes = [_write(key, _without(budget, amount)), Write(own_key, None, 0)]
    return Decision(writes + ([entry] if read(entry.key) is not None else []), True)


def ended(read: Read, key: bytes, holder: int, now_ms: int) -> list[Write]:
    """The holder of the reservation ``key`` has ended: it is refunded. See ``OperationTable.ended``."""
    found = read(key)
    if found is None:
        return []
    amount, _ = _reservation(found.value)
    start = parts_end(key) + 1
    budget_key = key[:start] + BUDGET + key[start + 1 + _LENGTH_BYTES : -_TICKET_BYTES]
    budget = read(budget_key)
    refunded = [] if budget is None else [_write(budget_key, _without(decode_record(budget.value).at(now_ms), amount))]
    return [*refunded, Write(key, None, 0)]


def _exceeded(name: str, budget: BudgetRecord, wanted: int) -> BudgetExceededError:
    error = BudgetExceededError(name, to_number(wanted), to_number(max(0, budget.available)))
    missing = wanted - budget.available
    if wanted > budget.limit:
        error.passes = False  # only another limit helps: it must not keep those behind it waiting
    elif budget.refill and missing <= budget.used:
        error.passes_in_ms = -(-missing // budget.refill)
    return error


def _budget(read: Read, now_ms: int, key: bytes, name: str) -> BudgetRecord:
    return _stored_budget(read, key, name).at(now_ms)


def _stored_budget(read: Read, key: bytes, name: str) -> BudgetRecord:
    found = read(key)
    if found is None:
        raise NotFoundError(f"budget {name!r} does not exist; create it")
    return decode_record(found.value)


def _reservation(raw: bytes) -> tuple[int, int]:
    """Amount and holder."""
    try:
        amount, holder = codec.unpackb(raw)
        if type(holder) is int and holder > 0:
            return _amount(amount), holder
    except (ValueError, TypeError):
        pass
    raise CorruptionError("the record of a reservation", 0, "two numbers", f"{len(raw)} bytes of something else")


def _without(budget: BudgetRecord, amount: int) -> BudgetRecord:
    return budget._replace(reserved=max(0, budget.reserved - amount))


def _write(key: bytes, record: BudgetRecord) -> Write:
    return Write(key, encode_record(record), 0)


def _amount(stored: Any) -> int:
    number = _from_stored(stored)
    if number < 0:
        raise ValueError("an amount of a budget is less than 0")
    return number


def _from_stored(stored: Any) -> int:
    if type(stored) not in (int, str):
        raise TypeError(f"a number of a budget has type {type(stored).__name__}")
    return int(stored)
