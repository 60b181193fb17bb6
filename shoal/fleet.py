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
- A process holds a lease from before the attempt begins until the outcome is stored, and its commits are fenced with
  it. So two fleets that run at once call the function once for each input. The lease belongs to the fleet's run,
  because the input's run is deleted before the next attempt. Its name is the id of the input's run.
- The lease ends at once with its process, and ``ttl`` after its process was last heard of. Then the input is Active,
  nobody holds its lease (``without_worker``), and it is begun again. A process that goes on after that stores its
  outcome only if no other attempt was begun meanwhile.
- A fleet that finds an input's lease held works on the others first, then waits for it and returns the stored outcome.
  An input that failed meanwhile is not run again; the number of attempts shows that.
- Only an Active input can be ended, so it ends once. An input that is done is never run again.
- A Failed run cannot become Active again. So the commit that begins the next attempt deletes it and registers it anew:
  it has the same id, its event log goes on, and all else that was in the run is gone.
- A run that was paused, cancelled or archived by someone else is left alone.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, as_completed
from pathlib import Path
from typing import Any

from shoal.database import DEFAULT_NAMESPACE, Database
from shoal.fleet_input import FAILED, InputOutcome, InputRun, describe, fleet_run_id, hashed_run_id, input_run_id
from shoal.primitives.engine import Engine
from shoal.primitives.facades.leases import Lease, holders
from shoal.primitives.facades.run_index import RunIndex
from shoal.primitives.run_types import RunMetadata, RunStatus
from shoal.shm.arguments import check_plain_function, check_plain_result
from shoal.shm.codec import encode
from shoal.shm.errors import AlreadyExistsError, CoordinatorLostError, LeaseHeldError, ShoalError
from shoal.shm.fleet_errors import FencedError
from shoal.worker_pool import WorkerPool
from shoal.workers.pool.life import open_pidfd
from shoal.workers.pool.worker import OneReturns, current_database

# The coordinator sees the death of a worker, which ends its lease, at about the same time as the pool.
_UNTIL_REAPED_S = 1.0


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
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # importing a module runs any code
        raise ValueError(
            f"{name!r} cannot be loaded: {describe(error)}; "
            f"modules are looked for in {here} first, then where this Python finds its own"
        ) from error
    try:
        check_plain_function(repr(name), found)
    except TypeError as error:
        raise ValueError(str(error)) from error
    function: Callable[[str], Any] = found
    return function


class Fleet:
    """One function over many inputs.

    ``ttl_s``: how long a process that works on an input may not answer before the input is given to another.
    """

    def __init__(self, db: Database, function_name: str, ttl_s: float = 30.0) -> None:
        self._db = db
        self._ttl_s = ttl_s
        self._function_name = function_name
        self._run_id = fleet_run_id(function_name)

    def outcome(self, text: str) -> InputOutcome | None:
        """How an input ended, None if it has not."""
        with self._db.snapshot(self._run_id) as view:
            return InputRun(self._function_name, text).outcome(view)

    def to_do(self, inputs: list[str]) -> list[str]:
        """The inputs that are not done, each once, in order."""
        with self._db.snapshot(self._run_id) as view:
            return [text for text in dict.fromkeys(inputs) if not InputRun(self._function_name, text).is_done(view)]

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
            failed = {text: InputRun(self._function_name, text).attempts_failed(view) for text in inputs}

        def submitted(texts: Iterable[str], wait: bool) -> dict[Future[InputOutcome | None], str]:
            name, ttl_s = self._function_name, self._ttl_s  # the name stands for the task in messages
            return {pool._submit(_run_input, (name, text, failed[text], ttl_s, wait), {}, name): text for text in texts}

        futures = submitted(inputs, wait=False)
        held_elsewhere: dict[Future[InputOutcome | None], str] = {}
        try:
            while futures:
                for future in as_completed(list(futures)):
                    text = futures.pop(future)
                    outcome = self._outcome_of(future, text)
                    if outcome is None:
                        # Behind all others in the pool's queue: no worker waits for a lease before they are done.
                        held_elsewhere |= submitted([text], wait=True)
                    else:
                        yield outcome
                futures, held_elsewhere = held_elsewhere, {}
                if futures:
                    pids = {lease.name: lease.pid for lease in self._db.leases(self._run_id)}
                    held = {text: pids.get(input_run_id(self._function_name, text)) for text in futures.values()}
                    if any(held.values()):
                        on_wait(held)
        finally:
            for future in (*futures, *held_elsewhere):
                future.cancel()

    def _outcome_of(self, future: Future[InputOutcome | None], text: str) -> InputOutcome | None:
        """The outcome of a task; None if another process works on its input."""
        try:
            return future.result()
        except CoordinatorLostError:
            raise
        except ShoalError as error:  # the worker was lost, or the store refused even the error
            return self._fail(text, error)

    def _fail(self, text: str, error: ShoalError) -> InputOutcome | None:
        described, run = describe(error), InputRun(self._function_name, text)
        try:
            with run.lease(self._db, self._ttl_s, _UNTIL_REAPED_S) as lease:
                return run.fail(self._db, described, lease)
        except (LeaseHeldError, FencedError):
            return None
        except CoordinatorLostError:
            raise
        except ShoalError as refusal:
            return InputOutcome(text, FAILED, error=f"{described} (and this is not stored: {describe(refusal)})")


def without_worker(db: Database, view: Engine, runs: list[RunMetadata]) -> set[str]:
    """The ids of those of ``runs`` that are inputs, begun and not ended, and that no process works on.

    ``runs``: all runs of the default namespace, read through ``view``.
    """
    fleets = {run.run_id for run in runs if run.run_id == fleet_run_id(_noted(run, "function"))}
    begun = {
        run.run_id
        for run in runs
        if run.status is RunStatus.Active
        and run.parent_run in fleets
        and run.run_id == hashed_run_id(run.parent_run, _noted(run, "input"))
    }
    if not begun:
        return begun
    held = [found for fleet in fleets for found in holders(view, DEFAULT_NAMESPACE, fleet)]
    ages = db._store.holding.ages_ms([holder.holder for _, holder in held])
    # Nobody ends a holder in a store that no coordinator serves; there only a process that still exists counts.
    return begun - {
        name for (name, holder), age in zip(held, ages, strict=True) if age is not None or _exists(holder.pid)
    }


def _noted(run: RunMetadata, name: str) -> str:
    """What the metadata of a run has by a name; that of a user's own run may be any value."""
    return str(run.metadata.get(name)) if isinstance(run.metadata, dict) else ""


def _exists(pid: int) -> bool:
    try:
        pidfd = open_pidfd(pid)
    except ProcessLookupError:
        return False
    if pidfd is None:  # not known on this system
        return True
    with os.fdopen(pidfd):
        return not select.select([pidfd], [], [], 0)[0]  # readable: it is dead, and its parent has not asked for it


def _run_input(function_name: str, text: str, attempts_failed: int, ttl_s: float, wait: bool) -> InputOutcome | None:
    """Run one input in a worker and store the outcome there, so that nothing is lost if the pool ends.

    If another process works on it: None; with ``wait``, the outcome that process has stored, once it is done.
    """
    db, run = _attachment(), InputRun(function_name, text)
    try:
        with run.lease(db, ttl_s, None if wait else 0.0) as lease:
            ended = run.begin(db, attempts_failed, lease)
            if ended is not None:  # another process has done it, or this task's first worker died after storing it
                return ended
            attempt = run.attempts(db)
            store = _called(run, function_name, text)
            with contextlib.suppress(FencedError):
                return store(db, lease)
        # This process did not answer for the ttl. The outcome counts unless another process has begun the input.
        with run.lease(db, ttl_s, 0.0) as lease:
            return store(db, lease) if run.attempts(db) == attempt else None
    except (LeaseHeldError, FencedError):
        return None


@functools.cache
def _attachment() -> Database:
    """A worker's second attachment: a function may close ``current_database()``, which would end the lease."""
    own: Database = copy.copy(current_database())
    return own


# Once in a worker: a function may have changed the directory that modules are looked for in, or removed it.
_load_function_once = functools.cache(load_function)


def _called(run: InputRun, function_name: str, text: str) -> Callable[[Database, Lease], InputOutcome]:
    """Call the function; what stores the outcome."""
    try:
        function = _load_function_once(function_name)
        with OneReturns():  # here: what the function has forked has no outcome to store, and its exit is its own
            result = function(text)
        check_plain_result(function_name, function, result)
        encode(result)  # here, so that an error names the place in the result
    except BaseException as error:  # sys.exit in a function fails its input and does not end the fleet
        described = describe(error)
        return lambda db, lease: run.fail(db, described, lease)

    def finish(db: Database, lease: Lease) -> InputOutcome:
        try:
            return run.finish(db, result, lease)
        except (CoordinatorLostError, FencedError):
            raise
        except ShoalError as error:  # no room for the result; the error is shorter
            return run.fail(db, describe(error), lease)

    return finish
