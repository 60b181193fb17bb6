"""A pool in a process that was forked from a program with a pool, and a fork server that is no child of the process."""

from __future__ import annotations

import multiprocessing.forkserver
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.support.workers import pool_functions as functions

pytestmark = pytest.mark.uncompiled

METHODS = ["forkserver", "spawn", "fork"]


@pytest.fixture
def pool(memory_db: shoal.Database) -> Iterator[shoal.WorkerPool]:
    """A pool whose worker was started by the fork server."""
    with shoal.WorkerPool(memory_db.path, 1) as pool:
        pool.submit(functions.pid).result(30)
        yield pool


def _fork_server() -> Any:
    return multiprocessing.forkserver._forkserver


def _in_a_child(call: Callable[[], object]) -> int:
    """Exit code of a forked process that calls ``call``: 0 if it returned, 1 if it raised, -9 if it hung."""
    child = os.fork()
    if child == 0:
        try:
            call()
            os._exit(0)
        finally:
            os._exit(1)
    until = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        time.sleep(0.05)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(ended[1])


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_a_forked_child_makes_its_own_pool(pool: shoal.WorkerPool, method: str) -> None:
    """The fork server of its parent is not its child, so it starts another; the parent's pool goes on."""

    def use() -> None:
        with shoal.WorkerPool(pool.database.path, 1, mp_context=method) as own:
            assert own.submit(functions.echo, "abc").result(50) == "abc"

    before = _fork_server()._forkserver_pid
    assert _in_a_child(use) == 0
    assert isinstance(pool.submit(functions.pid).result(30), int)
    assert _fork_server()._forkserver_pid == before


def test_a_fork_while_another_thread_uses_the_fork_server(pool: shoal.WorkerPool) -> None:
    """The thread is not there in the child, and what it has locked would stay locked for ever."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with _fork_server()._lock:
            held.set()
            done.wait(120)

    def use() -> None:
        with shoal.WorkerPool(pool.database.path, 1) as own:
            assert own.submit(functions.echo, "abc").result(50) == "abc"

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert _in_a_child(use) == 0
    finally:
        done.set()
        thread.join()


@pytest.mark.long
def test_the_program_reaps_the_fork_server(pool: shoal.WorkerPool) -> None:
    """As programs do that wait for any child. ``multiprocessing`` alone would never start another one."""
    server = _fork_server()._forkserver_pid
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
    assert isinstance(pool.submit(os._exit, 1).exception(30), shoal.WorkerLostError)
    assert isinstance(pool.submit(functions.pid).result(30), int)
    assert _fork_server()._forkserver_pid != server


@pytest.mark.long
def test_somebody_removes_the_socket_of_the_fork_server(pool: shoal.WorkerPool) -> None:
    """As what cleans /tmp does. The server runs and cannot be reached; workers are started without it."""
    os.unlink(_fork_server()._forkserver_address)
    try:
        for _ in range(2):
            assert isinstance(pool.submit(os._exit, 1).exception(30), shoal.WorkerLostError)
            assert isinstance(pool.submit(functions.pid).result(30), int)
    finally:
        os.kill(_fork_server()._forkserver_pid, signal.SIGKILL)  # so that other tests get another one


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_the_current_directory_was_deleted(
    memory_db: shoal.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """No worker can be started: the pool says why. With ``fork`` it works."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with shoal.WorkerPool(memory_db.path, 1, mp_context=method) as pool:
        error = pool.submit(functions.pid).exception(30)
    assert isinstance(error, BrokenProcessPool)
    assert "current directory of the program was deleted; change" in str(error)
    with shoal.WorkerPool(memory_db.path, 1, mp_context="fork") as pool:
        assert pool.submit(functions.echo, "abc").result(30) == "abc"
