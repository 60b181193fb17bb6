"""Pipelines that end: closed, forked, interrupted, without a coordinator, or in a full store."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import random
import signal
import time
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.shm.host.unpatched import thread
from shoal.workers.shared_memory.pipeline import EnginePipeline
from tests.promises.transactions.pipelines import RUN, TIMEOUT_S, pipeline_with_errors


def test_after_the_end(memory_db: shoal.Database, run: str) -> None:
    """A pipeline is used inside its block, once."""
    pipe = memory_db.pipeline(run)
    with pytest.raises(shoal.InvalidOperationError):
        _ = pipe.kv
    with pipe:
        kv = pipe.kv
        future = kv.put("a", 1)
    with pytest.raises(shoal.InvalidOperationError):
        kv.put("b", 1)
    with pytest.raises(shoal.InvalidOperationError):
        pipe.__enter__()
    assert future.result() is None


def test_it_does_not_move(memory_db: shoal.Database, run: str) -> None:
    """Neither copied nor pickled."""
    with memory_db.pipeline(run) as pipe:
        for thing in (pipe, pipe.kv, pipe.events, pipe.on("other"), pipe.kv.put("a", 1)):
            with pytest.raises(TypeError):
                pickle.dumps(thing)
            with pytest.raises(TypeError):
                copy.copy(thing)


def test_a_forked_child(memory_db: shoal.Database, run: str) -> None:
    """It is refused the pipeline, and the parent's goes on undisturbed."""
    with memory_db.pipeline(run) as pipe:
        future = pipe.kv.increment("n")
        pid = os.fork()
        if pid == 0:
            told = 0
            for call in (lambda: pipe.kv.increment("n"), lambda: pipe.__exit__(None, None, None)):
                try:
                    call()
                except shoal.InvalidOperationError:
                    told += 1
            os._exit(told)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
        assert future.result() == 1
        assert pipe.kv.increment("n").result() == 2


def test_closed_and_read_only(store: Path) -> None:
    """A closed database sends no more, and what was sent is decided; one that only reads opens no pipeline."""
    with shoal.open(store, linger=0.2) as db:
        with db.pipeline(RUN) as pipe:
            sent = [pipe.kv.increment("n") for _ in range(20)]
            db.close()
            with pytest.raises(shoal.InvalidOperationError):
                pipe.kv.increment("n")
        assert [future.result() for future in sent] == list(range(1, 21))
        with pytest.raises(shoal.InvalidOperationError), db.pipeline(RUN):
            pass
    with shoal.open(store, read_only=True) as db, pytest.raises(shoal.InvalidOperationError), db.pipeline(RUN):
        pass


@pytest.mark.long
def test_a_coordinator_that_does_not_answer(store: Path) -> None:
    """All in flight are in doubt: ``CoordinatorLostError``, and so is every later call. Other calls go on later."""
    # The other is open first: on a busy machine a coordinator may take longer than this timeout to start.
    with shoal.open(store, linger=0.2), shoal.open(store, timeout=1.0) as db:
        with pytest.raises(shoal.CoordinatorLostError), db.pipeline(RUN) as pipe:  # noqa: PT012
            pipe.kv.put("a", 1).result()
            pid = db.info().coordinator_pid
            os.kill(pid, signal.SIGSTOP)
            try:
                sent = [pipe.kv.put("a", n) for n in range(5)]
                with pytest.raises(shoal.CoordinatorLostError):
                    sent[-1].result()
                with pytest.raises(shoal.CoordinatorLostError):
                    pipe.kv.put("b", 1)
            finally:
                os.kill(pid, signal.SIGCONT)
        assert {type(future.exception()) for future in sent} == {shoal.CoordinatorLostError}
        shoal.KVStore(db).put(RUN, "b", 2)


def test_a_memory_store_dies_with_its_coordinator(store: Path) -> None:
    """What is in flight fails with ``CoordinatorLostError``."""
    with shoal.open(store, durability="memory", linger=0.2) as db:

        def put_after_death() -> None:
            with db.pipeline(RUN) as pipe:
                pipe.kv.put("a", 1).result()
                os.kill(db.info().coordinator_pid, signal.SIGKILL)
                for n in range(100):
                    pipe.kv.put("a", n)

        with pytest.raises(shoal.CoordinatorLostError):
            put_after_death()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised while something is collected
def test_interrupted_calls(db: shoal.Database) -> None:
    """An exception of a signal handler between any two steps loses no commit, and does none twice."""

    class Interrupt(Exception):  # noqa: N818 (no error)
        pass

    def handler(number: int, frame: Any) -> None:
        raise Interrupt

    former = signal.signal(signal.SIGALRM, handler)
    answered = 0
    try:
        with db.pipeline(RUN, depth=16) as pipe:
            futures: list[Future[int]] = []
            for _ in range(150):
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.random() * 0.003 + 1e-5)
                    for _ in range(60):
                        futures.append(pipe.kv.increment("n"))
                    time.sleep(0.01)
                except Interrupt:
                    answered += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert answered > 100
            results = [future.result() for future in futures]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    # An interrupted call may be done, and its future was lost: so many sums are missing at most.
    total = shoal.KVStore(db).get(RUN, "n")
    assert results == sorted(set(results))
    assert len(results) <= total <= len(results) + answered
    assert db.check() == []


def test_no_thread_can_be_started(memory_db: shoal.Database, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a future of the pipeline then is told so at once, and who waits later is not left waiting."""

    def refuse(*arguments: Any) -> None:
        raise RuntimeError("can't start new thread")

    with memory_db.pipeline(run) as pipe:
        future = pipe.kv.put("a", 1)
        with monkeypatch.context() as patched:
            patched.setattr(thread, "start_new_thread", refuse)
            with pytest.raises(RuntimeError):
                wait([future], TIMEOUT_S)
        assert wait([future], TIMEOUT_S).done == {future}


def test_sessions_are_forgotten(memory_db: shoal.Database, run: str) -> None:
    """A pipeline that ended leaves no client behind, and reads go on."""
    for n in range(20):
        with memory_db.pipeline(run) as pipe:
            pipe.kv.put("n", n)
    assert memory_db.info().clients == 1
    assert shoal.KVStore(memory_db).get(run, "n") == 19


def test_an_engine_that_is_dropped(db: shoal.Database, run: str) -> None:
    """A pipeline whose block is never left gives back its pipes when it is collected.

    In a store of its own: after a lease, a database may read from what its next pipeline attaches, and keep that.
    """
    gc.collect()  # what earlier tests dropped gives back its descriptors now, and not in between
    before = len(os.listdir("/proc/self/fd"))
    engine: EnginePipeline | None = db._store.pipeline(8)  # type: ignore[assignment]
    assert engine is not None
    engine.put(b"\x01c" + run.encode(), b"\x01").result()
    assert len(os.listdir("/proc/self/fd")) > before
    engine = None
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.long
def test_a_full_store(store: Path) -> None:
    """What finds no room is refused, and what was in flight behind it; then the pipeline goes on, and deletes go on."""
    with shoal.open(store, max_bytes=8 << 20, linger=0.2) as db:
        with pipeline_with_errors(db, 16) as pipe:
            futures = [pipe.kv.put(str(n), bytes(100_000)) for n in range(200)]
            errors = [type(future.exception()) for future in futures]
            deleted = [pipe.kv.delete(str(n)) for n in range(200)]
        assert set(errors) == {type(None), shoal.StoreFullError}
        done = {str(n) for n, error in enumerate(errors) if error is type(None)}
        assert {type(future.exception()) for future in deleted} == {type(None)}
        assert {str(n) for n, future in enumerate(deleted) if future.result()} == done
        assert shoal.KVStore(db).list(RUN) == []
        assert db.check() == []
