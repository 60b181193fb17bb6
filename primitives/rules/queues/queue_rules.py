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

from shoal.primitives.rules.queues.records import (
    KEY,
    PAYLOAD,
    QUEUE,
    RESULT,
    Queue,
    claim_entry,
    claim_key,
    decode_claim,
    ticket_of,
)
from shoal.primitives.rules.queues.task_record import (
    CANCELLED,
    CLAIMED,
    DEAD,
    DONE,
    ID_BYTES,
    LATEST_MS,
    WAITING,
    Task,
    check_numbers,
    entry_id,
)
from shoal.primitives.rules.queues.transitions import (
    FIRST_STATUS,
    READY,
    attempted,
    end,
    give_back,
    held_by,
    leave,
    make_ready,
    remove,
    wait,
    waiting,
)
from shoal.shm import holder_index
from shoal.shm.errors import AlreadyExistsError, InvalidOperationError, NotFoundError
from shoal.shm.fleet_errors import FencedError, NothingReadyError
from shoal.shm.limits import MAX_IMPORTED_COUNT
from shoal.shm.operation import Decision, Read, Write

MOST_CLAIMED = 256  # by one claim: other commits wait meanwhile


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
    ids = put_into(queue, now_ms, priority, delay_ms, max_attempts, user_key, is_new, tasks)
    return Decision(queue.writes(), ids)


def put_into(
    queue: Queue,
    now_ms: int,
    priority: int,
    delay_ms: int,
    max_attempts: int,
    user_key: bytes | None,
    is_new: bool,
    tasks: list[bytes],
) -> list[bytes]:
    """``put``, as a part of what is decided of a queue."""
    if user_key is not None and not is_new:
        found = queue.get(queue.base + KEY + user_key)
        if found is not None:
            return [found]
        queue.put(queue.base + KEY + user_key, tasks[0])
    check_numbers((priority, delay_ms, max_attempts))
    due_ms = min(now_ms + delay_ms, LATEST_MS) if delay_ms > 0 else 0
    for at in range(0, len(tasks), 2):
        task_id = tasks[at]
        if len(task_id) != ID_BYTES or type(tasks[at + 1]) is not bytes:
            raise ValueError("a task is not an id and a payload")
        queue.sequence += 1
        stored = queue.store_body(task_id, PAYLOAD, tasks[at + 1])
        task = Task(queue.sequence, WAITING, priority, 0, max_attempts, now_ms, due_ms, stored, None, None, user_key)
        wait(queue, task_id, task)
    return tasks[::2]


def claim(
    read: Read,
    now_ms: int,
    key: bytes,
    name: str,
    holder: int,
    pid: int,
    ttl_ms: int,
    ticket: int,
    former_token: int,
    limit: int,
) -> Decision:
    """Claim the first ``limit`` ready tasks, or as many as there are; the result is what ``_claimed`` says of each.

    ``former_token`` is the first token of the claim that ``ticket`` was used for before, 0 if it was not.

    ``NothingReadyError`` if there is none; it passes when one is put, or at the time of the first delayed one.
    """
    queue = Queue(read, key)
    claimed = claim_from(queue, now_ms, name, holder, pid, ttl_ms, ticket, former_token, limit)
    return Decision(queue.writes(), claimed)


def claim_from(
    queue: Queue,
    now_ms: int,
    name: str,
    holder: int,
    pid: int,
    ttl_ms: int,
    ticket: int,
    former_token: int,
    limit: int,
) -> list[list[object]]:
    """``claim``, as a part of what is decided of a queue."""
    check_numbers((holder, pid, ttl_ms, ticket))
    entry_key = claim_key(holder, ticket)
    entry = queue.get(entry_key)
    if entry is not None and decode_claim(entry)[1] != former_token:
        again = held_by(queue, holder, ticket)
        if again:  # sent again
            return [_claimed(task_id, task) for task_id, task in again]
    if queue.due_ms and queue.due_ms <= now_ms:
        make_ready(queue, now_ms)
    ids: list[bytes] = []
    while len(ids) < min(limit, MOST_CLAIMED) and (least := queue.ready.take_least()) is not None:
        ids.append(entry_id(least))
    if not ids:
        raise NothingReadyError(name, max(1, queue.due_ms - now_ms) if queue.due_ms else None)
    token = first = queue.take_tokens(len(ids))
    result = []
    for task_id in ids:
        task = waiting(queue, task_id)
        task.status, task.attempt = CLAIMED, task.attempt + 1
        task.token, task.holder, task.ticket, task.pid = token, holder, ticket, pid
        queue.put_task(task_id, task)
        result.append(_claimed(task_id, task))
        token += 1
    queue.counts[READY] -= len(ids)
    queue.counts[FIRST_STATUS + CLAIMED] += len(ids)
    queue.put(entry_key, claim_entry(ttl_ms, queue.base, first, ids))
    return result


def complete(
    read: Read, now_ms: int, key: bytes, name: str, task_id: bytes, holder: int, token: int, result: bytes
) -> Decision:
    """The task is done, with a result."""
    queue = Queue(read, key)
    complete_in(queue, now_ms, name, task_id, holder, token, result)
    return Decision(queue.writes(), None)


def complete_in(queue: Queue, now_ms: int, name: str, task_id: bytes, holder: int, token: int, result: bytes) -> None:
    """``complete``, as a part of what is decided of a queue."""
    task = _held(queue, name, task_id, holder, token)
    leave(queue, task_id, task)
    task.result, task.error = queue.store_body(task_id, RESULT, result), None
    end(queue, task_id, task, DONE, now_ms)


def fail(
    read: Read, now_ms: int, key: bytes, name: str, task_id: bytes, holder: int, token: int, error: str, retry_ms: int
) -> Decision:
    """The attempt has failed. With attempts left the task is ready again after ``retry_ms``, else it is dead."""
    queue = Queue(read, key)
    task = _held(queue, name, task_id, holder, token)
    check_numbers((retry_ms,))
    leave(queue, task_id, task)
    attempted(queue, task_id, task, error, now_ms, retry_ms)
    return Decision(queue.writes(), None)


def release(read: Read, now_ms: int, key: bytes, name: str, task_id: bytes, holder: int, token: int) -> Decision:
    """The task is ready again, as if it had not been claimed."""
    queue = Queue(read, key)
    task = _held(queue, name, task_id, holder, token)
    leave(queue, task_id, task)
    give_back(queue, task_id, task)
    return Decision(queue.writes(), None)


def unclaim(read: Read, now_ms: int, key: bytes, holder: int, ticket: int) -> Decision:
    """Release all tasks that ``holder`` still has of those it claimed with ``ticket``."""
    queue = Queue(read, key)
    entry_key = claim_key(holder, ticket)
    if read(entry_key) is None:
        return Decision([], None)
    for task_id, task in held_by(queue, holder, ticket):
        leave(queue, task_id, task)
        give_back(queue, task_id, task)
    queue.put(entry_key, None)
    return Decision(queue.writes(), None)


def ended(read: Read, held_key: bytes, holder: int, now_ms: int) -> list[Write]:
    """The holder has ended: each task that it has claimed was attempted. See ``OperationTable.ended``."""
    entry = read(holder_index.entry_key(holder, held_key))
    if entry is None:
        return []
    queue = Queue(read, decode_claim(entry.value)[0] + QUEUE)
    held = held_by(queue, holder, ticket_of(held_key))
    for task_id, task in held:
        error = f"process {task.pid}, which had claimed the task, ended or did not answer any more"
        leave(queue, task_id, task)
        attempted(queue, task_id, task, error, now_ms, 0)
    return queue.writes() if held else []


def fence(read: Read, now_ms: int, key: bytes, name: str, task_id: bytes, holder: int, token: int) -> Decision:
    """Raise ``FencedError`` unless ``holder`` has the task claimed by ``token``. Writes nothing."""
    _held(Queue(read, key), name, task_id, holder, token)
    return Decision([], None)


def retry(read: Read, now_ms: int, key: bytes, name: str, task_id: bytes) -> Decision:
    """A dead task is ready again, with all its attempts. ``NotFoundError``, or ``InvalidOperationError`` of another."""
    queue = Queue(read, key)
    task = queue.task(task_id)
    if task is None:
        raise NotFoundError(f"there is no task {name!r}; it may have been purged; put it again")
    if task.status != DEAD:
        raise InvalidOperationError(f"task {name!r} is not Dead, so it cannot be tried again; put a new one")
    queue.counts[FIRST_STATUS + DEAD] -= 1
    task.attempt = task.due_ms = 0
    wait(queue, task_id, task)
    return Decision(queue.writes(), None)


def cancel(read: Read, now_ms: int, key: bytes, task_id: bytes) -> Decision:
    """Cancel a task that has not ended; whether that was so."""
    queue = Queue(read, key)
    task = queue.task(task_id)
    if task is None or task.status not in (WAITING, CLAIMED):
        return Decision([], False)
    leave(queue, task_id, task)
    end(queue, task_id, task, CANCELLED, now_ms)
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
            leave(queue, task_id, task)
        else:
            queue.counts[FIRST_STATUS + status] -= 1
        remove(queue, task_id, task)
    return Decision(queue.writes() if purged else [], purged)


def restore(read: Read, now_ms: int, key: bytes, name: str, task_id: bytes, fields: list[Any]) -> Decision:
    """Write a task of an export as it was; for one that was claimed, as if its holder had ended then.

    ``AlreadyExistsError`` if the task, or one of its key, is there.

    ``fields``: sequence number, status, priority, attempt, most attempts, when it was put and is due or has ended (ms
    since the epoch), payload, result or None, error or None, user's key or None. ``ValueError`` for wrong ones.
    """
    queue = Queue(read, key)
    sequence, status, priority, attempt, max_attempts, created_ms, due_ms, payload, result, error, user_key = fields
    are_numbers = {type(sequence), type(status), type(created_ms), type(due_ms)} == {int}
    if not (are_numbers and 0 < sequence <= MAX_IMPORTED_COUNT and WAITING <= status <= CANCELLED and created_ms >= 0):
        raise ValueError(f"task {name!r} has a number or a status out of its bounds")
    if not 0 <= due_ms <= LATEST_MS:
        raise ValueError(f"task {name!r} is due, or has ended, at {due_ms}; give ms since the epoch, 2**62 at most")
    if queue.task(task_id) is not None or (user_key is not None and queue.get(queue.base + KEY + user_key) is not None):
        raise AlreadyExistsError(f"task {name!r}, or one of its key, exists already; purge it first")
    check_numbers((priority, attempt, max_attempts, created_ms))
    queue.sequence = max(queue.sequence, sequence)
    if user_key is not None:
        queue.put(queue.base + KEY + user_key, task_id)
    payload = queue.store_body(task_id, PAYLOAD, payload)
    result = None if result is None else queue.store_body(task_id, RESULT, result)
    task = Task(
        *(sequence, status, priority, attempt, max_attempts, created_ms, due_ms, payload, result, error, user_key)
    )
    if status == CLAIMED:
        attempted(queue, task_id, task, "the task was claimed when the export was made", now_ms, 0)
    elif status == WAITING:
        wait(queue, task_id, task)
    else:
        end(queue, task_id, task, status, due_ms)
    return Decision(queue.writes(), None)


def _claimed(task_id: bytes, task: Task) -> list[object]:
    """What the holder is told: id, payload (None: it is beside the task), attempt, token."""
    return [task_id, task.payload, task.attempt, task.token]


def _held(queue: Queue, name: str, task_id: bytes, holder: int, token: int) -> Task:
    """A task that ``holder`` has claimed by ``token``; else ``FencedError``."""
    task = queue.task(task_id)
    if task is None or task.status != CLAIMED or task.token != token:
        raise FencedError(name, token)
    if task.holder != holder:
        raise FencedError(name, token, task.pid)
    return task
