"""TaskQueue: tasks of a run that processes put, claim and complete.

``rules.queues`` has the records and the rules; the port ``Holding`` keeps what is claimed, and waits in line.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, TypeVar

from shoal.primitives.engine import AutoCommit
from shoal.primitives.facades.facade import Facade
from shoal.primitives.facades.task import Task
from shoal.primitives.keys import only
from shoal.primitives.rules import requests
from shoal.primitives.rules.queues import records
from shoal.primitives.rules.queues.queue_rules import MOST_CLAIMED
from shoal.primitives.views.fleet.queue import DEFAULT_ATTEMPTS, Claim, Together, check_puts
from shoal.primitives.views.fleet.tasks import (
    STORED,
    QueueStats,
    StoredTask,
    TaskInfo,
    TaskReader,
    TaskStatus,
    info_of,
    split_name,
    status_of,
    task_name,
)
from shoal.shm.arguments import check_count, check_positive_seconds, check_type, check_wait
from shoal.shm.codec import Value, stored
from shoal.shm.errors import NotFoundError
from shoal.shm.fleet_errors import NothingReadyError, TaskFailedError
from shoal.shm.host.randomness import random_id

T = TypeVar("T")

_PURGED_TOGETHER = 256


class TaskQueue(Facade[TaskReader]):
    """Named queues of tasks in a run. Each task is claimed by one process at a time, until it is completed.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     queue = shoal.TaskQueue(db)
    ...     task_id = queue.put("run-1", "mail", {"to": "a"})
    ...     with queue.claim("run-1", "mail", wait=5.0) as task:
    ...         task.complete({"sent": task.payload["to"]})
    ...     queue.result("run-1", task_id), queue.claim("run-1", "mail")
    ({'sent': 'a'}, None)

    ``db``: what ``shoal.open`` returns. ``namespace``: whose runs these are.

    Tasks of a higher priority are claimed first; of one priority, those that were put first. A claim is held, and
    renewed, until it is ended or its process ends; that counts at once, and ``ttl`` later if the process stops to
    answer. The task is claimable again then. After ``max_attempts`` attempts in vain it is Dead.

    The name of a queue, and a key, is a str of 1 to 1,024 bytes of UTF-8, any character; a payload and a result any
    value that ``KVStore`` stores. ``TypeError``, ``ValueError`` and ``LimitExceededError`` are raised before anything
    is sent.

    Any call may also raise ``InvalidOperationError`` (the database is closed, or a write to one that only reads),
    ``CoordinatorLostError``, ``StoreMovedError`` and ``CorruptionError`` (a record is none); a write
    ``StoreFullError``; a listing ``SnapshotExpiredError`` if it takes very long.
    """

    __slots__ = ()
    _view = TaskReader

    def put(
        self,
        run_id: str,
        queue: str,
        payload: Value,
        *,
        priority: int = 0,
        delay: float | None = None,
        key: str | None = None,
        max_attempts: int = DEFAULT_ATTEMPTS,
    ) -> str:
        """Put a task into a queue and return its id. Never conflicts.

        - ``priority`` (int): tasks of a higher one are claimed first.
        - ``delay`` (seconds): it is ready after this time; at once if None or 0.
        - ``key`` (str): while there is a task of this key in the queue that is not purged, whatever its status, its id
          is returned and nothing is put.
        - ``max_attempts`` (int, 1 at least): after so many attempts in vain it is Dead.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        base = self._views[run_id].base(queue)
        puts = check_puts(base, [payload], priority, delay, key, max_attempts)
        return task_name(queue, requests.put_tasks(self._engine, *puts)[0])

    def put_many(
        self,
        run_id: str,
        queue: str,
        payloads: Iterable[Value],
        *,
        priority: int = 0,
        delay: float | None = None,
        max_attempts: int = DEFAULT_ATTEMPTS,
    ) -> builtins.list[str]:
        """Put a task for each payload; their ids, in the same order.

        Up to 4,096 tasks, or 8 MiB of payloads, are put in one commit: all of them or none. More are put in several,
        one after the other, so that other commits do not wait for long. If one fails, those before it are done.

        The arguments are those of ``put``. Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad
        one; nothing is put then.
        """
        base = self._views[run_id].base(queue)
        puts = check_puts(base, payloads, priority, delay, None, max_attempts)
        requests.refuse_if_read_only(self._engine)
        for part in puts.parts():
            requests.put_tasks(self._engine, *part)
        return [task_name(queue, task_id) for task_id in puts.tasks[::2]]

    def claim(self, run_id: str, queue: str, *, ttl: float = 30.0, wait: float | None = 0.0) -> Task | None:
        """Claim the first task that is ready; None if there is none after ``wait`` seconds (None: wait for ever).

        Those that wait are served in the order of arrival, at the commit that makes a task ready, or at the time of a
        delayed one; nothing polls. ``ttl`` (seconds): how long the claim outlives the last sign of life of a process
        that does not answer. No two processes get the same task, and claims never conflict.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        claimed = self._claim(run_id, queue, 1, ttl, wait)
        return claimed[0] if claimed else None

    def claim_many(
        self, run_id: str, queue: str, limit: int, *, ttl: float = 30.0, wait: float | None = 0.0
    ) -> builtins.list[Task]:
        """Claim up to ``limit`` tasks (int, 1 at least) that are ready. It waits, as ``claim``, only if there is none.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        check_count("limit", limit, 1)
        tasks: builtins.list[Task] = []
        try:
            self._claim_into(tasks, run_id, queue, limit, ttl, wait)
        except BaseException:  # nobody has got those that were claimed before
            for task in tasks:
                task._release_later()
            raise
        return tasks

    def get(self, run_id: str, task_id: str) -> TaskInfo | None:
        """A task as it is now; None if there is none of this id, or it was purged. No process that has ended claims it.

        Raises ``TypeError`` for an id that is no str, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a
        bad run id.
        """
        return self._seeing_ends(
            lambda: None if (found := self._stored(run_id, task_id)) is None else info_of(*found),
            lambda info: info is not None and info.status is TaskStatus.Claimed,
        )

    def result(self, run_id: str, task_id: str, timeout: float | None = None) -> Any:
        """Wait until a task is done and return its result. ``timeout``: seconds; None waits for ever.

        Raises ``TimeoutError`` when the time is up, ``TaskFailedError`` if the task has ended Dead or Cancelled,
        ``NotFoundError`` if there is none of this id, or it was purged, and ``TypeError``, ``ValueError`` or
        ``LimitExceededError`` for a bad argument.
        """
        give_up_s = time.monotonic() + check_wait("timeout", timeout)
        self._views[run_id]
        where = split_name(task_id)
        if where is None:
            raise _not_found(task_id)
        key = self._views[run_id].base(where[0]) + records.TASK + where[1]
        found = self._engine.wait_for(lambda: self._ended(run_id, task_id), [only(key)], give_up_s)
        if found is None:
            raise TimeoutError(f"task {task_id!r} has not ended in time; it goes on; give a longer timeout, or None")
        return stored(found, f"the result of task {task_id!r}")

    def list(
        self, run_id: str, queue: str, status: TaskStatus | None = None, limit: int | None = None
    ) -> builtins.list[TaskInfo]:
        """The tasks of a queue, in the order in which they were put, at one moment.

        ``status`` (TaskStatus): only those. ``limit`` (int, 0 at least): the first so many.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        wanted = None if status is None else _check_status(status)
        most = float("inf") if limit is None else check_count("limit", limit, 0, ", or None")

        def look() -> tuple[builtins.list[TaskInfo], bool]:
            infos: builtins.list[TaskInfo] = []
            with self._snapshot(run_id) as txn:
                reader = TaskReader(txn._begun(), self.namespace, run_id)
                reader.base(queue)
                found = reader.tasks(queue) if wanted is None else reader.tasks_of(queue, wanted)
                for task_id, task in sorted(found, key=lambda each: each[1].sequence):
                    if len(infos) >= most:
                        break
                    infos.append(info_of(queue, reader.whole(queue, task_id, task)))
                return infos, reader.claimed(queue) > 0

        return self._seeing_ends(look, lambda found: found[1])[0]

    def stats(self, run_id: str, queue: str) -> QueueStats:
        """How many tasks of a queue have which status, at one moment.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """

        def look() -> QueueStats:
            with self._snapshot(run_id) as txn:
                return TaskReader(txn._begun(), self.namespace, run_id).stats(queue)

        return self._seeing_ends(look, lambda stats: stats.claimed > 0)

    def retry(self, run_id: str, task_id: str) -> None:
        """Have a Dead task be Ready again, at its old place, with all its attempts.

        Raises ``NotFoundError`` if there is none of this id, ``InvalidOperationError`` if it is not Dead, and
        ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        where = self._where(run_id, task_id)
        if where is None:
            raise _not_found(task_id)
        requests.retry_task(self._engine, where[0], task_id, where[1])

    def cancel(self, run_id: str, task_id: str) -> bool:
        """Cancel a task that has not ended; whether that was so. Who has claimed it loses the claim.

        False if there is none of this id. Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad
        argument.
        """
        where = self._where(run_id, task_id)
        return where is not None and requests.cancel_task(self._engine, *where)

    def purge(self, run_id: str, queue: str, status: TaskStatus) -> int:
        """Remove the tasks of a queue that have ``status``, and free their keys; how many it were.

        They are removed in slices, each in a commit of its own. Who has claimed one of them loses the claim.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        wanted = _check_status(status)
        key = self._views[run_id].base(queue) + records.QUEUE
        requests.refuse_if_read_only(self._engine)
        is_delayed = wanted is TaskStatus.Delayed
        purged, behind = 0, b""
        while True:
            found = self._views[run_id].tasks_of(queue, wanted, behind)
            ids = [task_id for task_id, _ in islice(found, _PURGED_TOGETHER)]
            if not ids:
                return purged
            behind = ids[-1]
            purged += requests.purge_tasks(self._engine, key, ids, STORED[wanted], is_delayed)

    @property
    def _engine(self) -> AutoCommit:
        return self._db._store.auto_commit

    def _seeing_ends(self, look: Callable[[], T], is_claimed: Callable[[T], bool]) -> T:
        """What ``look`` finds; again, if that is claimed, once the claims of those that have ended are seen as such."""
        found = look()
        if not is_claimed(found):
            return found
        self._db._store.holding.see_ends()
        return look()

    def _claim_into(
        self, tasks: builtins.list[Task], run_id: str, queue: str, limit: int, ttl: float, wait: float | None
    ) -> None:
        """Claim up to ``limit`` tasks, a part in each commit, and add them to ``tasks``; wait only for the first."""
        while len(tasks) < limit:
            part = min(limit - len(tasks), MOST_CLAIMED)
            claimed = self._claim(run_id, queue, part, ttl, 0.0 if tasks else wait)
            tasks += claimed
            if len(claimed) < part:
                return

    def _claim(self, run_id: str, queue: str, limit: int, ttl: float, wait: float | None) -> builtins.list[Task]:
        base = self._views[run_id].base(queue)
        ttl_s = check_positive_seconds("ttl", ttl)
        give_up_s = time.monotonic() + check_wait("wait", wait)
        holding = self._db._store.holding
        key, free = base + records.QUEUE, holding.free_tickets
        try:
            ticket = free.pop()
        except IndexError:
            ticket = random_id(), 0
        try:
            claimed = requests.claim_tasks(holding, key, queue, ttl_s, ticket, limit, give_up_s)
        except NothingReadyError:
            free.append(ticket)
            return []
        try:
            together = Together(holding, ticket[0], claimed[0][3], {task_id for task_id, *_ in claimed})
            return [self._claimed(run_id, queue, each, together) for each in claimed]
        except BaseException:  # a signal handler's, or a payload that cannot be read: nobody has got the tasks
            requests.unclaim_tasks(holding, key, ticket[0])
            raise

    def _claimed(self, run_id: str, queue: str, claimed: builtins.list[Any], together: Together) -> Task:
        """One task of those that were claimed ``together``."""
        task_id, payload, attempt, token = claimed
        base, name = self._views[run_id].base(queue), task_name(queue, task_id)
        if payload is None:
            # A long payload is not told. None: the task was purged at once; whoever uses it is told then.
            payload = self._views[run_id].body(base, task_id, records.PAYLOAD)
        value = None if payload is None else stored(payload, f"the payload of task {name!r}")
        claim = Claim(self._db._store.holding, base + records.QUEUE, name, task_id, token, together)
        return Task(self._engine, claim, run_id, queue, value, attempt)

    def _where(self, run_id: str, task_id: str) -> tuple[bytes, bytes] | None:
        """The key of the queue that a task is in, and its stored id, for a write."""
        where = split_name(task_id)
        self._views[run_id]
        requests.refuse_if_read_only(self._engine)
        return None if where is None else (self._views[run_id].base(where[0]) + records.QUEUE, where[1])

    def _stored(self, run_id: str, task_id: str) -> tuple[str, StoredTask] | None:
        """Queue and record of a task."""
        where, reader = split_name(task_id), self._views[run_id]
        found = None if where is None else reader.get(*where)
        return None if where is None or found is None else (where[0], found)

    def _ended(self, run_id: str, task_id: str) -> bytes | None:
        """The stored result of a task; None of one that has not ended. Raises what ``result`` raises."""
        found = self._stored(run_id, task_id)
        if found is None:
            raise _not_found(task_id)
        status = status_of(found[1].task)
        if status in (TaskStatus.Dead, TaskStatus.Cancelled):
            raise TaskFailedError(task_id, status, found[1].task.error)
        return found[1].result


def _not_found(task_id: str) -> NotFoundError:
    return NotFoundError(f"there is no task {task_id!r}; it may have been purged; give an id that put returned")


def _check_status(status: object) -> TaskStatus:
    return check_type("status", status, TaskStatus, "a shoal.TaskStatus")
