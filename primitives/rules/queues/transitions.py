"""What becomes of a task, whichever operation it is: its record, its place in a set and the counts change together."""

from __future__ import annotations

from shoal.primitives.rules.queues.records import (
    KEY,
    PAYLOAD,
    RESULT,
    TASK,
    Queue,
    body_key,
    claim_key,
    decode_claim,
)
from shoal.primitives.rules.queues.task_record import (
    CLAIMED,
    DEAD,
    DONE,
    LATEST_MS,
    WAITING,
    Task,
    delayed_entry,
    entry_id,
    entry_order,
    ready_entry,
)
from shoal.shm.errors import CorruptionError

_PROMOTED = 256  # delayed tasks that one claim makes ready at most: other commits wait meanwhile
# ``Queue.counts``: two for the sets, then one for each status from CLAIMED on.
READY, DELAYED, FIRST_STATUS = 0, 1, 2 - CLAIMED


def make_ready(queue: Queue, now_ms: int) -> None:
    """Move delayed tasks whose time has come to the ready ones; those first that have been due for longest."""
    for _ in range(_PROMOTED):
        entry = queue.first_delayed()
        if entry is None or entry_order(entry) > now_ms:
            return
        queue.remove_delayed(entry)
        queue.counts[DELAYED] -= 1
        queue.ready.add(ready_entry(entry_id(entry), waiting(queue, entry_id(entry))))
        queue.counts[READY] += 1


def waiting(queue: Queue, task_id: bytes) -> Task:
    """A task that a set has."""
    task = queue.task(task_id)
    if task is None or task.status != WAITING:
        raise CorruptionError("the record of a queue", 0, "entries of tasks that wait", "another")
    return task


def held_by(queue: Queue, holder: int, ticket: int) -> list[tuple[bytes, Task]]:
    """The tasks of a queue that ``holder`` still has of those it claimed with ``ticket``."""
    held: list[tuple[bytes, Task]] = []
    entry = queue.get(claim_key(holder, ticket))
    if entry is None:
        return held
    base, _, ids = decode_claim(entry)
    for task_id in ids if base == queue.base else ():
        task = queue.task(task_id)
        if task is not None and task.status == CLAIMED and task.holder == holder and task.ticket == ticket:
            held.append((task_id, task))
    return held


def wait(queue: Queue, task_id: bytes, task: Task) -> None:
    """A task that is in no set and counted nowhere waits from now on, until it is due."""
    task.status = WAITING
    queue.put_task(task_id, task)
    if task.due_ms:
        queue.add_delayed(delayed_entry(task_id, task))
        queue.counts[DELAYED] += 1
    else:
        queue.ready.add(ready_entry(task_id, task))
        queue.counts[READY] += 1


def end(queue: Queue, task_id: bytes, task: Task, status: int, ended_ms: int) -> None:
    """A task that is in no set and counted nowhere has ended."""
    task.status, task.due_ms = status, ended_ms
    queue.put_task(task_id, task)
    queue.counts[FIRST_STATUS + status] += 1


def give_back(queue: Queue, task_id: bytes, task: Task) -> None:
    """A claim of a task that is not counted as claimed any more was no attempt."""
    task.attempt, task.due_ms = task.attempt - 1, 0
    wait(queue, task_id, task)


def attempted(queue: Queue, task_id: bytes, task: Task, error: str, now_ms: int, retry_ms: int) -> None:
    """An attempt of a task that is not counted as claimed any more was in vain."""
    task.error = error
    if task.attempt < task.max_attempts:
        task.due_ms = min(now_ms + retry_ms, LATEST_MS) if retry_ms > 0 else 0
        wait(queue, task_id, task)
    else:
        end(queue, task_id, task, DEAD, now_ms)


def leave(queue: Queue, task_id: bytes, task: Task) -> None:
    """Take a task that waits or is claimed out of its set and out of the count."""
    if task.status == CLAIMED:
        queue.counts[FIRST_STATUS + CLAIMED] -= 1
    elif task.due_ms and queue.remove_delayed(delayed_entry(task_id, task)):
        queue.counts[DELAYED] -= 1
    elif queue.ready.remove(ready_entry(task_id, task)):
        queue.counts[READY] -= 1


def remove(queue: Queue, task_id: bytes, task: Task) -> None:
    """Delete a task with all that belongs to it; its key is free."""
    queue.put(queue.base + TASK + task_id, None)
    if task.payload is None:
        queue.put(body_key(queue.base, task_id, PAYLOAD), None)
    if task.status == DONE and task.result is None:
        queue.put(body_key(queue.base, task_id, RESULT), None)
    if task.key is not None:
        queue.put(queue.base + KEY + task.key, None)
