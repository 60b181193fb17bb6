"""The record of a task, and its entries in the sets of those that wait.

record   the fields of ``_TASK``; of a task that is claimed those of ``_CLAIMED``; payload, result, error, user's key
entry    what it is ordered by first (8 bytes), its sequence number (8 bytes), its id
"""

from __future__ import annotations

import struct

from shoal.shm.errors import CorruptionError

try:
    import cython
except ModuleNotFoundError:
    from shoal.shm import cython_shim as cython  # type: ignore[no-redef]

if cython.compiled:
    from cython.cimports.task_bytes import (
        byte_at,
        half_word_at,
        length_at,
        packed_entry,
        packed_ready,
        packed_task,
        word_at,
    )

WAITING, CLAIMED, DONE, DEAD, CANCELLED = range(5)
ID_BYTES = 16
_NUMBER_BYTES = 8
_TOP_PRIORITY = (1 << 63) - 1
_LARGEST = (1 << 63) - 1
_MOST_ATTEMPTS = (1 << 32) - 1
LATEST_MS = 1 << 62  # and the greatest sequence number
# Sequence number, status, priority, attempt, most attempts, when it was put, when it is due or has ended; the lengths
# of payload, result, error and key, which stand at the end.
_TASK = struct.Struct("<qBqIIqqHHHH")
_CLAIMED = struct.Struct("<qqqq")  # of a claimed task, behind that: token, holder, ticket, pid
_NONE = 0xFFFF  # the length of what is not there
_ORDER = struct.Struct(">QQ")
_ID_AT = 2 * _NUMBER_BYTES  # in an entry
_TASK_BYTES, _CLAIM_BYTES = _TASK.size, _CLAIMED.size


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


def check_numbers(numbers: tuple[object, ...]) -> None:
    """``ValueError`` unless each is a whole number that a record can have; they came through a pipe."""
    for number in numbers:
        if type(number) is not int or not -_LARGEST <= number <= _LARGEST:
            raise ValueError("a task has a field out of its bounds")


def encode_task(task: Task) -> bytes:
    """The stored form of a task; ``ValueError`` if a field is none of a task."""
    payload, result, key = task.payload, task.result, task.key
    error = None if task.error is None else task.error.encode()
    are_short = len(payload or b"") < _NONE and len(result or b"") < _NONE
    are_short = are_short and len(error or b"") < _NONE and len(key or b"") < _NONE
    if not (are_short and 0 <= task.attempt <= _MOST_ATTEMPTS and 0 <= task.max_attempts <= _MOST_ATTEMPTS):
        raise ValueError("a task has a field out of its bounds")
    is_claimed = task.status == CLAIMED
    if cython.compiled:
        packed: bytes = packed_task(
            task.sequence,
            task.status,
            task.priority,
            task.attempt,
            task.max_attempts,
            task.created_ms,
            task.due_ms,
            is_claimed,
            task.token,
            task.holder,
            task.ticket,
            task.pid,
            payload,
            result,
            error,
            key,
        )
        return packed
    parts = payload, result, error, key
    raw = _TASK.pack(
        *(task.sequence, task.status, task.priority, task.attempt, task.max_attempts, task.created_ms, task.due_ms),
        *[_NONE if part is None else len(part) for part in parts],
    )
    if is_claimed:
        raw += _CLAIMED.pack(task.token, task.holder, task.ticket, task.pid)
    return raw + b"".join([part for part in parts if part is not None])


def decode_task(raw: bytes) -> Task:
    """The task in ``raw``; ``CorruptionError`` for other bytes: any process of the same user may have written them."""
    task = _decoded(raw)
    if task is None:
        raise CorruptionError("the record of a task", 0, "its fields", f"{len(raw)} bytes of something else")
    return task


def _decoded(raw: bytes) -> Task | None:
    if len(raw) < _TASK_BYTES:
        return None
    task = Task.__new__(Task)
    if cython.compiled:
        task.sequence, task.status, task.priority = word_at(raw, 0), byte_at(raw, 8), word_at(raw, 9)
        task.attempt, task.max_attempts = half_word_at(raw, 17), half_word_at(raw, 21)
        task.created_ms, task.due_ms = word_at(raw, 25), word_at(raw, 33)
    else:
        fields = _TASK.unpack_from(raw)
        task.sequence, task.status, task.priority, task.attempt, task.max_attempts = fields[:5]
        task.created_ms, task.due_ms = fields[5:7]
    at = _TASK_BYTES
    task.token = task.holder = task.ticket = task.pid = 0
    if task.status == CLAIMED:
        at += _CLAIM_BYTES
        if len(raw) < at:
            return None
        if cython.compiled:
            task.token, task.holder, task.ticket, task.pid = (
                word_at(raw, 49),
                word_at(raw, 57),
                word_at(raw, 65),
                word_at(raw, 73),
            )
        else:
            task.token, task.holder, task.ticket, task.pid = _CLAIMED.unpack_from(raw, _TASK_BYTES)
    parts: list[bytes | None] = []
    for which in range(4):
        if cython.compiled:  # noqa: SIM108 (as an expression mypy checks both)
            length = length_at(raw, 41 + 2 * which)
        else:
            length = fields[7 + which]
        if length == _NONE:
            parts.append(None)
        else:
            parts.append(raw[at : at + length])
            at += length
    is_sound = at == len(raw) and task.status <= CANCELLED and task.priority >= -_TOP_PRIORITY
    if not (is_sound and 0 <= task.sequence <= LATEST_MS and task.created_ms >= 0 and 0 <= task.due_ms <= LATEST_MS):
        return None
    task.payload, task.result, task.key = parts[0], parts[1], parts[3]
    try:
        task.error = None if parts[2] is None else parts[2].decode()
    except UnicodeDecodeError:
        return None
    return task


def ready_entry(task_id: bytes, task: Task) -> bytes:
    """Its entry in the set of ready tasks."""
    if cython.compiled:
        ready: bytes = packed_ready(task.priority, task.sequence, task_id)
        return ready
    return _ORDER.pack(_TOP_PRIORITY - task.priority, task.sequence) + task_id


def delayed_entry(task_id: bytes, task: Task) -> bytes:
    """Its entry in the set of delayed tasks."""
    if cython.compiled:
        delayed: bytes = packed_entry(task.due_ms, task.sequence, task_id)
        return delayed
    return _ORDER.pack(task.due_ms, task.sequence) + task_id


def entry_order(entry: bytes) -> int:
    """What an entry is ordered by first: of a delayed task, when it is due."""
    return int.from_bytes(entry[:_NUMBER_BYTES], "big")


def entry_id(entry: bytes) -> bytes:
    """The id of the task that an entry is of."""
    return entry[_ID_AT:]
