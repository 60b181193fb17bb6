"""One input of a fleet: its run, and the steps of its life, each one commit. ``shoal/fleet.py`` has what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xxhash import xxh3_128_hexdigest

from shoal.database import Database
from shoal.primitives.facades.leases import Lease
from shoal.primitives.run_types import RunMetadata, RunStatus
from shoal.primitives.transaction import Transaction
from shoal.primitives.views.events import restore as restore_events
from shoal.shm.limits import MAX_RUN_ID_BYTES

DONE = "done"
FAILED = "failed"

_RESULT = "result"
_ATTEMPTS = "attempts"
_LONGEST_ERROR = 10_000  # characters kept of an error's text
# All workers write the counters, so the commits that end inputs conflict. At each conflict another commit succeeds.
_MOST_CONFLICTS = 10_000


@dataclass(frozen=True)
class InputOutcome:
    """How one input ended. ``status``: ``DONE`` with a ``result``, or ``FAILED`` with an ``error``."""

    input: str
    status: str
    result: Any = None
    error: str | None = None


def fleet_run_id(function_name: str) -> str:
    """The id of a fleet's run, which holds what all calls of the function share."""
    run_id = f"fleet:{function_name}"
    if len(run_id.encode()) <= MAX_RUN_ID_BYTES:
        return run_id
    return f"fleet:{xxh3_128_hexdigest(function_name.encode())}"


def input_run_id(function_name: str, text: str) -> str:
    """The id of an input's run, a child of the fleet's, which holds what belongs to that input alone."""
    return hashed_run_id(fleet_run_id(function_name), text)


def hashed_run_id(fleet: str, text: str) -> str:
    """The id of the run of an input of the fleet whose run is ``fleet``."""
    return xxh3_128_hexdigest(f"{fleet}\0{text}".encode("utf-8", "surrogatepass"))


class InputRun:
    """The run of one input, and its steps, each in a transaction of its own."""

    def __init__(self, function_name: str, text: str) -> None:
        self._text = text
        self._fleet_run_id = fleet_run_id(function_name)
        self._run_id = input_run_id(function_name, text)

    def is_done(self, view: Transaction) -> bool:
        """Whether the input is done."""
        run = view.runs.get_run(self._run_id)
        return run is not None and self._ended_well(view, run)

    def outcome(self, view: Transaction) -> InputOutcome | None:
        """How the input ended; None if it has not ended, or was never begun."""
        run = view.runs.get_run(self._run_id)
        if run is None or run.status is RunStatus.Active:
            return None
        if self._ended_well(view, run):
            return InputOutcome(self._text, DONE, result=view.on(self._run_id).kv.get(_RESULT))
        if run.status is RunStatus.Failed:
            return InputOutcome(self._text, FAILED, error=run.error)
        error = f"its run {self._run_id} is {run.status.value}; resume or delete the run, then run the input again"
        return InputOutcome(self._text, FAILED, error=error)

    def attempts_failed(self, view: Transaction) -> int:
        """The number of attempts, if the input has failed; else 0."""
        run = view.runs.get_run(self._run_id)
        return self._attempts(view) if run is not None and run.status is RunStatus.Failed else 0

    def attempts(self, db: Database) -> int:
        """The number of attempts begun."""
        with db.snapshot(self._fleet_run_id) as view:
            return self._attempts(view)

    def lease(self, db: Database, ttl_s: float, wait_s: float | None) -> Lease:
        """Take the lease of the input, which the process that works on it holds."""
        return db.lease(self._fleet_run_id, self._run_id, ttl_s, wait_s)

    def begin(
        self, db: Database, attempts_failed: int | None = None, lease: Lease | None = None
    ) -> InputOutcome | None:
        """Begin an attempt and return None; or return the outcome if there is nothing to do.

        There is nothing to do either if the input has failed and has had more attempts than ``attempts_failed``: it
        failed after that number was read.
        """
        return db.transact(
            self._fleet_run_id, lambda txn: self._begin(txn, attempts_failed), _MOST_CONFLICTS, fence=lease
        )

    def finish(self, db: Database, result: Any, lease: Lease | None = None) -> InputOutcome:
        """Store the result unless the input has ended already; the outcome."""
        return db.transact(self._fleet_run_id, lambda txn: self._finish(txn, result), _MOST_CONFLICTS, fence=lease)

    def fail(self, db: Database, error: str, lease: Lease | None = None) -> InputOutcome:
        """Store the error unless the input has ended already; the outcome."""
        return db.transact(self._fleet_run_id, lambda txn: self._fail(txn, error), _MOST_CONFLICTS, fence=lease)

    def _begin(self, txn: Transaction, attempts_failed: int | None) -> InputOutcome | None:
        own = txn.on(self._run_id)
        run = txn.runs.get_run(self._run_id)
        attempt = self._attempts(txn) + 1
        if run is None:
            self._register(txn)
        elif run.status is RunStatus.Failed and (attempts_failed is None or attempt <= attempts_failed + 1):
            events = list(own.events.iter())
            txn.runs.delete_run(self._run_id)
            self._register(txn)
            restore_events(own.events, events)
            _count(txn, FAILED, -1)
        elif run.status is not RunStatus.Active:
            return self.outcome(txn)
        own.state.set(_ATTEMPTS, attempt)
        own.events.append("started", {"attempt": attempt})
        return None

    def _finish(self, txn: Transaction, result: Any) -> InputOutcome:
        ended = self.outcome(txn)
        if ended is not None:
            return ended
        own = txn.on(self._run_id)
        own.kv.put(_RESULT, result)
        txn.runs.complete_run(self._run_id)
        own.events.append("finished", {"attempt": self._attempts(txn)})
        _count(txn, DONE, 1)
        return InputOutcome(self._text, DONE, result=result)

    def _fail(self, txn: Transaction, error: str) -> InputOutcome:
        ended = self.outcome(txn)
        if ended is not None:
            return ended
        if txn.runs.get_run(self._run_id) is None:  # the worker was lost before it began an attempt
            self._register(txn)
        txn.runs.fail_run(self._run_id, error)
        txn.on(self._run_id).events.append("failed", {"attempt": self._attempts(txn), "error": error})
        _count(txn, FAILED, 1)
        return InputOutcome(self._text, FAILED, error=error)

    def _register(self, txn: Transaction) -> None:
        txn.runs.create_run(run_id=self._run_id, parent_run=self._fleet_run_id, metadata={"input": self._text})

    def _attempts(self, txn: Transaction) -> int:
        attempts = txn.on(self._run_id).state.read(_ATTEMPTS)
        return 0 if attempts is None else int(attempts.value)

    def _ended_well(self, view: Transaction, run: RunMetadata) -> bool:
        """Whether the run is Completed, or was archived after it had a result: archiving does not make it run again."""
        archived = run.status is RunStatus.Archived and view.on(self._run_id).kv.exists(_RESULT)
        return run.status is RunStatus.Completed or archived


def _count(txn: Transaction, status: str, by: int) -> None:
    """Change a counter of the fleet by ``by``; ``txn`` is a transaction on the fleet's run."""
    name = f"inputs/{status}"
    counter = txn.state.read(name)
    txn.state.set(name, (0 if counter is None else counter.value) + by)


def describe(error: BaseException) -> str:
    """Type and text of an exception, cut after ``_LONGEST_ERROR`` characters."""
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException as failure:  # __str__ of a user's exception may raise, or exit
        text = f"{type(error).__name__}, whose text cannot be read: {type(failure).__name__}"
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}..."
