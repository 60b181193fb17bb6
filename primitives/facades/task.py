"""A task that this process has claimed."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any, NoReturn

from shoal.primitives.engine import Engine, EngineTransaction
from shoal.primitives.rules import requests
from shoal.primitives.views.fleet.queue import Claim, error_text, retry_ms_of
from shoal.shm.arguments import text_of
from shoal.shm.codec import Value, encode
from shoal.shm.errors import ShoalError
from shoal.shm.fleet_errors import FencedError


class Task:
    """A task that this process has claimed: what ``TaskQueue.claim`` returns. It is renewed while it is held.

    - ``id``, ``run_id``, ``queue`` (str): which task.
    - ``payload`` (any storable value): as it was put.
    - ``attempt`` (int): 1 for the first claim; a claim that was released does not count.
    - ``token`` (int): higher than that of every claim of the queue before, and of no other in the store.

    A context manager: it completes the task at the end of the block, and fails it on an exception, which goes on. What
    was said inside with ``complete``, ``fail``, ``release`` or in a transaction (``txn.queue``) is final.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     queue = shoal.TaskQueue(db)
    ...     task_id = queue.put("run-1", "mail", {"to": "a"})
    ...     with queue.claim("run-1", "mail") as task:
    ...         db.transact("run-1", lambda txn: txn.kv.put("sent", task.payload["to"]), fence=task)
    ...     queue.get("run-1", task_id).status.name
    'Done'

    Each call raises ``FencedError`` once the claim is lost: the task was completed, failed or released already, was
    cancelled or purged, or the process did not answer for longer than ``ttl``. Another may have the task by then.
    """

    __slots__ = ("_claim", "_engine", "attempt", "id", "payload", "queue", "run_id", "token")

    def __init__(self, engine: Engine, claim: Claim, run_id: str, queue: str, payload: Value, attempt: int) -> None:
        self._engine = engine
        self._claim = claim
        self.id = claim.name
        self.run_id = text_of(run_id)
        self.queue = text_of(queue)
        self.payload = payload
        self.attempt = attempt
        self.token = claim.token

    def __enter__(self) -> Task:
        if self._claim.ended:  # the block would do the work again, and nobody would know
            raise FencedError(self._claim.name, self._claim.token)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._leave(error)
        except ShoalError:
            raise
        except BaseException:
            self._leave_later(error)
            raise

    def _leave(self, error: BaseException | None) -> None:
        if self._claim.ended:
            return
        if error is None:
            if not self._claim.is_said():
                self.complete()
            return
        with contextlib.suppress(FencedError):  # it is lost: the exception of the block counts more
            self.fail(error)

    def _leave_later(self, error: BaseException | None) -> None:
        """A signal handler has raised where nobody ends the claim any more: it ends soon, and this does not wait."""
        claim = self._claim
        if error is not None:
            claim.end_later(requests.failure(claim.arguments(), error_text(error), 0))
        elif not claim.is_said():
            claim.end_later(requests.completion(claim.arguments(), encode(None)))

    def __repr__(self) -> str:
        return f"<shoal.Task {self.id!r} attempt={self.attempt} token={self.token}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a task belongs to the process that claimed it and cannot be copied or pickled; claim one there"
        )

    def complete(self, result: Value = None) -> None:
        """The task is done; ``result`` is any storable value.

        Raises ``FencedError`` if the claim is lost, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a
        bad result.
        """
        raw = encode(result)
        with _Ending(self._claim) as claimed:
            requests.complete_task(self._engine, claimed, raw)

    def fail(self, error: str | BaseException, *, retry_in: float | None = None) -> None:
        """The attempt has failed: the task is ready again, after ``retry_in`` seconds. Dead after its last attempt.

        ``error``: a str of 4,096 characters at most, or an exception, of which type and text are kept.

        Raises ``FencedError`` if the claim is lost, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a
        bad argument.
        """
        text, retry_ms = error_text(error), retry_ms_of(retry_in)
        with _Ending(self._claim) as claimed:
            requests.fail_task(self._engine, claimed, text, retry_ms)

    def release(self) -> None:
        """Give the task back: it is ready again at its old place, and this was no attempt.

        Raises ``FencedError`` if the claim is lost.
        """
        with _Ending(self._claim) as claimed:
            requests.release_task(self._engine, claimed)

    def _release_later(self) -> None:
        """Nobody has got the task: it is given back soon, and this does not wait."""
        self._claim.end_later(requests.giving_back(self._claim.arguments()))

    def _require(self, transaction: EngineTransaction) -> None:
        requests.fence_task(transaction, self._claim.arguments())


class _Ending:
    """A call that ends a claim: what is kept for the claim goes if it succeeds, or if the claim is found to be lost."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim

    def __enter__(self) -> list[Any]:
        return self._claim.arguments()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None or isinstance(error, FencedError):
            self._claim.end()
