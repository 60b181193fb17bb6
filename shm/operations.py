"""Operations decided where they are applied: one rule each, run by the coordinator or inside a transaction.

A facade's single call sends the operation and the coordinator decides it against the newest state, so it never
conflicts. Inside a transaction the same function runs at once on what the transaction sees, and what it read is
validated at commit. The log holds what an operation wrote, never the operation: replay decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from shoal.shm import codec
from shoal.shm.errors import LimitExceededError
from shoal.shm.limits import MAX_INTEGER, MIN_INTEGER
from shoal.shm.reader import Found

Read = Callable[[bytes], "Found | None"]


class Write(NamedTuple):
    """One key's new state: ``value`` None deletes, ``expires_ms`` 0 is forever."""

    key: bytes
    value: bytes | None
    expires_ms: int


class Outcome(NamedTuple):
    """What an operation writes and what its caller is told."""

    writes: list[Write]
    result: Any


def _delete(read: Read, now_ms: int, key: bytes) -> Outcome:
    """Delete a key and say whether it was there."""
    if read(key) is None:
        return Outcome([], False)
    return Outcome([Write(key, None, 0)], True)


def _increment(read: Read, now_ms: int, key: bytes, by: int) -> Outcome:
    """Add to an integer, absent counting as 0; an expiry stays as it is."""
    found = read(key)
    current = 0 if found is None else codec.decode(found.value)
    if type(current) is not int:
        raise TypeError(f"increment found a value of type {type(current).__name__}; it adds to an int or to nothing")
    total = current + by
    if not MIN_INTEGER <= total <= MAX_INTEGER:
        raise LimitExceededError("size of the counter", MAX_INTEGER, total)
    return Outcome([Write(key, codec.encode(total), 0 if found is None else found.expires_ms)], total)


DELETE = "delete"
INCREMENT = "increment"

OPERATIONS: dict[str, Callable[..., Outcome]] = {DELETE: _delete, INCREMENT: _increment}


def decide(read: Read, now_ms: int, name: str, arguments: list[Any]) -> Outcome:
    """Run the operation ``name`` over the state ``read`` shows."""
    return OPERATIONS[name](read, now_ms, *arguments)
