"""Pipelines: commits that are sent without waiting, decided in order and once, over the death of coordinators."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.promises.transactions.pipelines import RUN, TIMEOUT_S, pipeline_with_errors
from tests.support.slow import slow
from tests.support.stores.versions import versions_taken


class Model:
    """What the calls of one pipeline return, one after the other. A call is made of both and noted."""

    def __init__(self, pipe: shoal.Pipeline) -> None:
        self.pipe = pipe
        self.keys: dict[str, Any] = {}
        self.cell = 0
        self.events = 0
        self.traces: set[str] = set()
        self.expected: list[tuple[Future[Any], Any]] = []

    def step(self, choice: random.Random) -> None:
        """One random call. Its outcome, also that of one that changes nothing, depends on the calls before it."""
        key = choice.choice("abc")
        number = len(self.expected)
        kind = choice.randrange(8)
        if kind == 0:
            self._note(self.pipe.kv.put(key, f"text {number}"), None)
            self.keys[key] = f"text {number}"
        elif kind == 1:
            self._note(self.pipe.kv.delete(key), self.keys.pop(key, None) is not None)
        elif kind in (2, 3):
            is_text = isinstance(self.keys.get(key), str)
            if not is_text:
                self.keys[key] = self.keys.get(key, 0) + 1
            self._note(self.pipe.kv.increment(key), TypeError if is_text else self.keys[key])
        elif kind in (4, 5):
            self._note(self.pipe.events.append("step", number), self.events)
            self.events += 1
        elif kind == 6:
            expected = choice.randint(max(1, self.cell - 1), self.cell + 1)
            fits = expected == self.cell
            self._note(
                self.pipe.state.cas("cell", expected, number),
                self.cell + 1 if fits else shoal.CASConflictError if self.cell else shoal.NotFoundError,
            )
            self.cell += fits
            if not self.cell:
                self._note(self.pipe.state.set("cell", number), 1)
                self.cell = 1
        else:
            name = str(choice.randrange(50))
            trace = shoal.TraceType.Thought("again")
            self._note(
                self.pipe.traces.record(trace, id=name), shoal.AlreadyExistsError if name in self.traces else name
            )
            self.traces.add(name)

    def _note(self, future: Future[Any], expected: Any) -> None:
        self.expected.append((future, expected))

    def check(self, db: shoal.Database) -> None:
        """Every outcome, and what the store holds in the end."""
        for number, (future, expected) in enumerate(self.expected):
            error = future.exception(0)
            if error is not None:
                assert type(error) is expected, (number, error, expected)
            else:
                result = future.result(0)
                told = result.sequence if isinstance(result, shoal.Appended) else result
                assert told == expected, (number, told, expected)
        assert dict(shoal.KVStore(db).list_with_values(RUN)) == self.keys
        assert shoal.EventLog(db).len(RUN) == self.events
        assert shoal.EventLog(db).verify_chain(RUN).is_valid
        assert set(shoal.TraceStore(db).list(RUN)) == self.traces
        assert db.check() == []


@pytest.mark.parametrize("depth", [*slow(1, 2), 7, *slow(64), 5_000])
def test_every_call_is_decided_in_order(db: shoal.Database, depth: int) -> None:
    """Each future has what the call returns after all calls before it, or the error; later calls go on."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    choice = random.Random(seed)
    with pipeline_with_errors(db, depth) as pipe:
        model = Model(pipe)
        for _ in range(300):
            model.step(choice)
    model.check(db)


@pytest.mark.long
@pytest.mark.parametrize(
    ("durability", "kills"), [("buffered", 1), ("strict", 2), *slow(("buffered", 5), ("strict", 5))]
)
def test_coordinators_are_killed(store: Path, durability: str, kills: int) -> None:
    """Every call is done once and in order, whatever coordinator does it: refused calls and empty deletes, too."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    choice = random.Random(seed)
    with shoal.open(store, durability=durability, linger=0.2) as db:
        killed: list[int] = []
        done = threading.Event()

        def kill() -> None:
            while not done.wait(0.1 + random.random() * 0.2):
                with contextlib.suppress(shoal.ShoalError, ProcessLookupError):
                    pid = db.info().coordinator_pid
                    if pid not in killed:
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            with pipeline_with_errors(db, 64) as pipe:
                model = Model(pipe)
                until_s = time.monotonic() + 2 * TIMEOUT_S
                while (len(killed) < kills or len(model.expected) < 800 * kills) and time.monotonic() < until_s:
                    model.step(choice)
        finally:
            done.set()
            killer.join()
        assert len(killed) >= kills
        model.check(db)


@pytest.mark.long
def test_depth(db: shoal.Database) -> None:
    """At most ``depth`` commits are under way: the next call waits, and nothing is sent beyond."""
    pid = db.info().coordinator_pid
    with db.pipeline(RUN, depth=3) as pipe:
        pipe.kv.put("first", 0).result()
        os.kill(pid, signal.SIGSTOP)
        try:
            sent = [pipe.kv.increment("n") for _ in range(3)]
            fourth: list[Future[int]] = []
            thread = threading.Thread(target=lambda: fourth.append(pipe.kv.increment("n")))
            thread.start()
            thread.join(0.3)
            assert thread.is_alive()
            assert not any(future.done() for future in sent)
            with pytest.raises(TimeoutError):
                sent[0].result(0.01)
        finally:
            os.kill(pid, signal.SIGCONT)
        thread.join(TIMEOUT_S)
        assert [future.result() for future in [*sent, *fourth]] == [1, 2, 3, 4]


@pytest.mark.long
@pytest.mark.parametrize("size", [1_000, 300_000])
def test_large_values(db: shoal.Database, size: int) -> None:
    """Values beyond what the pipes and the bound of bytes hold."""
    with db.pipeline(RUN) as pipe:
        for n in range(100 if size < 10_000 else 10):
            pipe.kv.put(str(n), bytes(size))
        appended = pipe.events.append_many([("e", None)] * 20_000)
        more = [pipe.events.append_many([("e", None)] * 5_000) for _ in range(10)]
    assert [each.sequence for each in appended.result()] == list(range(20_000))
    assert more[-1].result()[-1].sequence == 69_999
    assert {len(value) for _, value in shoal.KVStore(db).list_with_values(RUN)} == {size}


def test_the_first_error_is_raised(memory_db: shoal.Database, run: str) -> None:
    """That of the earliest call that failed, after all were decided."""
    with pytest.raises(shoal.NotFoundError), memory_db.pipeline(run) as pipe:  # noqa: PT012
        pipe.kv.put("a", "text")
        missing = pipe.state.cas("cell", 1, 2)
        pipe.kv.increment("a")
        pipe.kv.put("b", 1)
    assert isinstance(missing.exception(), shoal.NotFoundError)
    assert shoal.KVStore(memory_db).get(run, "b") == 1


def test_an_exception_in_the_block(memory_db: shoal.Database, run: str) -> None:
    """It goes on, after what was sent is decided, whatever became of that."""
    with pytest.raises(ZeroDivisionError), memory_db.pipeline(run) as pipe:  # noqa: PT012
        pipe.kv.put("a", "text")
        failed = pipe.kv.increment("a")
        last = pipe.kv.put("b", 1)
        raise ZeroDivisionError
    assert isinstance(failed.exception(0), TypeError)
    assert last.result(0) is None
    assert shoal.KVStore(memory_db).get(run, "b") == 1


# ``Any``: most of them pass what no type checker would let through.
BAD: list[Callable[[Any], Any]] = [
    lambda pipe: pipe.kv.put("", 1),
    lambda pipe: pipe.kv.put("k", object()),
    lambda pipe: pipe.kv.put("k", 1, ttl=0),
    lambda pipe: pipe.kv.put_with_ttl("k", 1, None),
    lambda pipe: pipe.kv.increment("k", "1"),
    lambda pipe: pipe.kv.delete(3),
    lambda pipe: pipe.events.append("", {}),
    lambda pipe: pipe.events.append_many([("a", 1), "b"]),
    lambda pipe: pipe.state.set("", 1),
    lambda pipe: pipe.state.cas("c", -1, 1),
    lambda pipe: pipe.traces.record("no trace type"),
    lambda pipe: pipe.traces.record_child(None, shoal.TraceType.Thought("x")),
    lambda pipe: pipe.on(""),
]


@pytest.mark.parametrize("call", BAD)
def test_bad_arguments(memory_db: shoal.Database, run: str, call: Callable[[shoal.Pipeline], Any]) -> None:
    """They raise at the call; nothing is sent, and the pipeline goes on."""
    with memory_db.pipeline(run) as pipe:

        def refused() -> None:
            with pytest.raises((TypeError, ValueError)):
                call(pipe)

        assert versions_taken(memory_db, refused) == 0
        pipe.kv.put("k", 1)
    assert shoal.KVStore(memory_db).get(run, "k") == 1


@pytest.mark.parametrize("depth", [0, -1, 1.5, True, "4", None])
def test_a_bad_depth(memory_db: shoal.Database, depth: Any) -> None:
    """It is refused before anything begins."""
    with pytest.raises((TypeError, ValueError)):
        memory_db.pipeline(RUN, depth=depth)


@pytest.mark.parametrize("namespace", [None, "default", shoal.Namespace])
def test_what_is_no_namespace(memory_db: shoal.Database, namespace: Any) -> None:
    """It is a TypeError that names the argument, as for a transaction."""
    for call in (memory_db.pipeline, memory_db.transaction):
        with pytest.raises(TypeError, match=r"namespace has type \w+; give a shoal\.Namespace"):
            call(RUN, namespace=namespace)


def test_every_call(memory_db: shoal.Database, run: str) -> None:
    """What each method gives, and that it is the run's, or the other run's."""
    trace = shoal.TraceType.Thought("x")
    with memory_db.pipeline(run) as pipe:
        other = pipe.on(run + "2")
        futures: list[Future[Any]] = [
            pipe.kv.put_with_ttl("t", 1, 60),
            other.kv.put("o", 1),
            pipe.state.init("c", 1),
            pipe.state.set("c", 2),
            pipe.state.delete("c"),
            pipe.events.append_many([]),
            other.events.append_many([("a", 1), ("b", 2)]),
            pipe.traces.record_with_options(trace, shoal.TraceOptions(id="root")),
            pipe.traces.record_child("root", trace, id="child"),
        ]
    results = [future.result() for future in futures]
    assert results[:6] == [None, None, 1, 2, True, []]
    assert [each.sequence for each in results[6]] == [0, 1]
    assert results[7:] == ["root", "child"]
    assert all(isinstance(future, Future) for future in futures)
    kv = shoal.KVStore(memory_db)
    assert (kv.list(run), kv.list(run + "2")) == (["t"], ["o"])
    assert kv.ttl(run, "t")


def test_ways_of_waiting(memory_db: shoal.Database, run: str) -> None:
    """Inside the block, every way in which a program may wait for a future ends."""

    async def awaited(future: Future[int]) -> int:
        return await asyncio.wait_for(asyncio.wrap_future(future), TIMEOUT_S)

    with memory_db.pipeline(run) as pipe:
        assert pipe.kv.increment("n").result() == 1
        assert pipe.kv.increment("n").exception() is None
        assert concurrent.futures.wait([pipe.kv.increment("n")], TIMEOUT_S).not_done == set()
        futures = [pipe.kv.increment("n") for _ in range(3)]
        assert {each.result() for each in concurrent.futures.as_completed(futures, TIMEOUT_S)} == {4, 5, 6}
        assert asyncio.run(awaited(pipe.kv.increment("n"))) == 7
        polled = pipe.kv.increment("n")
        until_s = time.monotonic() + TIMEOUT_S
        while not polled.done() and time.monotonic() < until_s:
            time.sleep(0.001)
        assert polled.done()
        told: list[int] = []
        called = threading.Event()
        last = pipe.kv.increment("n")

        def tell(future: Future[int]) -> None:
            told.append(future.result())
            called.set()

        last.add_done_callback(tell)
        assert called.wait(TIMEOUT_S)
        assert told == [9]
        assert not pipe.kv.put("k", 1).cancel()


def test_callbacks_may_send(memory_db: shoal.Database, run: str) -> None:
    """A callback sends the next commit, also in a pipeline that is full; all are done when the block is left."""
    with memory_db.pipeline(run, depth=4) as pipe:
        for _ in range(50):
            pipe.kv.increment("n").add_done_callback(lambda _: pipe.kv.increment("m"))
    kv = shoal.KVStore(memory_db)
    assert (kv.get(run, "n"), kv.get(run, "m")) == (50, 50)


def test_threads(memory_db: shoal.Database, run: str) -> None:
    """Threads share a pipeline: every call of each is done, in its own order."""
    results: dict[int, list[int]] = {}

    def work(number: int) -> None:
        results[number] = [future.result() for future in [pipe.kv.increment(f"k{number}") for _ in range(200)]]

    with memory_db.pipeline(run, depth=8) as pipe:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
    assert results == {n: list(range(1, 201)) for n in range(4)}
