"""Exceptions that come between any two steps of a call: nothing is lost, and nothing is held."""

from __future__ import annotations

import contextlib
import gc
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.primitives.facades import task_queue
from shoal.primitives.rules import requests
from shoal.workers.shared_memory.connection import StoreConnection
from tests.processes.interrupted.handling import RUN, Alarm, Interrupted, handling
from tests.support.shared_memory import store_of
from tests.support.workers.crash_workers import descriptors, shoal_mappings, wait_for

# An exception between two steps leaves files and processes to the collector, which gives them back and says so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]


def _open_and_close(db: shoal.Database, kv: shoal.KVStore, note: list[int]) -> None:
    with shoal.open(db.path) as other:
        note.append(-1)
        shoal.KVStore(other).increment(RUN, "others")


def _snapshot(db: shoal.Database, kv: shoal.KVStore, note: list[int]) -> None:
    with db.snapshot(RUN) as view:
        assert view.kv.get("key") is not None
        assert view.kv.list("many/")


def _scan(db: shoal.Database, kv: shoal.KVStore, note: list[int]) -> None:
    for _key, _found in db._store.auto_commit.scan(b"", b"\xff"):
        break


def _transaction(db: shoal.Database, kv: shoal.KVStore, note: list[int]) -> None:
    with db.transaction(RUN) as txn:
        left = txn.kv.get("left", 0) + 1
        txn.kv.put("left", left)
        txn.kv.put("right", left)


def _increment(db: shoal.Database, kv: shoal.KVStore, note: list[int]) -> None:
    note[0] += 1  # asked for
    kv.increment(RUN, "sum")
    note[1] += 1  # and told


CALLS = [
    *(lambda _db, kv, _note: kv.put(RUN, "key", 1), lambda _db, kv, _note: kv.get(RUN, "key")),
    *(_increment, _transaction, _snapshot, _scan),
]


def _interrupt_at_random(store: Path, monkeypatch: pytest.MonkeyPatch, times: int, opens: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with shoal.open(store, linger=0.3) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "key", 0)
        for i in range(300):
            kv.put(RUN, f"many/{i}", i)
        gc.collect()
        before = len(descriptors()), len(shoal_mappings())
        note = [0, 0]
        raised = 0

        def handle() -> None:
            nonlocal raised
            raised += 1
            raise Interrupted

        def call_until_raised(call: Callable[..., None], so_far: int) -> None:
            # A function of its own: in CPython 3.13 the jump back of a loop is outside any ``with`` around the loop.
            while raised == so_far:  # a finaliser may have swallowed it
                call(db, kv, note)

        # What a finaliser swallows is told to this hook; pytest's would keep its frames.
        with handling(signal.SIGALRM, handle), monkeypatch.context() as patch:
            patch.setattr(sys, "unraisablehook", lambda _: None)
            for i in range(times):
                call = _open_and_close if i % (times // opens) == 0 else rng.choice(CALLS)
                longest_s = 0.004 if call is _open_and_close else 0.0004
                with contextlib.suppress(Interrupted):
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, longest_s))
                    call_until_raised(call, i)
        gc.collect()
        kv.put(RUN, "key", "normal")
        with db.snapshot(RUN) as view:
            assert view.kv.get("key") == "normal"
        found = kv.get(RUN, "sum", 0)
        assert note[1] <= found <= note[0]
        assert kv.get(RUN, "left") == kv.get(RUN, "right")
        assert db.check() == []
        slots = store_of(db).connection.current().slots
        assert not any(slots._slots[1:])
        assert slots._slots[0] < 50
        # An open that was interrupted goes on in its thread, and gives back what it has when it is done.
        wait_for(lambda: (len(descriptors()), len(shoal_mappings())) == before, "everything to be given back")
        wait_for(lambda: db.info().clients == 1, "the coordinator to forget what was interrupted")


@pytest.mark.long
def test_exceptions_at_random_moments(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that raises anywhere: nothing is leaked, half done or done twice, and the next call works."""
    _interrupt_at_random(store, monkeypatch, 400, 40)


@pytest.mark.slow
def test_exceptions_at_ten_thousand_moments(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same 10,000 times."""
    _interrupt_at_random(store, monkeypatch, 10_000, 500)


def _interrupt_next_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise as a handler does, once, while the outcome of a commit is made of its answer."""

    def failure(connection: StoreConnection, status: int, details: Any) -> Exception | None:
        monkeypatch.undo()
        raise Alarm

    monkeypatch.setattr(StoreConnection, "failure", failure)


@pytest.mark.long
def test_an_exception_is_not_taken_for_a_failed_commit(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a handler raises while the outcome of a pipelined commit is made, its future gets the outcome all the same."""
    with shoal.open(store, linger=0.2) as db, db.pipeline(RUN) as pipe:
        future = pipe.kv.increment("n")
        _interrupt_next_outcome(monkeypatch)
        with pytest.raises(Alarm):
            future.result()
        assert future.result() == 1
        assert pipe.kv.increment("n").result() == 2


@pytest.mark.long
def test_a_lease_whose_outcome_is_interrupted_is_free(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a handler raises while the outcome of a lease is made, its process does not hold it, so others get it."""
    with shoal.open(store, linger=0.2) as db, shoal.open(store) as other:
        _interrupt_next_outcome(monkeypatch)
        with pytest.raises(Alarm):
            db.lease(RUN, "job", ttl=60).__enter__()
        with other.lease(RUN, "job", wait=30):
            pass


@pytest.mark.long
def test_an_interrupted_release_can_be_completed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a handler raises before a lease is released, the next call releases it."""

    def release(*_: object) -> None:
        monkeypatch.undo()
        raise Alarm

    with shoal.open(store, linger=0.2) as db:
        lease = db.lease(RUN, "job")
        monkeypatch.setattr(requests, "release_lease", release)
        with pytest.raises(Alarm):
            lease.release()
        lease.release()
        assert db.leases(RUN) == []


@pytest.mark.long
def test_a_claim_that_is_interrupted_is_free(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a handler raises before the task is returned, its process does not hold it, and it was no attempt."""

    def together(*_: object) -> None:
        monkeypatch.undo()
        raise Alarm

    with shoal.open(store, linger=0.2) as db:
        queue = shoal.TaskQueue(db)
        task_id = queue.put(RUN, "q", 1)
        monkeypatch.setattr(task_queue, "Together", together)
        with pytest.raises(Alarm):
            queue.claim(RUN, "q")
        task = queue.claim(RUN, "q")
        assert task is not None
        assert (task.id, task.attempt) == (task_id, 1)
