"""What puts and ends tasks: in a transaction (``txn.queue``), and by itself (``TaskQueue``).

In a transaction all of it is deferred: the coordinator decides it when the transaction commits, on the newest state. So
commits of many processes that put into one queue, or complete tasks of it, never conflict with each other.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from shoal.primitives.engine import EngineTransaction, Holding, Operation
from shoal.primitives.identifiers import new_id_bytes
from shoal.primitives.keys import Namespace, encode_text
from shoal.primitives.rules import requests
from shoal.primitives.rules.queues import records, task_record
from shoal.primitives.views.fleet.tasks import base_of, task_name
from shoal.primitives.views.view import Held, View
from shoal.shm.arguments import check_count, check_int, check_seconds
from shoal.shm.codec import Value, encode
from shoal.shm.errors import CorruptionError, LimitExceededError, shown
from shoal.shm.host.randomness import random_id
from shoal.shm.limits import MIB

_LONGEST_ERROR = 4096
MOST_ATTEMPTS = (1 << 31) - 1
MOST_PRIORITY = (1 << 63) - 1
DEFAULT_ATTEMPTS = 5
# What is put in one commit at most: other commits wait meanwhile, 0.1 s for so many tasks.
_PUT_TOGETHER = 4096
_PUT_TOGETHER_BYTES = 8 * MIB


class Puts(NamedTuple):
    """A checked put."""

    key: bytes  # of the queue
    options: tuple[int, int, int]
    user_key: bytes | None
    tasks: list[bytes]  # id, payload, ...

    def parts(self) -> Iterator[Puts]:
        """The same in parts that are put in a commit each."""
        part: list[bytes] = []
        size = 0
        for task_id, payload in zip(self.tasks[::2], self.tasks[1::2], strict=True):
            if part and (len(part) == 2 * _PUT_TOGETHER or size + len(payload) > _PUT_TOGETHER_BYTES):
                yield self._replace(tasks=part)
                part, size = [], 0
            part += (task_id, payload)
            size += len(payload)
        if part:
            yield self._replace(tasks=part)


def check_puts(
    base: bytes, payloads: Iterable[Value], priority: int, delay: float | None, key: str | None, max_attempts: int
) -> Puts:
    """The arguments of a put. Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for bad ones."""
    if not -MOST_PRIORITY <= check_int("priority", priority) <= MOST_PRIORITY:
        raise ValueError(f"priority is {shown(priority)}; give an int between -2**63 and 2**63")
    delay_ms = 0 if delay is None else int(check_seconds("delay", delay, ", or None") * 1000)
    if check_count("max_attempts", max_attempts, 1) > MOST_ATTEMPTS:
        raise ValueError(f"max_attempts is {shown(max_attempts)}; give a whole number from 1 to {MOST_ATTEMPTS:,}")
    if isinstance(payloads, (str, bytes, dict)) or not isinstance(payloads, Iterable):
        raise TypeError(f"payloads has type {type(payloads).__name__}; give a list of payloads, or use put for one")
    user_key = None if key is None else encode_text("key", key)
    tasks: list[bytes] = []
    for payload in payloads:
        tasks += (new_id_bytes(), encode(payload))
    return Puts(base + records.QUEUE, (priority, delay_ms, max_attempts), user_key, tasks)


def error_text(error: object) -> str:
    """What a task has as its error."""
    if isinstance(error, BaseException):
        try:
            text = f"{type(error).__name__}: {error}"
        except Exception as failure:  # __str__ of a user's exception may raise; the task has failed all the same
            text = f"{type(error).__name__}, whose text cannot be read: {type(failure).__name__}"
        text = text[:_LONGEST_ERROR]
    elif isinstance(error, str):
        text = error
    else:
        raise TypeError(f"error has type {type(error).__name__}; give a str or an exception")
    if len(text) > _LONGEST_ERROR:
        raise LimitExceededError("length of error in characters", _LONGEST_ERROR, len(text), "shorten it")
    return text.encode("utf-8", "replace").decode()  # the name of a file may have brought surrogates into it


def retry_ms_of(retry_in: float | None) -> int:
    """A pause before the next attempt, in ms."""
    return 0 if retry_in is None else int(check_seconds("retry_in", retry_in, ", or None") * 1000)


class Together:
    """The tasks that were claimed together with one ticket. The ticket is free again when the last one has ended.

    ``first_token``: that of the first task. Threads may end tasks at the same time. If it is not known when one of them
    ends, the ticket is never used again.
    """

    __slots__ = ("_first_token", "_holding", "_is_in_doubt", "_open_ids", "_ticket")

    def __init__(self, holding: Holding, ticket: int, first_token: int, open_ids: set[bytes]) -> None:
        self._holding = holding
        self._first_token = first_token
        self._open_ids = open_ids
        self._is_in_doubt = False
        self._ticket = [ticket]  # taken out once: a ticket must not name two claims

    def end(self, task_id: bytes, holder: int, is_in_doubt: bool = False) -> None:
        """A task is claimed no more by ``holder``, who claimed it; if that ``is_in_doubt``, soon."""
        self._is_in_doubt = self._is_in_doubt or is_in_doubt
        self._open_ids.discard(task_id)
        if not self._open_ids and self._holding.holder == holder:
            with contextlib.suppress(IndexError):
                ticket = self._ticket.pop()
                self._holding.forget(ticket)
                if not self._is_in_doubt:
                    self._holding.free_tickets.append((ticket, self._first_token))


class Claim(Held):
    """What this process has claimed: one task of those that were claimed ``together``.

    A transaction that completes or fails it says what becomes of it.
    """

    __slots__ = ("_holding", "_together", "ended", "holder", "name", "queue_key", "task_id", "token")

    def __init__(
        self, holding: Holding, queue_key: bytes, name: str, task_id: bytes, token: int, together: Together
    ) -> None:
        super().__init__()
        self._holding = holding
        self._together = together
        self.queue_key = queue_key
        self.name = name
        self.task_id = task_id
        self.token = token
        self.holder = holding.holder
        self.ended = False

    def arguments(self) -> list[Any]:
        """What says to a rule which task is held by whom. A forked child is another holder."""
        return [self.queue_key, self.name, self.task_id, self._holding.holder, self.token]

    def end(self) -> None:
        """The task was completed, failed or released, or is found to be lost."""
        self.ended = True
        self._together.end(self.task_id, self.holder)

    def end_later(self, ending: Operation) -> None:
        """A call that ends it was cut off: ``ending`` is performed soon, if it was not, and this does not wait."""
        self._holding.release_later(random_id(), ending)  # a ticket of its own: those of one claim end one by one
        self.ended = True
        self._together.end(self.task_id, self.holder, is_in_doubt=True)


def claim_of(task: object) -> Claim:
    """The claim in a task; ``TypeError`` for what is none."""
    claim = getattr(task, "_claim", None)
    if not isinstance(claim, Claim):
        raise TypeError(f"task has type {type(task).__name__}; give a shoal.Task that claim returned")
    return claim


class QueueView(View):
    """Tasks put, completed and failed in a transaction: ``txn.queue``. They are if the transaction commits.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     with db.transaction("run-1") as txn:
    ...         task_id = txn.queue.put("run", {"step": 1})
    ...     task = shoal.TaskQueue(db).claim("run-1", "run")
    ...     with db.transaction("run-1") as txn:
    ...         txn.kv.put("step", 1)
    ...         txn.queue.complete(task, "ok")
    ...     shoal.TaskQueue(db).result("run-1", task_id)
    'ok'

    Nothing here reads the queue, so it never conflicts, but for ``put`` with a ``key``. Any call may also raise
    ``InvalidOperationError`` (the transaction has ended, or only reads), ``SnapshotExpiredError`` (its snapshot was
    revoked) and ``CorruptionError`` (a record is none). ``Transaction`` says what the commit may raise.
    """

    __slots__ = ("_namespace", "_run_id")

    _engine: EngineTransaction

    def __init__(self, engine: EngineTransaction, namespace: Namespace, run_id: str) -> None:
        self._engine = engine
        self._namespace = namespace
        self._run_id = run_id

    def put(
        self,
        queue: str,
        payload: Value,
        *,
        priority: int = 0,
        delay: float | None = None,
        key: str | None = None,
        max_attempts: int = DEFAULT_ATTEMPTS,
    ) -> str:
        """Put a task if the transaction commits; its id. ``TaskQueue.put`` has the arguments.

        Whether there is a task of ``key`` is validated at commit. Raises ``TypeError``, ``ValueError`` or
        ``LimitExceededError`` for a bad argument.
        """
        base = base_of(self._namespace, self._run_id, queue)
        puts = check_puts(base, [payload], priority, delay, key, max_attempts)
        requests.refuse_if_read_only(self._engine)
        task_id = puts.tasks[0]
        if puts.user_key is not None:
            found = self._engine.find(base + records.KEY + puts.user_key)
            if found is not None:
                return task_name(queue, checked_id(found.value))
            self._engine.put(base + records.KEY + puts.user_key, task_id)
        requests.put_tasks_later(self._engine, *puts)
        return task_name(queue, task_id)

    def complete(self, task: Any, result: Value = None) -> None:
        """Complete a task that this process has claimed, with a storable ``result``, in this commit.

        ``task``: the ``Task``, of any run. The commit raises ``FencedError`` if the claim is lost by then; nothing is
        written then. Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        claim = claim_of(task)
        requests.complete_task_later(self._engine, claim.arguments(), encode(result), claim.end)
        claim.said_in = weakref.ref(self._engine)

    def fail(self, task: Any, error: str | BaseException, *, retry_in: float | None = None) -> None:
        """Have the attempt of a task that this process has claimed be failed by this commit; as ``Task.fail``.

        The commit raises ``FencedError`` if the claim is lost by then; nothing is written then. Raises ``TypeError``,
        ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        claim = claim_of(task)
        text, retry_ms = error_text(error), retry_ms_of(retry_in)
        requests.fail_task_later(self._engine, claim.arguments(), text, retry_ms, claim.end)
        claim.said_in = weakref.ref(self._engine)


def checked_id(raw: bytes) -> bytes:
    """A stored id. ``CorruptionError`` for other bytes."""
    if len(raw) != task_record.ID_BYTES:
        raise CorruptionError("the key of a task", 0, "an id of 16 bytes", f"{len(raw)} bytes")
    return raw
