"""The rules by which tasks are put, claimed, ended and removed. ``records`` has what is stored.

    waiting -> claimed              claim: the first of the ready set; an attempt begins, with a token of its own
    claimed -> done                 complete
    claimed -> waiting              release, which was no attempt; fail, or the end of the holder, with attempts left
    claimed -> dead                 fail, or the end of the holder, after the last attempt
    dead -> waiting                 retry, with all attempts
    waiting, claimed -> cancelled   cancel

The order is by priority, then by the sequence number of the put; a task keeps its number, so one that comes back is
before those that were put after it. Only the holder by the token of the claim may complete, fail or release a task, or
fence a commit with it; else it is ``FencedError``.
"""

from __future__ import annotations

from typing import Any

from shoal.primitives.rules.lease_rules import TOKEN_KEY, next_token
from shoal.primitives.rules.queues.records import (
    CANCELLED,
    CLAIMED,
    DEAD,
    DONE,
    KEY,
    PAYLOAD,
    QUEUE,
    RESULT,
    TASK,
    WAITING,
    Queue,
    Task,
    body_key,
    delayed_entry,
    entry_id,
    entry_order,
    ready_entry,
)
from shoal.shm import codec
from shoal.shm.errors import AlreadyExistsError, CorruptionError, FencedError, InvalidOperationError, NotFoundError
from shoal.shm.fleet_errors import NothingReadyError
from shoal.shm.operation import Decision, Read, Write

# So many delayed tasks are made ready by one claim at most, and so many are claimed: other commits wait meanwhile.
_PROMOTED = 256
MOST_CLAIMED = 256
# ``Queue.counts``: two for the sets, then one for each status from CLAIMED on.
_READY, _DELAYED, _FIRST_STATUS = 0, 1, 2 - CLAIMED


def put(
    read: Read,
    now_ms: int,
    key: bytes,
    priority: int,
    delay_ms: int,
    max_attempts: int,
    user_key: bytes | None,
    is_new: bool,
    tasks: list[bytes],
) -> Decision:
    """Put ``tasks``: id and payload of each, flat. The result is their ids.

    With a ``user_key`` it is one task. Unless the caller knows that it ``is_new``, and has written the key itself, the
    task that was put under that key is looked for: its id is the result then, and nothing is written.
    """
    queue = Queue(read, key)
    if user_key is not None and not is_new:
        found = queue.get(queue.base + KEY + user_key)
        if found is not None:
            return Decision([], [found.value])
        queue.put(queue.base + KEY + user_key, tasks[0])
    due_ms = now_ms + delay_ms if delay_ms > 0 else 0
    for task_id, payload in zip(tasks[::2], tasks[1::2], strict=True):
        queue.sequence += 1
        stored = queue.store_body(task_id, PAYLOAD, payload)
        task = Task(
            queue.sequence, WAITING, priority, 0, max_attempts, now_ms, due_ms, 0, 0, 0, 0, stored, None, None, user_key
        )
        _wait(queue, task_id, task)
    return Decision(queue.writes(), tasks[::2])


def claim(
    read: Read, now_ms: int, key: bytes, name: str, holder: int, pid: int, ttl_ms: int, ticket: int, limit: int
) -> Decision:
    """Claim the first ``limit`` ready tasks, or as many as there are; the result is what ``_claimed`` says of each.

    ``NothingReadyError`` if there is none; it passes when one is put, or at the time of the first delayed one.
    """
    queue = Queue(read, key)
    again = [(task_id, queue.task(task_id)) for task_id in queue.claimed_ids(holder, ticket)]
    if again:  # sent again
        return Decision([], [_claimed(task_id, task) for task_id, task in again if task is not None])
    _make_ready(queue, now_ms)
    token = next_token(read)
    ids: list[bytes] = []
    result = []
    while len(ids) < min(limit, MOST_CLAIMED) and (entry := queue.ready.take_least()) is not None:
        task_id = entry_id(entry)
        task = _waiting(queue, task_id)
        queue.counts[_READY] -= 1
        task = task._replace(
            status=CLAIMED, attempt=task.attempt + 1, token=token + len(ids), holder=holder, ticket=ticket, pid=pid
        )
        queue.counts[_FIRST_STATUS + CLAIMED] += 1
        queue.put_task(task_id, task)
        ids.append(task_id)
        result.append(_claimed(task_id, task))
    if not ids:
        first = queue.delayed.least()
        raise NothingReadyError(name, None if first is None else max(1, entry_order(first) - now_ms))
    queue.put(TOKEN_KEY, codec.pack(token + len(ids) - 1))
    queue.put(queue.entry_key(holder, ticket), codec.pack([ttl_ms, *ids]))
    return Decision(queue.writes(), result)


def complete(
    read: Read, now_ms: int, key: bytes, name: str, task_id: bytes, holder: int, token: int, result: bytes
) -> Decision:
    """The task is done, with a result."""
    queue, task = _held(read, key, name, task_id, holder, token)
    _leave(queue, task_id, task)
    stored = queue.store_body(task_id, RESULT, result)
    queue.counts[_FIRST_STATUS + DONE] += 1
    queue.put_task(task_id, _unclaimed(task)._replace(status=DONE, result=stored, error=None))
    return Decision(queue.writes(), None)


def fail(
    read: Read, now_ms: int, key: bytes, name: str, task_id: bytes, holder: int, token: int, error: str, retry_ms: int
) -> Decision:
    """The attempt has failed. With attempts left the task is ready again after ``retry_ms``, else it is dead."""
    queue, task = _held(read, key, name, task_id, holder, token)
    _leave(queue, task_id, task)
    _attempted(queue, task_id, task, error, now_ms + retry_ms if retry_ms > 0 else 0)
    return Decision(queue.writes(), None)


def release(read: Read, now_ms: int, key: bytes, name: str, task_id: bytes, holder: int, token: int) -> Decision:
    """The task is ready again, as if it had not been claimed."""
    queue, task = _held(read, key, name, task_id, holder, token)
    _leave(queue, task_id, task)
    _wait(queue, task_id, task._replace(attempt=task.attempt - 1, due_ms=0))
    return Decision(queue.writes(), None)


def unclaim(read: Read, now_ms: int, key: bytes, holder: int, ticket: int) -> Decision:
    """Release all tasks that ``holder`` still has of those it claimed with ``ticket``."""
    queue = Queue(read, key)
    entry_key = queue.entry_key(holder, ticket)
    if read(entry_key) is None:
        return Decision([], None)
    for task_id, task in _held_by(queue, holder, ticket):
        _wait(queue, task_id, task._replace(attempt=task.attempt - 1, due_ms=0))
    queue.put(entry_key, None)
    return Decision(queue.writes(), None)


def ended(read: Read, held_key: bytes, holder: int, now_ms: int) -> list[Write]:
    """The holder has ended: each task that it has claimed was attempted. See ``OperationTable.ended``."""
    base, ticket = held_key[:-9], int.from_bytes(held_key[-8:], "big")
    queue = Queue(read, base + QUEUE)
    held = _held_by(queue, holder, ticket)
    for task_id, task in held:
        error = f"process {task.pid}, which had claimed the task, ended or did not answer any more"
        _attempted(queue, task_id, task, error, 0)
    return queue.writes() if held else []


def fence(read: Read, now_ms: int, key: bytes, name: str, task_id: bytes, holder: int, token: int) -> Decision:
    """Raise ``FencedError`` unless ``holder`` has the task claimed by ``token``. Writes nothing."""
    _held(read, key, name, task_id, holder, token)
    return Decision([], None)


def retry(read: Read, now_ms: int, key: bytes, name: str, task_id: bytes) -> Decision:
    """A dead task is ready again, with all its attempts. ``NotFoundError``, or ``InvalidOperationError`` of another."""
    queue = Queue(read, key)
    task = queue.task(task_id)
    if task is None:
        raise NotFoundError(f"there is no task {name!r}; it may have been purged; put it again")
    if task.status != DEAD:
        raise InvalidOperationError(f"task {name!r} is not Dead, so it cannot be tried again; put a new one")
    queue.counts[_FIRST_STATUS + DEAD] -= 1
    _wait(queue, task_id, task._replace(attempt=0, due_ms=0))
    return Decision(queue.writes(), None)


def cancel(read: Read, now_ms: int, key: bytes, task_id: bytes) -> Decision:
    """Cancel a task that has not ended; whether that was so."""
    task = (queue := Queue(read, key)).task(task_id)
    if task is None or task.status not in (WAITING, CLAIMED):
        return Decision([], False)
    _leave(queue, task_id, task)
    queue.counts[_FIRST_STATUS + CANCELLED] += 1
    queue.put_task(task_id, _unclaimed(task)._replace(status=CANCELLED))
    return Decision(queue.writes(), True)


def purge(read: Read, now_ms: int, key: bytes, ids: list[bytes], status: int, is_delayed: bool) -> Decision:
    """Remove those of ``ids`` that have ``status`` and, if they wait, are delayed or are not. How many it were."""
    queue = Queue(read, key)
    purged = 0
    for task_id in ids:
        task = queue.task(task_id)
        if task is None or task.status != status or (status == WAITING and (task.due_ms > now_ms) != is_delayed):
            continue
        purged += 1
        if status in (WAITING, CLAIMED):
            _leave(queue, task_id, task)
        else:
            queue.counts[_FIRST_STATUS + status] -= 1
        _remove(queue, task_id, task)
    return Decision(queue.writes() if purged else [], purged)


def restore(read: Read, now_ms: int, key: bytes, name: str, task_id: bytes, fields: list[Any]) -> Decision:
    """Write a task of an export as it was; for one that was claimed, as if its holder had ended then.

    ``AlreadyExistsError`` if the task, or one of its key, is there.

    ``fields``: sequence number, status, priority, attempt, most attempts, when it was put and is due (ms since the
    epoch), payload, result or None, error or None, user's key or None.
    """
    queue = Queue(read, key)
    sequence, status, priority, attempt, max_attempts, created_ms, due_ms, payload, result, error, user_key = fields
    if queue.task(task_id) is not None or (user_key is not None and queue.get(queue.base + KEY + user_key)):
        raise AlreadyExistsError(f"task {name!r}, or one of its key, exists already; purge it first")
    queue.sequence = max(queue.sequence, sequence)
    if user_key is not None:
        queue.put(queue.base + KEY + user_key, task_id)
    payload = queue.store_body(task_id, PAYLOAD, payload)
    result = None if result is None else queue.store_body(task_id, RESULT, result)
    task = Task(
        sequence,
        status,
        priority,
        attempt,
        max_attempts,
        created_ms,
        due_ms,
        0,
        0,
        0,
        0,
        payload,
        result,
        error,
        user_key,
    )
    if status == CLAIMED:
        _attempted(queue, task_id, task, "the task was claimed when the export was made", 0)
    elif status == WAITING:
        _wait(queue, task_id, task)
    else:
        queue.counts[_FIRST_STATUS + status] += 1
        queue.put_task(task_id, task)
    return Decision(queue.writes(), None)


def _make_ready(queue: Queue, now_ms: int) -> None:
    """Move delayed tasks whose time has come to the ready ones; those first that have been due for longest."""
    for _ in range(_PROMOTED):
        entry = queue.delayed.least()
        if entry is None or entry_order(entry) > now_ms:
            return
        queue.delayed.take_least()
        queue.counts[_DELAYED] -= 1
        queue.ready.add(ready_entry(entry_id(entry), _waiting(queue, entry_id(entry))))
        queue.counts[_READY] += 1


def _waiting(queue: Queue, task_id: bytes) -> Task:
    """A task that a set has."""
    task = queue.task(task_id)
    if task is None or task.status != WAITING:
        raise CorruptionError("the record of a queue", 0, "entries of tasks that wait", "another")
    return task


def _claimed(task_id: bytes, task: Task) -> list[object]:
    """What the holder is told: id, payload (None: it is beside the task), attempt, token."""
    return [task_id, task.payload, task.attempt, task.token]


def _held(read: Read, key: bytes, name: str, task_id: bytes, holder: int, token: int) -> tuple[Queue, Task]:
    """A task that ``holder`` has claimed by ``token``; else ``FencedError``."""
    queue = Queue(read, key)
    task = queue.task(task_id)
    if task is None or (task.status, task.holder, task.token) != (CLAIMED, holder, token):
        raise FencedError(name, token)
    return queue, task


def _held_by(queue: Queue, holder: int, ticket: int) -> list[tuple[bytes, Task]]:
    """The tasks that ``holder`` still has of those it claimed with ``ticket``; they are counted as claimed no more."""
    held = []
    for task_id in queue.claimed_ids(holder, ticket):
        task = queue.task(task_id)
        if task is not None and (task.status, task.holder, task.ticket) == (CLAIMED, holder, ticket):
            queue.counts[_FIRST_STATUS + CLAIMED] -= 1
            held.append((task_id, task))
    return held


def _unclaimed(task: Task) -> Task:
    return task._replace(token=0, holder=0, ticket=0, pid=0)


def _wait(queue: Queue, task_id: bytes, task: Task) -> None:
    """A task that is in no set and counted nowhere waits from now on, until it is due."""
    if task.due_ms:
        queue.delayed.add(delayed_entry(task_id, task))
        queue.counts[_DELAYED] += 1
    else:
        queue.ready.add(ready_entry(task_id, task))
        queue.counts[_READY] += 1
    queue.put_task(task_id, _unclaimed(task)._replace(status=WAITING))


def _attempted(queue: Queue, task_id: bytes, task: Task, error: str, due_ms: int) -> None:
    """An attempt of a task that is not counted as claimed any more was in vain."""
    if task.attempt < task.max_attempts:
        _wait(queue, task_id, task._replace(error=error, due_ms=due_ms))
    else:
        queue.counts[_FIRST_STATUS + DEAD] += 1
        queue.put_task(task_id, _unclaimed(task)._replace(status=DEAD, error=error))


def _leave(queue: Queue, task_id: bytes, task: Task) -> None:
    """Take a task that waits or is claimed out of its set or its entry, and out of the count."""
    if task.status == CLAIMED:
        queue.leave_entry(task_id, task)
        queue.counts[_FIRST_STATUS + CLAIMED] -= 1
    elif task.due_ms and queue.delayed.remove(delayed_entry(task_id, task)):
        queue.counts[_DELAYED] -= 1
    elif queue.ready.remove(ready_entry(task_id, task)):
        queue.counts[_READY] -= 1


def _remove(queue: Queue, task_id: bytes, task: Task) -> None:
    """Delete a task with all that belongs to it; its key is free."""
    queue.put(queue.base + TASK + task_id, None)
    if task.payload is None:
        queue.put(body_key(queue.base, task_id, PAYLOAD), None)
    if task.status == DONE and task.result is None:
        queue.put(body_key(queue.base, task_id, RESULT), None)
    if task.key is not None:
        queue.put(queue.base + KEY + task.key, None)
