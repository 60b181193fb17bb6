"""Puts, claims and completions of one queue that become one commit.

The queue's own record is read, decoded, encoded and written once for all of them, and it is kept decoded for the next
batch. It is what a queue's operations have in common, and what most of the time of one of them goes into.
"""

from __future__ import annotations

from typing import Any

from shoal.primitives.rules.queues.queue_rules import claim_from, complete_in, put_into
from shoal.primitives.rules.queues.records import Queue
from shoal.primitives.rules.queues.task_record import ID_BYTES
from shoal.shm.limits import MAX_ENGINE_KEY_BYTES
from shoal.shm.operation import Read

# The names of the operations.
PUT, CLAIM, COMPLETE = "task_put", "task_claim", "task_complete"
_MOST_TASKS = 1024  # in one batch: other commits wait meanwhile
_LONGEST_KEY = MAX_ENGINE_KEY_BYTES - ID_BYTES - 1  # of a queue: the key of a body is as much longer


class QueueBatch:
    """What is decided of one queue together, each operation on the state that those before it left.

    After an error in ``decide`` it must be thrown away, with what it would have written: each operation is decided by
    itself then, by its rule, and gets its own error. So this may refuse what a rule does not.
    """

    def __init__(self, read: Read, key: bytes) -> None:
        if len(key) > _LONGEST_KEY:
            raise ValueError("the key of a queue is too long for a batch")
        self._queue = Queue(read, key)
        self._now_ms = 0
        self._tasks = 0

    def begin(self, now_ms: int) -> None:
        """Begin a commit."""
        self._now_ms = now_ms
        self._tasks = 0
        self._queue.begin()

    def decide(self, name: str, arguments: list[Any]) -> Any:
        """Decide the operation ``name``, of which the queue is the first argument; its result."""
        queue, now_ms = self._queue, self._now_ms
        if name == COMPLETE:
            _, task_name, task_id, holder, token, result = arguments
            self._count(1)
            return complete_in(queue, now_ms, task_name, task_id, holder, token, result)
        if name == CLAIM:
            _, queue_name, holder, pid, ttl_ms, ticket, former_token, limit = arguments
            self._count(limit)
            return claim_from(queue, now_ms, queue_name, holder, pid, ttl_ms, ticket, former_token, limit)
        _, priority, delay_ms, max_attempts, user_key, is_new, tasks = arguments
        self._check_put(user_key, tasks)
        return put_into(queue, now_ms, priority, delay_ms, max_attempts, user_key, is_new, tasks)

    def writes(self) -> list[Any]:
        """What the batch writes: key, value and expiry of each, flat."""
        return self._queue.flat_writes()

    def _count(self, tasks: int) -> None:
        self._tasks += tasks
        if self._tasks > _MOST_TASKS:
            raise ValueError("too many tasks for a batch")

    def _check_put(self, user_key: bytes | None, tasks: list[bytes]) -> None:
        """Nobody checks how long the keys are that a batch writes, so it is done before."""
        self._count(len(tasks) // 2)
        if user_key is not None and len(self._queue.key) + len(user_key) > MAX_ENGINE_KEY_BYTES:
            raise ValueError("the key of a task is too long for a batch")
