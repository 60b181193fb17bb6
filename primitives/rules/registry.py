"""Every operation by its name: what the coordinator decides commits by, and a transaction what it performs."""

from __future__ import annotations

from collections.abc import Callable

from shoal.primitives.rules import budget_rules, cell_rules, event_rules, key_rules, lease_rules, trim_rules
from shoal.primitives.rules.queues import queue_batch, queue_rules
from shoal.primitives.rules.tags import Tag, tag_of
from shoal.shm.operation import BatchedOperation, Decision, OperationTable, Read, Write

BUDGET_ADJUST = "budget_adjust"
BUDGET_CREATE = "budget_create"
BUDGET_RESERVE = "budget_reserve"
BUDGET_SETTLE = "budget_settle"
CELL_CAS = "cell_cas"
CELL_DELETE = "cell_delete"
CELL_INIT = "cell_init"
CELL_SET = "cell_set"
CELL_SWAP = "cell_swap"
DELETE = "delete"
EVENT_APPEND = "event_append"
EVENT_BEGIN = "event_begin"
EVENT_RESTORE = "event_restore"
EVENT_TRIM = "event_trim"
INCREMENT = "increment"
INSERT = "insert"
LEASE_FENCE = "lease_fence"
LEASE_RELEASE = "lease_release"
LEASE_TAKE = "lease_take"
REMEMBER = "remember"
TASK_CANCEL = "task_cancel"
TASK_CLAIM = queue_batch.CLAIM
TASK_COMPLETE = queue_batch.COMPLETE
TASK_FAIL = "task_fail"
TASK_FENCE = "task_fence"
TASK_PURGE = "task_purge"
TASK_PUT = queue_batch.PUT
TASK_RELEASE = "task_release"
TASK_RESTORE = "task_restore"
TASK_RETRY = "task_retry"
TASK_UNCLAIM = "task_unclaim"
TOKENS_RAISE = "tokens_raise"

OPERATIONS: dict[str, Callable[..., Decision]] = {
    BUDGET_ADJUST: budget_rules.adjust,
    BUDGET_CREATE: budget_rules.create,
    BUDGET_RESERVE: budget_rules.reserve,
    BUDGET_SETTLE: budget_rules.settle,
    CELL_CAS: cell_rules.cas,
    CELL_DELETE: cell_rules.delete,
    CELL_INIT: cell_rules.init,
    CELL_SET: cell_rules.put,
    CELL_SWAP: cell_rules.swap,
    DELETE: key_rules.delete,
    EVENT_APPEND: event_rules.append,
    EVENT_BEGIN: trim_rules.begin,
    EVENT_RESTORE: event_rules.restore,
    EVENT_TRIM: trim_rules.trim,
    INCREMENT: key_rules.increment,
    INSERT: key_rules.insert,
    LEASE_FENCE: lease_rules.fence,
    LEASE_RELEASE: lease_rules.release,
    LEASE_TAKE: lease_rules.take,
    REMEMBER: key_rules.remember,
    TASK_CANCEL: queue_rules.cancel,
    TASK_CLAIM: queue_rules.claim,
    TASK_COMPLETE: queue_rules.complete,
    TASK_FAIL: queue_rules.fail,
    TASK_FENCE: queue_rules.fence,
    TASK_PURGE: queue_rules.purge,
    TASK_PUT: queue_rules.put,
    TASK_RELEASE: queue_rules.release,
    TASK_RESTORE: queue_rules.restore,
    TASK_RETRY: queue_rules.retry,
    TASK_UNCLAIM: queue_rules.unclaim,
    TOKENS_RAISE: lease_rules.raise_tokens,
}

BATCHED: dict[str, Callable[[Read, bytes], BatchedOperation]] = {
    EVENT_APPEND: event_rules.Appending,
    TASK_CLAIM: queue_batch.QueueBatch,
    TASK_COMPLETE: queue_batch.QueueBatch,
    TASK_PUT: queue_batch.QueueBatch,
}

# What a held key may be, by its tag: what to write when its holder has ended.
ENDED: dict[Tag, Callable[[Read, bytes, int, int], list[Write]]] = {
    Tag.QUEUE: queue_rules.ended,
    Tag.BUDGET: budget_rules.ended,
    Tag.LEASE: lease_rules.ended,
    Tag.IDEMPOTENCY: lease_rules.ended,
    Tag.CONSUMER: lease_rules.ended,
}


def ended(read: Read, held_key: bytes, holder: int, now_ms: int) -> list[Write]:
    """What to write when ``holder`` has ended, which held ``held_key``."""
    tag = Tag(held_key[1]) if held_key[:1] == b"\0" else tag_of(held_key)  # a key of the store itself is in no run
    return ENDED[tag](read, held_key, holder, now_ms)


TABLE = OperationTable(OPERATIONS, BATCHED, ended, in_turn=frozenset((CELL_SWAP,)))
