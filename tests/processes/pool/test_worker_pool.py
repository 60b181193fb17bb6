"""WorkerPool: an Executor that survives its workers."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.processes.pool.pool_processes import is_running, wait_for
from tests.support.repository import ROOT
from tests.support.workers import fleet_functions as functions

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture
def pool(memory_db: shoal.Database) -> Iterator[shoal.WorkerPool]:
    with shoal.WorkerPool(memory_db.path, workers=2) as pool:
        yield pool


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_runs_functions_with_every_start_method(tmp_path: Path, method: str) -> None:
    """The pool runs functions in processes started in any of Python's three ways, attached to the store."""
    context = multiprocessing.get_context(method)
    with shoal.WorkerPool(tmp_path / "store", workers=2, mp_context=context, linger=0.2) as pool:
        assert isinstance(pool, Executor)
        assert list(pool.map(functions.double, range(10))) == [2 * i for i in range(10)]
        assert sorted(pool.map(functions.count, ["n"] * 10)) == list(range(1, 11))
        assert shoal.KVStore(pool.database).get("counts", "n") == 10


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="there are no pidfds to be without")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_without_pidfds(memory_db: shoal.Database, monkeypatch: pytest.MonkeyPatch, method: str, number: int) -> None:
    """An older kernel, or a sandbox that refuses pidfds, is enough for a pool: it runs tasks and replaces the dead."""

    def refuse(_pid: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with shoal.WorkerPool(memory_db.path, workers=1, mp_context=method) as pool:
        assert pool.submit(functions.double, 1).result() == 2
        with pytest.raises(shoal.WorkerLostError):
            pool.submit(functions.die).result()
        assert pool.submit(functions.double, 2).result() == 4
        pids = pool.worker_pids
    assert not any(is_running(pid) for pid in pids)


@pytest.mark.long
def test_an_exception_reaches_its_future_with_where_it_came_from(pool: shoal.WorkerPool) -> None:
    """What a function raises is raised by its future, with the worker's traceback as its cause; it is not retried."""
    with pytest.raises(ValueError, match="no good: x") as caught:
        pool.submit(functions.fail, "x").result()
    assert "fleet_functions.py" in str(caught.value.__cause__)
    assert pool.submit(functions.double, 4).result() == 8


@pytest.mark.long
def test_a_dead_worker_takes_only_its_task_along(pool: shoal.WorkerPool) -> None:
    """kill -9 of a worker fails its own future with WorkerLostError; the worker is replaced and the others go on."""
    deadly = pool.submit(functions.die)
    others = [pool.submit(functions.double, i) for i in range(20)]
    with pytest.raises(shoal.WorkerLostError, match=r"die died with exit code -9 \(SIGKILL\) on attempt 1; "):
        deadly.result()
    assert [future.result() for future in others] == [2 * i for i in range(20)]
    wait_for(lambda: len(pool.worker_pids) == 2)


@pytest.mark.long
def test_an_idle_worker_that_dies_is_replaced(pool: shoal.WorkerPool) -> None:
    """A worker that dies between tasks costs nothing."""
    pool.submit(functions.double, 1).result()
    victim = pool.worker_pids[0]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in pool.worker_pids and len(pool.worker_pids) == 2)
    assert pool.submit(functions.double, 2).result() == 4


@pytest.mark.long
def test_retries_run_a_lost_task_again(memory_db: shoal.Database, tmp_path: Path) -> None:
    """With retries=1 a task whose worker died once runs again; one that always kills its worker fails after two."""
    with shoal.WorkerPool(memory_db.path, workers=2, retries=1) as pool:
        assert pool.submit(functions.die_until, str(tmp_path / "marker")).result() == "survived"
        with pytest.raises(shoal.WorkerLostError, match="on attempt 2; run it again, or allow more retries"):
            pool.submit(functions.die).result()


@pytest.mark.long
def test_what_cannot_be_sent_is_the_future_s_problem(pool: shoal.WorkerPool) -> None:
    """Arguments, results and exceptions that do not survive pickling fail their future and nothing else."""
    with pytest.raises(Exception, match=r"pickle|get local object"):  # as the version of Python says it
        pool.submit(functions.double, lambda: None).result()
    with pytest.raises(TypeError, match="result of type function cannot be sent"):
        pool.submit(functions.unsendable).result()
    with pytest.raises(shoal.WorkerTaskError, match="OddError: odd"):
        pool.submit(functions.raise_odd).result()
    assert pool.submit(functions.double, 3).result() == 6


def test_current_database_outside_a_worker(tmp_path: Path) -> None:
    """Outside a worker current_database() is InvalidOperationError."""
    with pytest.raises(shoal.InvalidOperationError, match="outside a worker"):
        shoal.current_database()


@pytest.mark.long
def test_a_task_that_closes_the_current_database(memory_db: shoal.Database) -> None:
    """It harms no later task of the same worker, nor itself: current_database() attaches anew."""
    with shoal.WorkerPool(memory_db.path, workers=1) as pool:
        assert pool.submit(functions.count_and_close, "n").result() == [1, 2]
        assert pool.submit(functions.count, "n").result() == 3
        (pid,) = pool.worker_pids
        assert pool.submit(os.getpid).result() == pid


@pytest.mark.parametrize(("workers", "retries"), [(0, 0), (-1, 0), (1.5, 0), (1, -1)])
def test_bad_arguments(tmp_path: Path, workers: Any, retries: Any) -> None:
    """Numbers that make no sense are ValueError, and no store's coordinator stays behind."""
    with pytest.raises(ValueError, match="give a whole number"):
        shoal.WorkerPool(tmp_path / "store", workers=workers, retries=retries, linger=0.1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"workers": 2, "max_workers": 3}, ValueError),
        ({"max_workers": 0}, ValueError),
        ({"workers": True}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"max_tasks_per_child": 0}, ValueError),
        ({"max_tasks_per_child": 1.5}, TypeError),
        ({"initializer": 5}, TypeError),
        ({"initializer": functions.wait_later}, TypeError),
        ({"initargs": 5}, TypeError),
        ({"mp_context": "thread"}, ValueError),
        ({"mp_context": 5}, TypeError),
        ({"retries": -1}, ValueError),
    ],
)
def test_bad_options(tmp_path: Path, options: Any, error: type[Exception]) -> None:
    """They are refused before a store is opened, by the name that was given."""
    with pytest.raises(error, match=next(iter(options))):
        shoal.WorkerPool(tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_an_unknown_start_method(tmp_path: Path) -> None:
    """The error names those there are."""
    with pytest.raises(ValueError, match=r"mp_context is 'thread'; give one of .*forkserver"):
        shoal.WorkerPool(tmp_path / "store", mp_context="thread")


@pytest.mark.long
def test_max_workers_is_workers(memory_db: shoal.Database) -> None:
    """Either name, or both if they agree."""
    either: list[dict[str, Any]] = [{"workers": 1}, {"max_workers": 1}, {"workers": 1, "max_workers": 1}]
    for options in either:
        with shoal.WorkerPool(memory_db.path, **options) as pool:
            pool.submit(os.getpid).result(30)
            assert len(pool.worker_pids) == 1


@pytest.mark.long
def test_a_pool_that_was_shut_down_takes_nothing(memory_db: shoal.Database) -> None:
    """submit after shutdown is RuntimeError, as for every Executor; all workers are gone."""
    pool = shoal.WorkerPool(memory_db.path, workers=2)
    pool.submit(functions.double, 1).result()
    pids = pool.worker_pids
    pool.shutdown()
    assert not any(is_running(pid) for pid in pids)
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(functions.double, 1)


@pytest.mark.long
def test_shutdown_finishes_or_cancels_what_waits(memory_db: shoal.Database) -> None:
    """shutdown waits for submitted tasks; with cancel_futures those not begun are cancelled."""
    with shoal.WorkerPool(memory_db.path, workers=1) as pool:
        futures = [pool.submit(functions.double, i) for i in range(50)]
    assert [future.result() for future in futures] == [2 * i for i in range(50)]
    pool = shoal.WorkerPool(memory_db.path, workers=1)
    futures = [pool.submit(time.sleep, 0.05) for _ in range(20)]
    pool.shutdown(cancel_futures=True)
    assert all(future.done() for future in futures)
    assert any(future.cancelled() for future in futures)


PROGRAM = textwrap.dedent(
    """
    import sys, shoal
    from tests.support.workers import fleet_functions as functions
    if __name__ == "__main__":
        with shoal.WorkerPool(sys.argv[1], workers=2, linger=0.2) as pool:
            futures = [pool.submit(functions.sleep_long, sys.argv[2] + str(i)) for i in range(4)]
            pids = []
            while len(pids) < 2:
                pids = pool.worker_pids
            print(*pids, pool.database.info().coordinator_pid, flush=True)
            futures[0].result()
    """
)


@pytest.mark.long
@pytest.mark.parametrize("how", ["ctrl-c", "kill-9"])
def test_no_process_is_left(tmp_path: Path, how: str) -> None:
    """After Ctrl-C to the group, and after kill -9 of the pool's process, no worker and no coordinator is left."""
    marker = tmp_path / "marker"
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "store"), str(marker)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert program.stdout is not None
    pids = [int(word) for word in program.stdout.readline().split()]
    wait_for(lambda: (tmp_path / "marker0").exists() and (tmp_path / "marker1").exists())
    if how == "ctrl-c":
        os.killpg(program.pid, signal.SIGINT)
    else:
        program.kill()
    program.wait(timeout=20)
    program.stdout.close()
    wait_for(lambda: not any(is_running(pid) for pid in pids))
