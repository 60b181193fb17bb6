"""Operations decided where they are applied: one rule each, run by the coordinator or inside a transaction.

A facade's single call sends the operation and the coordinator decides it against the newest state, so it never
conflicts. Inside a transaction the same function runs at once on what the transaction sees, and what it read is
validated at commit. The log holds what an operation wrote, never the operation: replay decides nothing.

The first argument of every operation is a key. A rule raises ShoalError, TypeError or ValueError, and has then written
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from shoal.shm import cell_operations, event_operations, key_operations
from shoal.shm.outcome import Outcome, Read

CELL_CAS = "cell_cas"
CELL_DELETE = "cell_delete"
CELL_INIT = "cell_init"
CELL_SET = "cell_set"
DELETE = "delete"
EVENT_APPEND = "event_append"
EVENT_RESTORE = "event_restore"
INCREMENT = "increment"
INSERT = "insert"

OPERATIONS: dict[str, Callable[..., Outcome]] = {
    CELL_CAS: cell_operations.cas,
    CELL_DELETE: cell_operations.delete,
    CELL_INIT: cell_operations.init,
    CELL_SET: cell_operations.put,
    DELETE: key_operations.delete,
    EVENT_APPEND: event_operations.append,
    EVENT_RESTORE: event_operations.restore,
    INCREMENT: key_operations.increment,
    INSERT: key_operations.insert,
}


class Joint(Protocol):
    """Several operations on one key, decided one after the other and written together, in one commit after another.

    It may keep in mind what it has read and written: it is used again only if nobody else has written the key since.
    """

    def begin(self, now_ms: int) -> None:
        """Begin a commit."""
        ...

    def add(self, *arguments: Any) -> Any:
        """Decide one and return its result; what raises leaves the others as they are."""
        ...

    def writes(self) -> list[Any]:
        """What all of them write: key, value and expiry of each, flat; no key twice."""
        ...


# Operations that may share a commit with others of their kind on the same key: nobody is told its version.
JOINTS: dict[str, Callable[[Read, bytes], Joint]] = {EVENT_APPEND: event_operations.Appending}


def decide(read: Read, now_ms: int, name: str, arguments: list[Any]) -> Outcome:
    """Run the operation ``name`` over the state ``read`` shows."""
    return OPERATIONS[name](read, now_ms, *arguments)
