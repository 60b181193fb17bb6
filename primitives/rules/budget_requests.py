"""How each operation on a budget is asked for; ``requests`` has all others."""

from __future__ import annotations

from collections.abc import Callable

from shoal.primitives.engine import Engine, EngineTransaction, Holding, Operation
from shoal.primitives.keys import only
from shoal.primitives.rules import registry
from shoal.primitives.rules.budget_rules import to_stored


def create_budget(engine: Engine, key: bytes, name: str, limit: int, refill: int) -> None:
    """``budget_rules.create``; limit and refill in their units, as all amounts here."""
    engine.perform(registry.BUDGET_CREATE, [key, name, to_stored(limit), to_stored(refill)])


def adjust_budget(engine: Engine, key: bytes, name: str, limit: int) -> None:
    """``budget_rules.adjust``."""
    engine.perform(registry.BUDGET_ADJUST, [key, name, to_stored(limit)])


def reserve(holding: Holding, key: bytes, name: str, ticket: int, amount: int, ttl_ms: int, give_up_s: float) -> bool:
    """``budget_rules.reserve``, in line until ``give_up_s`` (monotonic); if it is not reserved, ask again."""
    is_reserved: bool = holding.acquire(
        ticket,
        (registry.BUDGET_RESERVE, [key, name, to_stored(amount), holding.holder, ttl_ms, ticket]),
        _settling(key, name, ticket, 0, False),
        [only(key)],
        ttl_ms / 1000,
        give_up_s,
    )
    if not is_reserved:
        holding.forget(ticket)
    return is_reserved


def settle(engine: Engine, key: bytes, name: str, ticket: int, used: int, counts_if_gone: bool) -> None:
    """``budget_rules.settle``."""
    engine.perform(*_settling(key, name, ticket, used, counts_if_gone))


def settle_surely(holding: Holding, key: bytes, name: str, ticket: int, used: int) -> None:
    """``budget_rules.settle`` of what is there still: now, or when a coordinator answers again."""
    holding.release(ticket, _settling(key, name, ticket, used, False))


def settle_in_doubt(holding: Holding, key: bytes, name: str, ticket: int, used: int) -> None:
    """The same as soon as it is possible, without waiting for it: it may be settled already."""
    holding.release_later(ticket, _settling(key, name, ticket, used, False))


def settle_later(
    transaction: EngineTransaction,
    key: bytes,
    name: str,
    ticket: int,
    used: int,
    counts_if_gone: bool,
    committed: Callable[[], None],
) -> None:
    """The same, decided when the transaction commits."""
    transaction.defer(*_settling(key, name, ticket, used, counts_if_gone), committed)


def _settling(key: bytes, name: str, ticket: int, used: int, counts_if_gone: bool) -> Operation:
    return registry.BUDGET_SETTLE, [key, name, ticket, to_stored(used), counts_if_gone]
