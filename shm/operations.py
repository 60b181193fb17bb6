"""Operations decided where they are applied: one rule each, run by the coordinator or inside a transaction.

A facade's single call sends the operation and the coordinator decides it against the newest state, so it never
conflicts. Inside a transaction the same function runs at once on what the transaction sees, and what it read is
validated at commit. The log holds what an operation wrote, never the operation: replay decides nothing.

The first argument of every operation is a key. A rule raises ShoalError, TypeError or ValueError, and has then written
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.shm import key_operations
from shoal.shm.outcome import Outcome, Read

DELETE = "delete"
INCREMENT = "increment"
INSERT = "insert"

OPERATIONS: dict[str, Callable[..., Outcome]] = {
    DELETE: key_operations.delete,
    INCREMENT: key_operations.increment,
    INSERT: key_operations.insert,
}


def decide(read: Read, now_ms: int, name: str, arguments: list[Any]) -> Outcome:
    """Run the operation ``name`` over the state ``read`` shows."""
    return OPERATIONS[name](read, now_ms, *arguments)
