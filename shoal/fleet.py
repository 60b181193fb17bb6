"""``shoal run``: a durable parallel map. Each input's outcome is in the store the moment it is known.

A fleet is a run named after the function. Its key-value pairs are one per input: ``input/TEXT`` -> how it ended. An
input that ended well is never run again, so a second run does only what is new, failed, or was cut short.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_hexdigest

from shoal.database import Database
from shoal.primitives.kv_store import KVStore
from shoal.shm.codec import encode
from shoal.shm.errors import ShoalError, WorkerLostError
from shoal.shm.limits import MAX_RUN_ID_BYTES
from shoal.worker_pool import WorkerPool
from shoal.workers.worker import current_database

DONE = "done"
FAILED = "failed"
_INPUT = "input/"


@dataclass(frozen=True)
class Outcome:
    """How one input ended: ``result`` if it is done, ``error`` if it failed."""

    input: str
    status: str
    result: Any = None
    error: str | None = None


def load_function(name: str) -> Callable[[str], Any]:
    """The function ``MODULE:FUNCTION`` names, looked for in the current directory first; ``ValueError`` if none."""
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise ValueError(f"{name!r} is not MODULE:FUNCTION")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be loaded: {error}") from error
    if not callable(found):
        raise ValueError(f"{name!r} is a {type(found).__name__}, not a function")
    function: Callable[[str], Any] = found
    return function


def fleet_run_id(function_name: str) -> str:
    """The run that holds a fleet's outcomes."""
    run_id = f"fleet:{function_name}"
    if len(run_id.encode()) <= MAX_RUN_ID_BYTES:
        return run_id
    return f"fleet:{xxh3_64_hexdigest(function_name.encode())}"


class Fleet:
    """One function over many inputs."""

    def __init__(self, db: Database, function_name: str) -> None:
        self._kv = KVStore(db)
        self._run_id = fleet_run_id(function_name)
        self._function_name = function_name

    def outcome(self, text: str) -> Outcome | None:
        """How an input ended the last time, None if it never did."""
        record = self._kv.get(self._run_id, _INPUT + text)
        return None if record is None else Outcome(text, **record)

    def to_do(self, inputs: list[str]) -> list[str]:
        """The inputs that are not done yet, each once, in order."""
        done = {
            key[len(_INPUT) :]
            for key, record in self._kv.list_with_values(self._run_id, _INPUT)
            if record["status"] == DONE
        }
        return [text for text in dict.fromkeys(inputs) if text not in done]

    def run(self, pool: WorkerPool, inputs: list[str]) -> Iterator[Outcome]:
        """Run the function over ``inputs``; outcomes as they come, each stored before it is given."""
        futures = {pool.submit(_run_input, self._function_name, text): text for text in inputs}
        for future in as_completed(futures):
            text = futures.pop(future)
            try:
                yield Outcome(text, **future.result())
            except WorkerLostError as error:
                record: dict[str, Any] = {"status": FAILED, "result": None, "error": f"WorkerLostError: {error}"}
                self._kv.put(self._run_id, _INPUT + text, record)
                yield Outcome(text, **record)


def _run_input(function_name: str, text: str) -> dict[str, Any]:
    """In a worker: run one input and store how it ended, in the worker, so that nothing is lost with the pool."""
    kv, run_id = KVStore(current_database()), fleet_run_id(function_name)
    before: dict[str, Any] | None = kv.get(run_id, _INPUT + text)
    if before is not None and before["status"] == DONE:  # its worker died after storing and before telling
        return before
    record: dict[str, Any]
    try:
        result = load_function(function_name)(text)
        encode(result)  # by itself, so that a refusal names the place in the result
        record = {"status": DONE, "result": result, "error": None}
        kv.put(run_id, _INPUT + text, record)
    except Exception as error:
        if isinstance(error, ShoalError) and kv.get(run_id, _INPUT + text) is not None:
            raise
        record = {"status": FAILED, "result": None, "error": f"{type(error).__name__}: {error}"}
        kv.put(run_id, _INPUT + text, record)
    return record
