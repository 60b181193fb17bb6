"""What the tests of the index of runs share."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

import shoal
from shoal import KVStore, RunIndex, RunMetadata, RunStatus, TraceType
from shoal.primitives.keys import after

_numbers = itertools.count()

ALLOWED = {
    RunStatus.Active: set(RunStatus) - {RunStatus.Active},
    RunStatus.Paused: {RunStatus.Active, RunStatus.Cancelled, RunStatus.Archived},
    RunStatus.Completed: {RunStatus.Archived},
    RunStatus.Failed: {RunStatus.Archived},
    RunStatus.Cancelled: {RunStatus.Archived},
    RunStatus.Archived: set(),
}


@pytest.fixture
def space() -> shoal.Namespace:
    """A namespace no other test uses."""
    return shoal.Namespace(app=f"runs-{next(_numbers)}")


@pytest.fixture
def runs(memory_db: shoal.Database, space: shoal.Namespace) -> RunIndex:
    """An empty index of runs."""
    return RunIndex(memory_db, namespace=space)


@pytest.fixture(name="kv")
def kv_of_space(memory_db: shoal.Database, space: shoal.Namespace) -> KVStore:
    """Keys of the same namespace."""
    return KVStore(memory_db, namespace=space)


@pytest.fixture
def raw_keys(memory_db: shoal.Database, space: shoal.Namespace) -> Callable[[], list[bytes]]:
    """Every key of the namespace as the engine has it."""
    prefix = space._prefix
    return lambda: [key for key, _ in memory_db._store.auto_commit.scan(prefix, after(prefix))]


class Stores:
    """One facade of each kind, on the same namespace."""

    def __init__(self, db: shoal.Database, space: shoal.Namespace, raw_keys: Callable[[], list[bytes]]) -> None:
        self.db, self.namespace, self.raw_keys = db, space, raw_keys
        self.kv, self.events = KVStore(db, namespace=space), shoal.EventLog(db, namespace=space)
        self.state, self.traces = shoal.StateCell(db, namespace=space), shoal.TraceStore(db, namespace=space)
        self.runs = RunIndex(db, namespace=space)

    def fill(self, run_id: str) -> None:
        """Something in every primitive."""
        self.kv.put(run_id, "key", "value")
        self.events.append(run_id, "event", {"n": 1})
        self.state.init(run_id, "cell", 1)
        self.traces.record(run_id, TraceType.Thought("why"), id="trace", tags=["t"])


@pytest.fixture(name="of")
def stores_of_space(memory_db: shoal.Database, space: shoal.Namespace, raw_keys: Callable[[], list[bytes]]) -> Stores:
    """Facades of the shared store on a namespace no other test uses."""
    return Stores(memory_db, space, raw_keys)


def run_of(runs: RunIndex, run_id: str, status: RunStatus) -> RunMetadata:
    """A run brought to ``status``."""
    run = runs.create_run(run_id=run_id)
    return run if status is RunStatus.Active else runs.update_status(run_id, status)


def ids_of(found: list[RunMetadata]) -> list[str]:
    return [run.run_id for run in found]
