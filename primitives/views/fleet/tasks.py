"""The types of ``TaskQueue``, and how the tasks of one run are read. ``rules.queues.records`` has the records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile
from typing import Any, NamedTuple

from shoal.primitives.engine import Engine
from shoal.primitives.identifiers import id_bytes, id_text
from shoal.primitives.keys import Namespace, Tag, after, encode_text, sized
from shoal.primitives.rules.queues import records, task_record
from shoal.primitives.rules.queues.records import Queue
from shoal.primitives.rules.queues.task_record import Task
from shoal.shm.arguments import check_str, text_of
from shoal.shm.clock import now_ms
from shoal.shm.codec import stored
from shoal.shm.errors import CorruptionError, LimitExceededError

_TAG = bytes((Tag.QUEUE,))
_BETWEEN = "/"
_BASES_KEPT = 256


class TaskStatus(StrEnum):
    """The status of a task. Each is a str equal to its name, so it can be printed, compared and exported as text.

    Ready, Delayed (ready at its time) and Claimed tasks have not ended. Done has a result. Dead has failed as often as
    it may. Cancelled was cancelled.

    >>> TaskStatus.Done == "Done"
    True
    """

    Ready = "Ready"
    Delayed = "Delayed"
    Claimed = "Claimed"
    Done = "Done"
    Dead = "Dead"
    Cancelled = "Cancelled"


# What the records have for each.
STORED = {
    TaskStatus.Ready: task_record.WAITING,
    TaskStatus.Delayed: task_record.WAITING,
    TaskStatus.Claimed: task_record.CLAIMED,
    TaskStatus.Done: task_record.DONE,
    TaskStatus.Dead: task_record.DEAD,
    TaskStatus.Cancelled: task_record.CANCELLED,
}
_BY_STORED = {stored_status: status for status, stored_status in STORED.items() if stored_status != task_record.WAITING}


@dataclass(frozen=True)
class TaskInfo:
    """A task as it is now.

    - ``id`` (str): what ``put`` returned.
    - ``queue`` (str), ``payload`` (any storable value), ``priority`` (int), ``max_attempts`` (int): as it was put.
    - ``status`` (TaskStatus).
    - ``attempt`` (int): how often it was claimed, but for claims that were released; 0 of a new one.
    - ``created_at`` (int): when it was put, ms since the epoch (UTC).
    - ``result`` (any storable value): of a task that is Done, else None.
    - ``error`` (str or None): what its last attempt failed with; None once it is Done.

    >>> TaskInfo("mail/1", "mail", TaskStatus.Ready, {"to": "a"}, 0, 0, 5, 1_700_000_000_000, None, None).status.name
    'Ready'
    """

    id: str
    queue: str
    status: TaskStatus
    payload: Any
    priority: int
    attempt: int
    max_attempts: int
    created_at: int
    result: Any
    error: str | None


@dataclass(frozen=True)
class QueueStats:
    """How many tasks of a queue have which status, at one moment; each an int.

    >>> QueueStats(ready=2, delayed=0, claimed=1, done=10, dead=0).ready
    2
    """

    ready: int
    delayed: int
    claimed: int
    done: int
    dead: int


class StoredTask(NamedTuple):
    """A task as it is stored, with its id and its long parts."""

    task_id: bytes
    task: Task
    payload: bytes
    result: bytes | None


def base_of(namespace: Namespace, run_id: str, queue: str) -> bytes:
    """What every key of a queue begins with. Raises ``TypeError``, ``ValueError`` or ``LimitExceededError``."""
    return namespace._run_prefix(run_id) + _TAG + sized(encode_text("queue", queue))


def task_name(queue: str, task_id: bytes) -> str:
    """The id of a task as users know it: the queue is in it, so a task is found by its id alone."""
    return text_of(queue) + _BETWEEN + id_text(task_id)


def split_name(task_id: str) -> tuple[str, bytes] | None:
    """Queue and stored id of a task; None of a text that is no id of any. ``TypeError`` for what is no str."""
    queue, _, text = check_str("task_id", task_id, " that put returned").rpartition(_BETWEEN)
    try:
        found = id_bytes(text)
        encode_text("queue", queue)
    except (ValueError, LimitExceededError):
        return None
    return (queue, found) if id_text(found) == text else None


class TaskReader:
    """Reads the tasks of one run. Over a snapshot all that it reads is of one moment."""

    def __init__(self, engine: Engine, namespace: Namespace, run_id: str) -> None:
        namespace._run_prefix(run_id)  # a bad run id is refused here
        self._engine = engine
        self._namespace = namespace
        self._run_id = run_id
        self._bases: dict[str, bytes] = {}

    def base(self, queue: str) -> bytes:
        """``base_of`` a queue of the run, which is kept."""
        known = self._bases.get(queue) if type(queue) is str else None
        if known is None:
            known = base_of(self._namespace, self._run_id, queue)
            if len(self._bases) >= _BASES_KEPT:
                self._bases.clear()
            self._bases[text_of(queue)] = known
        return known

    def get(self, queue: str, task_id: bytes) -> StoredTask | None:
        """A task, or None."""
        base = self.base(queue)
        found = self._engine.find(base + records.TASK + task_id)
        return None if found is None else self._whole(base, task_id, task_record.decode_task(found.value))

    def tasks(self, queue: str, behind: bytes = b"") -> Iterator[tuple[bytes, Task]]:
        """Id and record of the tasks of a queue whose id is greater than ``behind``, by id."""
        prefix = self.base(queue) + records.TASK
        lower = prefix + behind + b"\0" if behind else prefix
        for key, found in self._engine.scan(lower, after(prefix)):
            yield key[len(prefix) :], task_record.decode_task(found.value)

    def tasks_of(self, queue: str, status: TaskStatus, behind: bytes = b"") -> Iterator[tuple[bytes, Task]]:
        """Those of ``tasks`` that have ``status``. It looks no further than the last one that the queue counts."""
        left = self._counts(queue)[STORED[status]]
        for task_id, task in self.tasks(queue, behind) if left else ():
            if task.status == STORED[status]:
                if status_of(task) is status:
                    yield task_id, task
                left -= 1
                if not left:
                    return

    def claimed(self, queue: str) -> int:
        """How many tasks of a queue are claimed."""
        return self._counts(queue)[task_record.CLAIMED]

    def whole(self, queue: str, task_id: bytes, task: Task) -> StoredTask:
        """A task with its long parts; ``CorruptionError`` if one is missing."""
        found = self._whole(self.base(queue), task_id, task)
        if found is None:
            raise CorruptionError(f"task {task_name(queue, task_id)!r}", 0, "a payload, and a result if done", "none")
        return found

    def queues(self) -> Iterator[str]:
        """The names of the queues of the run that have tasks, by length, then name."""
        prefix = self._namespace._run_prefix(self._run_id) + _TAG
        lower, upper = prefix, after(prefix)
        while (key := next((key for key, _ in self._engine.scan(lower, upper)), None)) is not None:
            start = len(prefix) + 2
            name = key[start : start + int.from_bytes(key[len(prefix) : start], "big")]
            yield name.decode()
            lower = after(key[: start + len(name)])

    def stats(self, queue: str) -> QueueStats:
        """The counts of a queue."""
        found = self._record(queue)
        ready, delayed, claimed, done, dead, _ = found.counts
        now = now_ms()
        due = 0
        if found.due_ms and found.due_ms <= now:
            entries = found.delayed().entries()
            due = sum(1 for _ in takewhile(lambda entry: task_record.entry_order(entry) <= now, entries))
        return QueueStats(ready + due, delayed - due, claimed, done, dead)

    def _record(self, queue: str) -> Queue:
        return Queue(self._engine.find, self.base(queue) + records.QUEUE)

    def _counts(self, queue: str) -> dict[int, int]:
        """How many tasks of a queue have each stored status."""
        ready, delayed, *ended = self._record(queue).counts
        return {task_record.WAITING: ready + delayed, **dict(enumerate(ended, task_record.CLAIMED))}

    def _whole(self, base: bytes, task_id: bytes, task: Task) -> StoredTask | None:
        payload, result = task.payload, task.result
        if payload is None:
            payload = self.body(base, task_id, records.PAYLOAD)
        if result is None and task.status == task_record.DONE:
            result = self.body(base, task_id, records.RESULT)
        if payload is None or (result is None and task.status == task_record.DONE):
            return None  # it was purged since it was read
        return StoredTask(task_id, task, payload, result)

    def body(self, base: bytes, task_id: bytes, which: bytes) -> bytes | None:
        """A long payload or result."""
        found = self._engine.find(records.body_key(base, task_id, which))
        return None if found is None else found.value


def status_of(task: Task) -> TaskStatus:
    """The status of a task at this moment."""
    if task.status == task_record.WAITING:
        return TaskStatus.Delayed if task.due_ms > now_ms() else TaskStatus.Ready
    return _BY_STORED[task.status]


def info_of(queue: str, found: StoredTask) -> TaskInfo:
    """What users see of a task."""
    name, task = task_name(queue, found.task_id), found.task
    return TaskInfo(
        name,
        text_of(queue),
        status_of(task),
        stored(found.payload, f"the payload of task {name!r}"),
        task.priority,
        task.attempt,
        task.max_attempts,
        task.created_ms,
        None if found.result is None else stored(found.result, f"the result of task {name!r}"),
        task.error,
    )
