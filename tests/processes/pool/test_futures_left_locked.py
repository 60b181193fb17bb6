"""Ctrl-C in ``concurrent.futures.wait`` or ``as_completed`` may leave futures locked by the thread that waited."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable
from concurrent.futures._base import _AcquireFutures
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.workers.pool.task import TaskFuture
from tests.processes.pool.pool_processes import wait_for
from tests.support.workers import pool_functions as functions

pytestmark = [pytest.mark.long, pytest.mark.uncompiled]


def test_the_end_of_a_pool(tmp_path: Path) -> None:
    """The pool settles them and ends."""
    pool = shoal.WorkerPool(tmp_path / "store", 2, durability="memory", linger=0.1)
    futures = [pool.submit(functions.sleep_then, 1) for _ in range(20)]
    wait_for(lambda: futures[0].running())
    _AcquireFutures(futures).__enter__()
    pool.kill()
    assert all(future.done() for future in futures)
    assert not any(supervisor.thread.is_alive() for supervisor in pool._state.supervisors)


def test_a_future_that_is_being_made(tmp_path: Path) -> None:
    """Another thread may be in the middle of ``submit``: the pool ends all the same."""
    half_made = TaskFuture.__new__(TaskFuture)
    pool = shoal.WorkerPool(tmp_path / "store", 1, durability="memory", linger=0.1)
    pool.submit(functions.sleep_then, 0).result(60)
    pool.kill()
    assert not any(supervisor.thread.is_alive() for supervisor in pool._state.supervisors)
    assert not hasattr(half_made, "_condition")


@pytest.mark.parametrize("wait_again", [concurrent.futures.wait, concurrent.futures.as_completed])
def test_waiting_again(tmp_path: Path, wait_again: Callable[..., Iterable[Any]]) -> None:
    """A program that catches Ctrl-C may wait for the same futures again: all of them are settled, and it goes on."""
    with shoal.WorkerPool(tmp_path / "store", 2, durability="memory", linger=0.1) as pool:
        futures = [pool.submit(functions.sleep_then, 0.01) for _ in range(20)]
        for _ in range(2):  # Ctrl-C more than once
            _AcquireFutures(futures[:10]).__enter__()
        list(wait_again(futures, timeout=60))
        assert all(future.done() for future in futures)
        assert pool.submit(functions.sleep_then, 0).result(60) is None


def test_a_handler_that_waits_inside_a_wait(tmp_path: Path) -> None:
    """What ``concurrent.futures`` has locked rightly stays locked when a signal handler waits for the same future."""
    with shoal.WorkerPool(tmp_path / "store", 1, durability="memory", linger=0.1) as pool:
        future = pool.submit(functions.sleep_then, 0.2, "done")
        done: list[int] = []

        class Waiters(list[Any]):
            def append(self, waiter: Any) -> None:
                if not done:  # ``wait`` has locked the future
                    done.append(1)
                    concurrent.futures.wait([future], timeout=0)
                super().append(waiter)

        future._waiters = Waiters()
        concurrent.futures.wait([future], timeout=60)
        assert done
        assert future.result(0) == "done"
