"""The records of a queue and its tasks, and their keys.

    base        the run's prefix, the tag QUEUE, the queue's name with its length in front (``keys.sized``)
    queue       base, 0               msgpack of the fields of ``Queue``: counts, and where the sets of tasks begin
    task        base, 1, id           msgpack of the fields of ``Task``; id: the 16 bytes of a UUID
    body        base, 2, id, which    a payload (0) or result (1) of more than 1 KiB; a shorter one is in the task
    page        base, 3, number       a page of a set (``ordered_pages``); the number has 8 bytes
    key         base, 4, user's key   the id of the task that was put under it
    claim       base, 5, ticket       not a record: the held key in the index of holders, whose entry has the ids of
                                      the tasks claimed; the ticket has 8 bytes

Sets. A task that waits is in one of two: the ready one, in the order of (priority, high first; sequence number), or the
delayed one, in the order of (time when it is due; sequence number). A claim moves what is due from the second to the
first. The record of the task does not say in which it is: that would cost a write.

Invariants: each operation leaves counts, sets, tasks and the index of holders as one whole, in one commit. A queue
without tasks has no record at all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from shoal.primitives.rules.queues.ordered_pages import OrderedPages, Pages
from shoal.shm import codec, holder_index
from shoal.shm.errors import CorruptionError
from shoal.shm.operation import Read, VersionedValue, Write

WAITING, CLAIMED, DONE, DEAD, CANCELLED = range(5)
QUEUE, TASK, BODY, PAGE, KEY, CLAIM = (bytes((kind,)) for kind in range(6))
PAYLOAD, RESULT = b"\0", b"\1"
ID_BYTES = 16
_NUMBER_BYTES = 8
_INLINE_BYTES = 1024
_TOP_PRIORITY = (1 << 63) - 1
_QUEUE_FIELDS = 14
_NUMBERS = {int}
_BYTES = {bytes, type(None)}
_TEXT = {str, type(None)}
_LARGEST = (1 << 63) - 1
_DEEPEST = 32  # levels of pages; more entries than could ever be there


class Task(NamedTuple):
    """A task as it is stored. Times are ms since the epoch, 0 for none."""

    sequence: int  # in the queue, from 1 on
    status: int
    priority: int
    attempt: int
    max_attempts: int
    created_ms: int
    due_ms: int  # when it becomes ready, as it was put or has failed
    token: int  # of the claim, 0 if nobody has claimed it
    holder: int
    ticket: int
    pid: int
    payload: bytes | None  # None: see ``body``
    result: bytes | None
    error: str | None
    key: bytes | None  # the user's


def decode_task(raw: bytes) -> Task:
    """The task in ``raw``; ``CorruptionError`` for other bytes."""
    try:
        task = Task(*codec.unpackb(raw))
    except (ValueError, TypeError):
        task = None
    if task is None or not _is_sound(task):
        raise CorruptionError("the record of a task", 0, "its fields", f"{len(raw)} bytes of something else")
    return task


def _is_sound(task: Task) -> bool:
    """Whether every part is of its type and within its bounds: any process of the same user may have written them."""
    numbers, (payload, result, error, key) = task[:11], task[11:]
    if set(map(type, numbers)) != _NUMBERS or task.status > CANCELLED or task.priority > _TOP_PRIORITY:
        return False
    others = numbers[:2] + numbers[3:]
    parts = type(error) in _TEXT and {type(payload), type(result), type(key)} <= _BYTES
    return parts and min(others) >= 0 and max(others) <= _LARGEST


def body_key(base: bytes, task_id: bytes, which: bytes) -> bytes:
    """The key of a long payload or result."""
    return base + BODY + task_id + which


def ready_entry(task_id: bytes, task: Task) -> bytes:
    """Its entry in the set of ready tasks."""
    return _entry(_TOP_PRIORITY - task.priority, task.sequence, task_id)


def delayed_entry(task_id: bytes, task: Task) -> bytes:
    """Its entry in the set of delayed tasks."""
    return _entry(task.due_ms, task.sequence, task_id)


def _entry(order: int, sequence: int, task_id: bytes) -> bytes:
    return order.to_bytes(_NUMBER_BYTES, "big") + sequence.to_bytes(_NUMBER_BYTES, "big") + task_id


def entry_order(entry: bytes) -> int:
    """What an entry is ordered by first: of a delayed task, when it is due."""
    return int.from_bytes(entry[:_NUMBER_BYTES], "big")


def entry_id(entry: bytes) -> bytes:
    """The id of the task that an entry is of."""
    return entry[-ID_BYTES:]


class Queue:
    """A queue while an operation is decided, or while it is read. ``writes`` has what the operation changes."""

    __slots__ = ("_read", "_writes", "base", "counts", "delayed", "key", "last_page", "ready", "sequence")

    def __init__(self, read: Read, key: bytes) -> None:
        self.key = key
        self.base = key[:-1]
        self._read = read
        self._writes: dict[bytes, Write] = {}
        found = read(key)
        fields: list[int] = [0] * _QUEUE_FIELDS if found is None else _decode_queue(found.value)
        self.sequence, self.last_page = fields[:2]
        pages = Pages(self._page, self._put_page, self._new_page)
        self.ready = OrderedPages(pages, *fields[2:5])
        self.delayed = OrderedPages(pages, *fields[5:8])
        # How many tasks wait in each set, and how many there are of each other status.
        self.counts: list[int] = fields[8:]

    def writes(self) -> list[Write]:
        """What was changed, the queue's own record last. Nothing of a queue without tasks is left."""
        ready, delayed = self.ready, self.delayed
        fields = [self.sequence, self.last_page, ready.root, ready.depth, ready.first]
        fields += [delayed.root, delayed.depth, delayed.first, *self.counts]
        raw = codec.pack(fields) if any(self.counts) else None
        return [*self._writes.values(), Write(self.key, raw, 0)]

    def get(self, key: bytes) -> VersionedValue | None:
        """What a key holds, the changes of this operation included."""
        write = self._writes.get(key)
        if write is None:
            return self._read(key)
        return None if write.value is None else VersionedValue(write.value, 0, 0)

    def put(self, key: bytes, value: bytes | None) -> None:
        """Write a key, or delete it."""
        self._writes[key] = Write(key, value, 0)

    def task(self, task_id: bytes) -> Task | None:
        """A task of this queue."""
        found = self.get(self.base + TASK + task_id)
        return None if found is None else decode_task(found.value)

    def put_task(self, task_id: bytes, task: Task) -> None:
        """Write the record of a task."""
        self.put(self.base + TASK + task_id, codec.pack(task))

    def store_body(self, task_id: bytes, which: bytes, body: bytes) -> bytes | None:
        """What the task's record has of a payload or result: a long one is written beside it, and is None there."""
        if len(body) <= _INLINE_BYTES:
            return body
        self.put(body_key(self.base, task_id, which), body)
        return None

    def claimed_ids(self, holder: int, ticket: int) -> list[bytes]:
        """The tasks that ``holder`` has claimed with ``ticket``, as its entry says."""
        found = self.get(self.entry_key(holder, ticket))
        if found is None:
            return []
        return _decode_entry(found.value)[1]

    def entry_key(self, holder: int, ticket: int) -> bytes:
        """The key of a claim's entry in the index of holders."""
        return holder_index.entry_key(holder, self.base + CLAIM + ticket.to_bytes(_NUMBER_BYTES, "big"))

    def leave_entry(self, task_id: bytes, task: Task) -> None:
        """A task is not claimed any more: take it out of its entry, and delete that with the last one."""
        key = self.entry_key(task.holder, task.ticket)
        found = self.get(key)
        if found is not None:
            ttl_ms, ids = _decode_entry(found.value)
            left = [each for each in ids if each != task_id]
            self.put(key, codec.pack([ttl_ms, *left]) if left else None)

    def _page(self, number: int) -> bytes:
        found = self.get(self._page_key(number))
        if found is None or not found.value:
            raise CorruptionError("the record of a queue", 0, f"page {number}", "none")
        return found.value

    def _put_page(self, number: int, page: bytes | None) -> None:
        self.put(self._page_key(number), page)

    def _new_page(self) -> int:
        self.last_page += 1
        return self.last_page

    def _page_key(self, number: int) -> bytes:
        return self.base + PAGE + number.to_bytes(_NUMBER_BYTES, "big")


def _decode_queue(raw: bytes) -> list[int]:
    try:
        fields: Any = codec.unpackb(raw)
    except ValueError:
        fields = None
    are_numbers = type(fields) is list and len(fields) == _QUEUE_FIELDS and set(map(type, fields)) == _NUMBERS
    if are_numbers and min(fields) >= 0 and max(fields) <= _LARGEST and max(fields[3], fields[6]) <= _DEEPEST:
        return list(fields)
    raise CorruptionError("the record of a queue", 0, "its fields", f"{len(raw)} bytes of something else")


def _decode_entry(raw: bytes) -> tuple[int, list[bytes]]:
    """The ttl in ms, and the ids of the tasks, of a claim's entry in the index of holders."""
    try:
        ttl_ms, *ids = codec.unpackb(raw)
    except (ValueError, TypeError):
        ttl_ms, ids = None, []
    if type(ttl_ms) is int and all(type(each) is bytes and len(each) == ID_BYTES for each in ids):
        return ttl_ms, ids
    raise CorruptionError("the entry of a claim", 0, "a ttl and ids", f"{len(raw)} bytes of something else")
