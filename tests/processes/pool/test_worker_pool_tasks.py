"""The life of a task: time limits, cancelling, callbacks, map, and calls that come from unusual places."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import itertools
import math
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.processes.pool.pool_processes import wait_for
from tests.support.workers import pool_functions as functions

pytestmark = pytest.mark.uncompiled


@pytest.fixture
def pool(memory_db: shoal.Database) -> Iterator[shoal.WorkerPool]:
    with shoal.WorkerPool(memory_db.path, workers=2) as pool:
        yield pool


@pytest.fixture
def one(memory_db: shoal.Database) -> Iterator[shoal.WorkerPool]:
    """A pool of one worker, which is ready."""
    with shoal.WorkerPool(memory_db.path, workers=1) as pool:
        pool.submit(functions.pid).result(30)
        yield pool


@pytest.mark.long
def test_a_time_limit(memory_db: shoal.Database) -> None:
    """A task that runs for longer ends with an error naming function and limit; its worker is replaced.

    Waiting in the queue does not count.
    """
    with shoal.WorkerPool(memory_db.path, 1, timeout=1.0) as pool:
        before = pool.submit(functions.pid).result(30)
        late = pool.submit(functions.sleep_then, 30)
        others = [pool.submit(functions.sleep_then, 0.4, number) for number in range(4)]
        with pytest.raises(shoal.TaskTimeoutError, match=r"sleep_then ran for more than 1 s") as caught:
            late.result(30)
        assert (caught.value.function, caught.value.timeout_s) == ("sleep_then", 1.0)
        assert [future.result(30) for future in others] == [0, 1, 2, 3]
        assert pool.submit(functions.pid).result(30) != before


@pytest.mark.parametrize("timeout", [float("inf"), pytest.param(10**400, id="long")])
def test_no_time_limit(memory_db: shoal.Database, timeout: float) -> None:
    """Infinity is no limit, and so is an int that no float can hold."""
    with shoal.WorkerPool(memory_db.path, 1, timeout=timeout) as pool:
        assert pool.submit(functions.sleep_then, 0.1, 5).result(30) == 5


def test_cancelling_a_task_that_runs(one: shoal.WorkerPool) -> None:
    """With kill=True only: its worker is replaced, and its future is cancelled for everybody."""
    running = one.submit(functions.sleep_then, 60)
    waiting = one.submit(functions.pid)
    wait_for(running.running)
    assert one.cancel(running) is False
    assert one.cancel(running, kill=True) is True
    assert running.cancelled()
    assert running.done()
    assert not running.running()
    for ask in (running.result, running.exception):
        with pytest.raises(concurrent.futures.CancelledError):
            ask(5)
    assert concurrent.futures.wait([running], 5).done == {running}
    assert waiting.result(30) in one.worker_pids
    assert one.cancel(running, kill=True) is True
    assert one.cancel(waiting, kill=True) is False


def test_cancelling_a_task_that_waits(one: shoal.WorkerPool) -> None:
    """Those who wait for it are told at once, although the worker is busy."""
    running = one.submit(functions.sleep_then, 60)
    waiting = one.submit(functions.pid)
    wait_for(running.running)
    assert one.cancel(waiting) is True
    assert list(concurrent.futures.as_completed([waiting], 20)) == [waiting]
    assert one.cancel(running, kill=True) is True
    with pytest.raises(TypeError, match="give a future of this pool"):
        one.cancel(concurrent.futures.Future())


def test_cancelling_all_the_time(pool: shoal.WorkerPool) -> None:
    """Each future ends, cancelled or not, and no other task is harmed."""
    futures = [pool.submit(functions.sleep_then, 0.002, number) for number in range(200)]
    for future in futures[::3]:
        pool.cancel(future, kill=True)
    assert concurrent.futures.wait(futures, 60).not_done == set()
    for number, future in enumerate(futures):
        assert future.cancelled() or future.result() == number
    assert not any(future.cancelled() for number, future in enumerate(futures) if number % 3)


def test_callbacks_may_do_anything(memory_db: shoal.Database) -> None:
    """Submit, wait for another task, cancel, raise, exit; also one that blocks stops only its own worker."""
    release, results = threading.Event(), []
    with shoal.WorkerPool(memory_db.path, 3) as pool:

        def submit_and_wait(_future: object) -> None:
            results.append(pool.submit(functions.echo, "from a callback").result(30))

        def leave(_future: object) -> None:
            raise SystemExit

        pool.submit(functions.pid).add_done_callback(submit_and_wait)
        pool.submit(functions.pid).add_done_callback(leave)
        pool.submit(functions.pid).add_done_callback(lambda _future: 1 / 0)
        blocked = pool.submit(functions.sleep_then, 0.2)
        blocked.add_done_callback(lambda _future: release.wait(30))
        blocked.result(30)
        assert list(pool.map(functions.echo, range(20))) == list(range(20))
        release.set()
        wait_for(lambda: results == ["from a callback"])


@pytest.mark.long
@pytest.mark.parametrize("end", ["shutdown", "kill", "cancel"])
def test_a_callback_may_end_the_pool(memory_db: shoal.Database, end: str) -> None:
    """It does not wait for itself."""
    ended = threading.Event()
    pool = shoal.WorkerPool(memory_db.path, 2)

    def end_it(_future: object) -> None:
        if end == "kill":
            pool.kill()
        else:
            pool.shutdown(cancel_futures=end == "cancel")
        ended.set()

    first = pool.submit(functions.sleep_then, 0.3)
    rest = [pool.submit(functions.sleep_then, 0.1) for _ in range(6)]
    first.add_done_callback(end_it)
    assert ended.wait(30)
    pool.shutdown()
    assert concurrent.futures.wait([first, *rest], 30).not_done == set()


def test_callbacks_of_cancelled_futures_submit(memory_db: shoal.Database) -> None:
    """shutdown(cancel_futures=True) holds no lock while they run; they are told that the pool is shut down."""
    pool = shoal.WorkerPool(memory_db.path, 1)
    refused = []

    def again(_future: object) -> None:
        try:
            pool.submit(functions.pid)
        except RuntimeError as error:
            refused.append(error)

    pool.submit(functions.sleep_then, 0.5)
    for _ in range(3):
        pool.submit(functions.pid).add_done_callback(again)
    ending = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True}, daemon=True)
    ending.start()
    ending.join(30)
    assert not ending.is_alive()
    assert len(refused) >= 3


def test_all_who_wait_are_told_when_the_pool_is_killed(memory_db: shoal.Database) -> None:
    """as_completed in another thread ends after Ctrl-C."""
    futures: list[concurrent.futures.Future[Any]] = []
    ended = threading.Event()

    def collect() -> None:
        for _ in concurrent.futures.as_completed(futures):
            pass
        ended.set()

    pool = shoal.WorkerPool(memory_db.path, 1)
    pool.submit(functions.pid).result(30)
    futures += [pool.submit(time.sleep, 5) for _ in range(4)]
    threading.Thread(target=collect, daemon=True).start()
    wait_for(futures[0].running)
    with contextlib.suppress(KeyboardInterrupt), pool:
        raise KeyboardInterrupt
    assert ended.wait(30)
    assert sum(future.cancelled() for future in futures) == 3


@pytest.mark.long
def test_submit_from_a_signal_handler(pool: shoal.WorkerPool) -> None:
    """Whatever it interrupts in its own thread: submit, the first submit, shutdown."""
    futures, stop = [], threading.Event()

    def handler(_number: object, _frame: object) -> None:
        try:
            futures.append(pool.submit(functions.echo, "handler"))
        except RuntimeError:
            stop.set()

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        until = time.monotonic() + 1.0
        own = []
        while time.monotonic() < until:
            own.append(pool.submit(functions.echo, "own"))
        pool.shutdown()
        wait_for(stop.is_set)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(futures) > 3
    assert {future.result(30) for future in own} == {"own"}
    assert {future.result(30) for future in futures} == {"handler"}


@pytest.mark.long
def test_several_pools_and_threads(memory_db: shoal.Database) -> None:
    """Pools of one process do not hinder each other; a future cancelled right before shutdown does not hang."""
    with shoal.WorkerPool(memory_db.path, 1) as first, shoal.WorkerPool(memory_db.path, 1) as second:
        results: list[int] = []
        threads = [
            threading.Thread(target=lambda p=p: results.extend(p.map(abs, range(50)))) for p in (first, second) * 2
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(results) == sorted(list(range(50)) * 4)
        third = shoal.WorkerPool(memory_db.path, 1)
        third.submit(functions.sleep_then, 0.2)
        third.submit(functions.pid).cancel()
        third.shutdown()


@pytest.mark.long
def test_a_worker_may_have_a_pool(pool: shoal.WorkerPool, tmp_path: Path) -> None:
    """And tasks run in the worker's main thread, with signals as in a new process."""
    assert pool.submit(functions.pool_in_a_worker, str(tmp_path / "inner")).result(60) == [1, 2]
    assert pool.submit(functions.is_main_thread).result(30) is True


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_signals_are_not_inherited(memory_db: shoal.Database, method: str) -> None:
    """Not the wake-up descriptor, no handler, no blocked signal: only Ctrl-C is kept from the worker."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.signal(signal.SIGUSR1, lambda _number, _frame: None)
    wakeup = signal.set_wakeup_fd(write)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        with shoal.WorkerPool(memory_db.path, 1, mp_context=method) as pool:
            assert pool.submit(functions.signal_state).result(30) == (-1, set(), ["SIGINT"])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGUSR1, before)
        os.close(read)
        os.close(write)


@pytest.mark.long
def test_threads_of_tasks_are_joined(memory_db: shoal.Database, tmp_path: Path) -> None:
    """A worker ends in order when threads that are no daemons have ended."""
    with shoal.WorkerPool(memory_db.path, 1) as pool:
        pool.submit(functions.write_later, str(tmp_path / "file")).result(30)
    assert (tmp_path / "file").read_text() == "written"


@pytest.mark.parametrize("buffersize", [None, 1, 3])
@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_map(pool: shoal.WorkerPool, chunksize: int, buffersize: int | None) -> None:
    """Order, several iterables, and no more taken of an endless one than buffersize says."""
    got = pool.map(pow, range(10), itertools.repeat(2, 20), chunksize=chunksize, buffersize=buffersize)
    assert list(got) == [number**2 for number in range(10)]
    if buffersize is not None:
        taken = itertools.count()
        results: Any = pool.map(abs, taken, chunksize=chunksize, buffersize=buffersize)
        assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
        assert next(taken) <= chunksize * (buffersize + 6)
        results.close()


def test_map_in_one_task(pool: shoal.WorkerPool) -> None:
    """A chunksize of any length makes one task of all calls."""
    assert list(pool.map(abs, [-1, -2], chunksize=10**30)) == [1, 2]


@pytest.mark.long
@pytest.mark.parametrize("timeout", [math.inf, 1e300, 10**400], ids=["inf", "float", "int"])
def test_a_wait_for_ever(pool: shoal.WorkerPool, timeout: float) -> None:
    """Futures and map take any length of time, while a task still runs."""
    future = pool.submit(time.sleep, 0.3)
    assert future.exception(timeout) is None
    assert pool.submit(functions.sleep_then, 0.3, 1).result(timeout) == 1
    assert list(pool.map(time.sleep, [0.3], timeout=timeout)) == [None]


@pytest.mark.long
def test_map_with_errors_and_a_time_limit(pool: shoal.WorkerPool) -> None:
    """An error comes in its place; TimeoutError when the time is over, and the rest is cancelled."""
    results = pool.map(divmod, [1, 1, 1, 1], [2, 0, 3, 5])
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)
    results = pool.map(time.sleep, [0, 1.5, 1.5, 1.5, 1.5, 1.5], timeout=0.7)
    assert next(results) is None
    with pytest.raises(TimeoutError):
        list(results)
    for wrong in ({"chunksize": 0}, {"buffersize": 0}):
        with pytest.raises(ValueError, match="give a whole number from 1"):
            pool.map(abs, [1], **wrong)


class Value:
    """Can be referred to weakly."""


@pytest.mark.long
def test_the_pool_keeps_no_result_and_no_argument(pool: shoal.WorkerPool) -> None:
    """They are freed as soon as nobody else refers to them, without a garbage collection."""
    gc.collect()
    gc.disable()
    try:
        for result in pool.map(functions.echo, [Value(), Value()]):
            reference = weakref.ref(result)
            del result
            assert reference() is None
        argument = Value()
        reference = weakref.ref(argument)
        pool.submit(functions.echo, argument).result(30)
        del argument
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.long
def test_an_idle_pool_uses_no_processor(pool: shoal.WorkerPool) -> None:
    """Nothing polls: threads and workers sleep until there is something to do."""
    list(pool.map(functions.slow_pid, range(4)))
    time.sleep(0.3)
    before = time.process_time()
    time.sleep(1.5)
    assert time.process_time() - before < 0.1
