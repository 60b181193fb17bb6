"""The record of a task, and its entries in the sets of those that wait.

record   the fields of ``_TASK``; of a task that is claimed those of ``_CLAIMED``; payload, result, error, user's key
entry    what it is ordered by first (8 bytes), its sequence number (8 bytes), its id
"""

from __future__ import annotations

import struct

from shoal.shm.errors import CorruptionError

WAITING, CLAIMED, DONE, DEAD, CANCELLED = range(5)
ID_BYTES = 16
_NUMBER_BYTES = 8
_TOP_PRIORITY = (1 << 63) - 1
LATEST_MS = 1 << 62  # and the greatest sequence number
# Sequence number, status, priority, attempt, most attempts, when it was put, when it is due or has ended; the lengths
# of payload, result, error and key, which stand at the end.
_TASK = struct.Struct("<qBqIIqqHHHH")
_CLAIMED = struct.Struct("<qqqq")  # of a claimed task, behind that: token, holder, ticket, pid
_NONE = 0xFFFF  # the length of what is not there
_ORDER = struct.Struct(">QQ")


class Task:
    """A task as it is stored. Times are ms since the epoch, 0 for none."""

    def __init__(
        self,
        sequence: int,  # in the queue, from 1 on
        status: int,
        priority: int,
        attempt: int,
        max_attempts: int,
        created_ms: int,
        due_ms: int,  # when it becomes ready, as it was put or has failed; of one that has ended, when that was
        payload: bytes | None,  # None: see ``body``
        result: bytes | None,
        error: str | None,
        key: bytes | None,  # the user's
    ) -> None:
        self.sequence = sequence
        self.status = status
        self.priority = priority
        self.attempt = attempt
        self.max_attempts = max_attempts
        self.created_ms = created_ms
        self.due_ms = due_ms
        self.payload = payload
        self.result = result
        self.error = error
        self.key = key
        # Of the claim: 0 if nobody has claimed it.
        self.token = 0
        self.holder = 0
        self.ticket = 0
        self.pid = 0


def encode_task(task: Task) -> bytes:
    """The stored form of a task; ``ValueError`` if a field is none of a task."""
    payload, result, key = task.payload, task.result, task.key
    error = None if task.error is None else task.error.encode()
    try:
        raw = _TASK.pack(
            task.sequence,
            task.status,
            task.priority,
            task.attempt,
            task.max_attempts,
            task.created_ms,
            task.due_ms,
            _NONE if payload is None else len(payload),
            _NONE if result is None else len(result),
            _NONE if error is None else len(error),
            _NONE if key is None else len(key),
        )
        if task.status == CLAIMED:
            raw += _CLAIMED.pack(task.token, task.holder, task.ticket, task.pid)
    except struct.error as error_of_field:
        raise ValueError(f"a task has a field out of its bounds: {error_of_field}") from None
    return raw + (payload or b"") + (result or b"") + (error or b"") + (key or b"")


def decode_task(raw: bytes) -> Task:
    """The task in ``raw``; ``CorruptionError`` for other bytes: any process of the same user may have written them."""
    try:
        task = _decoded(raw)
    except (struct.error, UnicodeDecodeError):
        task = None
    if task is None:
        raise CorruptionError("the record of a task", 0, "its fields", f"{len(raw)} bytes of something else")
    return task


def _decoded(raw: bytes) -> Task | None:
    fields = _TASK.unpack_from(raw)
    sequence, status, priority, attempt, max_attempts, created_ms, due_ms, payload, result, error, key = fields
    at = _TASK.size + (_CLAIMED.size if status == CLAIMED else 0)
    parts: list[bytes | None] = []
    for length in (payload, result, error, key):
        if length == _NONE:
            parts.append(None)
        else:
            parts.append(raw[at : at + length])
            at += length
    is_sound = at == len(raw) and status <= CANCELLED and priority >= -_TOP_PRIORITY
    if not is_sound or not (0 <= sequence <= LATEST_MS and created_ms >= 0 and 0 <= due_ms <= LATEST_MS):
        return None
    text = parts[2]
    told = None if text is None else text.decode()
    task = Task(
        sequence, status, priority, attempt, max_attempts, created_ms, due_ms, parts[0], parts[1], told, parts[3]
    )
    if status == CLAIMED:
        task.token, task.holder, task.ticket, task.pid = _CLAIMED.unpack_from(raw, _TASK.size)
    return task


def ready_entry(task_id: bytes, task: Task) -> bytes:
    """Its entry in the set of ready tasks."""
    return _ORDER.pack(_TOP_PRIORITY - task.priority, task.sequence) + task_id


def delayed_entry(task_id: bytes, task: Task) -> bytes:
    """Its entry in the set of delayed tasks."""
    return _ORDER.pack(task.due_ms, task.sequence) + task_id


def entry_order(entry: bytes) -> int:
    """What an entry is ordered by first: of a delayed task, when it is due."""
    return int.from_bytes(entry[:_NUMBER_BYTES], "big")


def entry_id(entry: bytes) -> bytes:
    """The id of the task that an entry is of."""
    return entry[-ID_BYTES:]
