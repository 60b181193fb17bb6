"""The records of budgets in an export.

    budget      name limit used refill_per_s refilled_at        numbers as texts of decimals, which are exact

What was reserved is not in it: a reservation is of a process, so an import gives it to nobody, which refunds it.
``used`` is as of ``refilled_at`` (ms since the epoch).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from shoal.primitives.engine import Engine
from shoal.primitives.keys import Namespace, after, decode_text, encode_text
from shoal.primitives.rules import requests
from shoal.primitives.rules.budget_rules import REFILL_UNITS, UNITS, BudgetRecord, decode_record, encode_record
from shoal.primitives.views.fleet.budgets import BudgetReader
from shoal.transfer.fields import Fields, RecordKind, check_names, check_whole

_NAMES = ("name", "limit", "used", "refill_per_s", "refilled_at")
_DECIMAL = re.compile(r"(\d{1,40})(?:\.(\d{1,12}))?")
_RECORD_BYTES = 512


class StoredBudget(NamedTuple):
    """A budget with its name."""

    name: str
    record: BudgetRecord


def stored(engine: Engine, namespace: Namespace, run_id: str) -> Iterator[StoredBudget]:
    """The budgets of a run, by name."""
    prefix = BudgetReader(engine, namespace, run_id).prefix
    for key, found in engine.scan(prefix, after(prefix)):
        yield StoredBudget(decode_text(key[len(prefix) :]), decode_record(found.value))


def show(budget: StoredBudget) -> Fields:
    """Its fields."""
    record = budget.record
    texts = {"limit": _text(record.limit, UNITS), "used": _text(record.used, UNITS)}
    refill = _text(record.refill, REFILL_UNITS)
    return {"name": budget.name} | texts | {"refill_per_s": refill, "refilled_at": record.refilled_at}


def make(run_id: str, fields: Fields) -> StoredBudget:
    """The budget with these fields."""
    check_names("budget", fields, _NAMES)
    check_whole("refilled_at", fields["refilled_at"], 0)
    limit, used = (_number(name, fields[name], UNITS) for name in ("limit", "used"))
    refill = _number("refill_per_s", fields["refill_per_s"], REFILL_UNITS)
    return StoredBudget(fields["name"], BudgetRecord(limit, used, 0, refill, fields["refilled_at"]))


def size(prefix: bytes, budget: StoredBudget) -> int:
    """A bound of the bytes it takes in a commit. Checks its name."""
    return _RECORD_BYTES + len(prefix) + len(encode_text("name", budget.name))


def restore(engine: Engine, namespace: Namespace, run_id: str, budget: StoredBudget) -> None:
    """Create it as it was, with nothing reserved; ``AlreadyExistsError`` if there is one of its name."""
    name, record = budget
    key = BudgetReader(engine, namespace, run_id).at(name).key
    exists = f"budget {name!r} exists; restore budgets into a run that has none of their names"
    requests.insert(engine, exists, [], [key, encode_record(record)])


def _text(number: int, units: int) -> str:
    whole, rest = divmod(number, units)
    decimals = str(units + rest)[1:].rstrip("0")
    return f"{whole}.{decimals}" if decimals else str(whole)


def _number(name: str, text: object, units: int) -> int:
    found = _DECIMAL.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{name} is {text!r:.100}, not the text of a number from 0")
    whole, decimals = found[1], found[2] or ""
    number: int = int(whole + decimals) * units
    if number % 10 ** len(decimals):
        raise ValueError(f"{name} is {text!r:.100}; it has more decimals than are stored")
    return number // int(10 ** len(decimals))


KIND = RecordKind(show, make, size, stored, restore, lambda budget: (budget.name, 0))
