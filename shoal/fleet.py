"""``shoal run``: a durable parallel map. Each input's outcome is stored as soon as it is known.

A fleet is a registered run. Each input is a registered child run of it:

    fleet:MODULE:FUNCTION   the fleet; if that is longer than a run id may be, ``fleet:`` and its hash
        metadata            {"function": MODULE:FUNCTION}
        status              Active: there may always be more inputs
        cells               inputs/done, inputs/failed: the number of inputs that are done, and that have failed
    hash                    an input: xxh3-128, in hex, of the fleet's run id, NUL, and the input
        metadata            {"input": the input}
        status              Active while it is worked on, then Completed, or Failed with the error
        key                 result: the value that the function returned, if the input is done
        cell                attempts: the number of attempts begun
        events              started, finished, failed; payload {"attempt": number}, with "error": text in ``failed``

- Each step is one commit, so status, result, event and counters always agree.
- A process holds the claim on an input (``claims``) from before the attempt begins until the outcome is stored. So two
  fleets at once call the function once for each input.
- A claim ends with its process. If a kill cuts an attempt short, the input is Active and not claimed, and is begun
  again.
- A fleet that finds an input claimed works on the others first, then waits for the claim and returns the stored
  outcome. An input that failed meanwhile is not run again; the number of attempts shows that.
- Only an Active input can be ended, so it ends once. An input that is done is never run again.
- A Failed run cannot become Active again. So the commit that begins the next attempt deletes it and registers it anew:
  it has the same id, its event log goes on, and all else that was in the run is gone.
- A run that was paused, cancelled or archived by someone else is left alone.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_hexdigest

from shoal.claims import claimed, holder
from shoal.database import Database
from shoal.primitives.facades.run_index import RunIndex
from shoal.primitives.run_types import RunMetadata, RunStatus
from shoal.primitives.transaction import Transaction
from shoal.primitives.views.events import restore as restore_events
from shoal.shm.arguments import check_plain_function, check_plain_result
from shoal.shm.codec import encode
from shoal.shm.errors import AlreadyExistsError, CoordinatorLostError, ShoalError
from shoal.shm.limits import MAX_RUN_ID_BYTES
from shoal.worker_pool import WorkerPool
from shoal.workers.pool.worker import current_database

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


def load_function(name: str) -> Callable[[str], Any]:
    """The function named ``MODULE:FUNCTION``, looked for in the current directory first; ``ValueError`` if none."""
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise ValueError(f"{name!r} is not MODULE:FUNCTION; give a module and a function in it, such as fleet:work")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # importing a module runs any code
        raise ValueError(
            f"{name!r} cannot be loaded: {_describe(error)}; "
            f"modules are looked for in {here} first, then where this Python finds its own"
        ) from error
    try:
        check_plain_function(repr(name), found)
    except TypeError as error:
        raise ValueError(str(error)) from error
    function: Callable[[str], Any] = found
    return function


def fleet_run_id(function_name: str) -> str:
    """The id of a fleet's run, which holds what all calls of the function share."""
    run_id = f"fleet:{function_name}"
    if len(run_id.encode()) <= MAX_RUN_ID_BYTES:
        return run_id
    return f"fleet:{xxh3_128_hexdigest(function_name.encode())}"


def input_run_id(function_name: str, text: str) -> str:
    """The id of an input's run, a child of the fleet's, which holds what belongs to that input alone."""
    return xxh3_128_hexdigest(f"{fleet_run_id(function_name)}\0{text}".encode("utf-8", "surrogatepass"))


class Fleet:
    """One function over many inputs."""

    def __init__(self, db: Database, function_name: str) -> None:
        self._db = db
        self._function_name = function_name
        self._run_id = fleet_run_id(function_name)

    def outcome(self, text: str) -> InputOutcome | None:
        """How an input ended, None if it has not."""
        with self._db.snapshot(self._run_id) as view:
            return _InputRun(self._function_name, text).outcome(view)

    def to_do(self, inputs: list[str]) -> list[str]:
        """The inputs that are not done, each once, in order."""
        with self._db.snapshot(self._run_id) as view:
            return [text for text in dict.fromkeys(inputs) if not _InputRun(self._function_name, text).is_done(view)]

    def run(
        self, pool: WorkerPool, inputs: list[str], on_wait: Callable[[dict[str, int | None]], None] = lambda _: None
    ) -> Iterator[InputOutcome]:
        """Run the function over ``inputs``; yields outcomes as they come, each after it is stored.

        If the store refuses even the error of an input (it is full), that outcome is yielded without being stored, and
        the input stays to do. For an input that another process works on, the outcome is the one that process stores.
        ``on_wait`` is called when nothing is left but such inputs, with them and the process that has each.
        """
        with contextlib.suppress(AlreadyExistsError):
            RunIndex(self._db).create_run(run_id=self._run_id, metadata={"function": self._function_name})
        with self._db.snapshot(self._run_id) as view:
            failed = {text: _InputRun(self._function_name, text).attempts_failed(view) for text in inputs}

        def submitted(texts: Iterable[str], wait: bool) -> dict[Future[InputOutcome | None], str]:
            name = self._function_name  # stands for the task in messages
            return {pool._submit(_run_input, (name, text, failed[text], wait), {}, name): text for text in texts}

        futures = submitted(inputs, wait=False)
        claimed_elsewhere: dict[Future[InputOutcome | None], str] = {}
        try:
            while futures:
                for future in as_completed(list(futures)):
                    text = futures.pop(future)
                    outcome = self._outcome_of(future, text)
                    if outcome is None:
                        # Behind all others in the pool's queue: no worker waits for a claim before they are done.
                        claimed_elsewhere |= submitted([text], wait=True)
                    else:
                        yield outcome
                futures, claimed_elsewhere = claimed_elsewhere, {}
                if futures:
                    on_wait({text: self._worker_at(text) for text in futures.values()})
        finally:
            for future in (*futures, *claimed_elsewhere):
                future.cancel()

    def _worker_at(self, text: str) -> int | None:
        return holder(self._db.path, input_run_id(self._function_name, text))

    def _outcome_of(self, future: Future[InputOutcome | None], text: str) -> InputOutcome | None:
        """The outcome of a task; None if another process has the claim on its input."""
        try:
            return future.result()
        except CoordinatorLostError:
            raise
        except ShoalError as error:  # the worker was lost, or the store refused even the error
            with claimed(self._db.path, input_run_id(self._function_name, text), wait=False) as mine:
                return self._fail(text, error) if mine else None

    def _fail(self, text: str, error: ShoalError) -> InputOutcome:
        described = _describe(error)
        try:
            return _InputRun(self._function_name, text).fail(self._db, described)
        except CoordinatorLostError:
            raise
        except ShoalError as refusal:
            return InputOutcome(text, FAILED, error=f"{described} (and this is not stored: {_describe(refusal)})")


class _InputRun:
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

    def begin(self, db: Database, attempts_failed: int | None = None) -> InputOutcome | None:
        """Begin an attempt and return None; or return the outcome if there is nothing to do.

        There is nothing to do either if the input has failed and has had more attempts than ``attempts_failed``: it
        failed after that number was read.
        """
        return db.transact(self._fleet_run_id, lambda txn: self._begin(txn, attempts_failed), _MOST_CONFLICTS)

    def finish(self, db: Database, result: Any) -> InputOutcome:
        """Store the result unless the input has ended already; the outcome."""
        return db.transact(self._fleet_run_id, lambda txn: self._finish(txn, result), _MOST_CONFLICTS)

    def fail(self, db: Database, error: str) -> InputOutcome:
        """Store the error unless the input has ended already; the outcome."""
        return db.transact(self._fleet_run_id, lambda txn: self._fail(txn, error), _MOST_CONFLICTS)

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


def _run_input(function_name: str, text: str, attempts_failed: int, wait: bool) -> InputOutcome | None:
    """Run one input in a worker and store the outcome there, so that nothing is lost if the pool ends.

    If another process works on it: None; with ``wait``, the outcome that process has stored, once it is done.
    """
    db, run = current_database(), _InputRun(function_name, text)
    with claimed(db.path, input_run_id(function_name, text), wait) as mine:
        if not mine:
            return None
        ended = run.begin(db, attempts_failed)
        if ended is not None:  # another process has done it, or this task's first worker died after storing it
            return ended
        try:
            function = load_function(function_name)
            result = function(text)
            check_plain_result(function_name, function, result)
            encode(result)  # here, so that an error names the place in the result
        except BaseException as error:  # sys.exit in a function fails its input and does not end the fleet
            return run.fail(db, _describe(error))
        try:
            return run.finish(db, result)
        except CoordinatorLostError:
            raise
        except ShoalError as error:  # no room for the result; the error is shorter
            return run.fail(db, _describe(error))


def _describe(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception as failure:  # __str__ of a user's exception may raise
        text = f"{type(error).__name__}, whose text cannot be read: {type(failure).__name__}"
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}..."
