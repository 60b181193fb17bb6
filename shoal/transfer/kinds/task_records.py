"""The records of tasks in an export.

    task        id sequence status priority attempt max_attempts created_at due_at payload result error key

``id`` has the queue in it. ``status`` is as in ``shoal.TaskStatus``; a task that waits is Ready, and ``due_at`` says
from when on (ms since the epoch, 0: at once); of a task that has ended, when that was. Who has claimed a task is not in
an export: a claim is of a process, so an import has the task as if that process had ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from shoal.primitives.engine import Engine
from shoal.primitives.keys import Namespace, encode_text, sized
from shoal.primitives.rules import requests
from shoal.primitives.rules.queues import records, task_record
from shoal.primitives.views.fleet.queue import MOST_ATTEMPTS, MOST_PRIORITY, error_text
from shoal.primitives.views.fleet.tasks import STORED, TaskReader, TaskStatus, base_of, split_name, task_name
from shoal.shm.codec import encode, stored
from shoal.transfer.fields import Fields, RecordKind, check_count_on, check_names, check_whole

# What a task changes beside its own record: pages of a set, and the queue's record.
_BESIDE_BYTES = 8192
_EXPORTED = {number: status for status, number in STORED.items() if status is not TaskStatus.Delayed}


class TaskFact(NamedTuple):
    """A task when the export was made."""

    id: str
    sequence: int
    status: str
    priority: int
    attempt: int
    max_attempts: int
    created_at: int
    due_at: int
    payload: Any
    result: Any
    error: str | None
    key: str | None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.id

    @property
    def sort_key(self) -> bytes:
        """The order of tasks in an export."""
        queue, task_id = _where(self.id)
        return sized(queue.encode()) + task_id


def tasks(engine: Engine, namespace: Namespace, run_id: str) -> Iterator[TaskFact]:
    """The tasks of a run, by queue, then id."""
    reader = TaskReader(engine, namespace, run_id)
    for queue in reader.queues():
        for task_id, task in reader.tasks(queue):
            found, name = reader.whole(queue, task_id, task), task_name(queue, task_id)
            yield TaskFact(
                name,
                task.sequence,
                _EXPORTED[task.status].value,
                task.priority,
                task.attempt,
                task.max_attempts,
                task.created_ms,
                task.due_ms,
                stored(found.payload, f"the payload of task {name!r}"),
                None if found.result is None else stored(found.result, f"the result of task {name!r}"),
                task.error,
                None if task.key is None else task.key.decode(),
            )


def show(task: TaskFact) -> Fields:
    """Its fields."""
    return task._asdict()


def make(run_id: str, fields: Fields) -> TaskFact:
    """The task of these fields; ``TypeError``, ``ValueError`` or ``LimitExceededError`` for others."""
    check_names("task", fields, TaskFact._fields)
    for name, least in {"sequence": 1, "attempt": 0, "max_attempts": 1, "created_at": 0, "due_at": 0}.items():
        check_whole(name, fields[name], least)
    check_count_on("sequence", fields["sequence"])
    if fields["due_at"] > task_record.LATEST_MS:
        raise ValueError(f"due_at is {fields['due_at']}, not 2**62 at most")
    check_whole("priority", fields["priority"], -MOST_PRIORITY)
    if max(fields["attempt"], fields["max_attempts"]) > MOST_ATTEMPTS:
        raise ValueError(f"attempt and max_attempts are not {MOST_ATTEMPTS:,} at most")
    if fields["status"] not in [status.value for status in _EXPORTED.values()]:
        raise ValueError(f"status is {fields['status']!r:.100}, not that of a task of an export")
    if fields["error"] is not None:
        error_text(fields["error"])
    if fields["key"] is not None:
        encode_text("key", fields["key"])
    _where(fields["id"])
    return TaskFact(**fields)


def size(prefix: bytes, task: TaskFact) -> int:
    """A bound of the bytes it takes in a commit."""
    texts = 4 * len(task.id.encode()) + 2 * len((task.key or "").encode()) + len((task.error or "").encode())
    return 8 * len(prefix) + texts + len(encode(task.payload)) + len(encode(task.result)) + _BESIDE_BYTES


def restore(engine: Engine, namespace: Namespace, run_id: str, task: TaskFact) -> None:
    """Write it; ``AlreadyExistsError`` if it is there."""
    queue, task_id = _where(task.id)
    status = STORED[TaskStatus(task.status)]
    fields: list[Any] = [
        task.sequence,
        status,
        task.priority,
        task.attempt,
        task.max_attempts,
        task.created_at,
        task.due_at,
    ]
    fields += [encode(task.payload), encode(task.result) if status == task_record.DONE else None, task.error]
    fields.append(None if task.key is None else task.key.encode())
    requests.restore_task(engine, base_of(namespace, run_id, queue) + records.QUEUE, task.id, task_id, fields)


def _where(name: object) -> tuple[str, bytes]:
    where = split_name(name) if isinstance(name, str) else None
    if where is None:
        raise ValueError(f"id is {name!r:.100}, not that of a task")
    return where


KIND = RecordKind(show, make, size, tasks, restore, lambda task: (task.sort_key, 0))
