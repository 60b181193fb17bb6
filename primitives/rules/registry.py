"""Every operation by its name: what the coordinator decides commits by, and a transaction what it performs."""

from __future__ import annotations

from collections.abc import Callable

from shoal.primitives.rules import cell_rules, event_rules, key_rules
from shoal.shm.operation import BatchedOperation, Decision, OperationTable, Read

CELL_CAS = "cell_cas"
CELL_DELETE = "cell_delete"
CELL_INIT = "cell_init"
CELL_SET = "cell_set"
CELL_SWAP = "cell_swap"
DELETE = "delete"
EVENT_APPEND = "event_append"
EVENT_RESTORE = "event_restore"
INCREMENT = "increment"
INSERT = "insert"

OPERATIONS: dict[str, Callable[..., Decision]] = {
    CELL_CAS: cell_rules.cas,
    CELL_DELETE: cell_rules.delete,
    CELL_INIT: cell_rules.init,
    CELL_SET: cell_rules.put,
    CELL_SWAP: cell_rules.swap,
    DELETE: key_rules.delete,
    EVENT_APPEND: event_rules.append,
    EVENT_RESTORE: event_rules.restore,
    INCREMENT: key_rules.increment,
    INSERT: key_rules.insert,
}

BATCHED: dict[str, Callable[[Read, bytes], BatchedOperation]] = {EVENT_APPEND: event_rules.Appending}

TABLE = OperationTable(OPERATIONS, BATCHED, in_turn=frozenset((CELL_SWAP,)))
