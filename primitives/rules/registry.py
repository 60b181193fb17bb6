"""Every operation by its name: what the coordinator decides commits by, and a transaction what it performs."""

from __future__ import annotations

from collections.abc import Callable

from shoal.primitives.rules import cell_rules as cell_operations
from shoal.primitives.rules import event_rules as event_operations
from shoal.primitives.rules import key_rules as key_operations
from shoal.shm.operation import BatchedOperation, Decision, OperationTable, Read

CELL_CAS = "cell_cas"
CELL_DELETE = "cell_delete"
CELL_INIT = "cell_init"
CELL_SET = "cell_set"
DELETE = "delete"
EVENT_APPEND = "event_append"
EVENT_RESTORE = "event_restore"
INCREMENT = "increment"
INSERT = "insert"

OPERATIONS: dict[str, Callable[..., Decision]] = {
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

BATCHED: dict[str, Callable[[Read, bytes], BatchedOperation]] = {EVENT_APPEND: event_operations.Appending}

TABLE = OperationTable(OPERATIONS, BATCHED)
