"""Starting workers when that is hard: no processes left, the process that starts them dead or stopped, Ctrl-C."""

from __future__ import annotations

import gc
import logging
import multiprocessing.forkserver
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import shoal
from tests.processes.pool.pool_processes import Program, is_running, parent_of, wait_for
from tests.support.present import present
from tests.support.slow import slow
from tests.support.workers import pool_functions as functions
from tests.support.workers.crash_workers import descriptors

pytestmark = pytest.mark.uncompiled

# The kernel limits the processes of a real user other than root, unless it has one of two capabilities.
LIMITED = ("setpriv", "--bounding-set=-sys_resource,-sys_admin")


class Interrupted(BaseException):
    """Raised where a signal handler could raise."""


WITHOUT_PROCESSES = """
    import logging, os, resource, signal, sys, threading, time
    import shoal
    from tests.support.workers import pool_functions as functions

    def hoard():
        pids = []
        try:
            while True:
                pid = os.fork()
                if pid == 0:
                    time.sleep(120)
                    os._exit(0)
                pids.append(pid)
        except BlockingIOError:
            return pids

    def release(pids):
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    class Said(logging.StreamHandler):
        heard = threading.Event()

        def emit(self, record):
            super().emit(record)
            if "cannot be started now" in record.getMessage():
                self.heard.set()

    if __name__ == "__main__":
        store, method, free = sys.argv[1:]
        logging.basicConfig(level=logging.WARNING, handlers=[Said()])
        with shoal.WorkerPool(store, 2, mp_context=method, durability="memory", linger=0.2) as pool:
            os.setresuid(100_000 + os.getpid(), 0, 0)  # a user without other processes
            resource.setrlimit(resource.RLIMIT_NPROC, (30, 30))
            hoarded = hoard()
            release(hoarded[:int(free)])
            futures = [pool.submit(functions.echo, number) for number in range(6)]
            assert Said.heard.wait(30)
            time.sleep(0.5)
            is_early = any(future.done() for future in futures)
            release(hoarded[int(free):])
            print([future.result() for future in futures], is_early)
"""


@pytest.mark.long
@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
@pytest.mark.parametrize(
    ("method", "free"), [("forkserver", "4"), ("fork", "4"), *slow(("forkserver", "5"), ("spawn", "4"))]
)
def test_without_processes_the_pool_waits(tmp_path: Path, method: str, free: str) -> None:
    """At the user's limit of processes and threads workers start later; it is said once, the pool is not broken.

    A few are ``free`` for the pool's threads and the process that starts workers, which then cannot fork. If that
    process forks before the second thread has begun, there is one worker early, and it is said again for the other.
    """
    program = Program(tmp_path, WITHOUT_PROCESSES, method, free, prefix=LIMITED)
    try:
        code, out, errors = program.end()
        results, _, is_early = out.strip().rpartition(" ")
        assert (code, results) == (0, str(list(range(6)))), errors
        assert 1 <= errors.count("cannot be started now") <= 1 + (is_early == "True"), errors
        wait_for(lambda: not program.processes())
    finally:
        program.kill_all()


def fork_server() -> int:
    server: Any = multiprocessing.forkserver._forkserver
    while (pid := server._forkserver_pid) is None:
        time.sleep(0.005)  # another thread starts it
    found: int = pid
    return found


def has_another_fork_server(victim: int) -> bool:
    return fork_server() != victim


def have_ended(threads: list[threading.Thread]) -> bool:
    return not any(thread.is_alive() for thread in threads)


@pytest.mark.long
def test_the_fork_server_dies_again_and_again(memory_db: shoal.Database, caplog: pytest.LogCaptureFixture) -> None:
    """That is no failed start of a worker, however often it happens during one; tasks wait, and it is said."""
    with shoal.WorkerPool(memory_db.path, 2) as pool, caplog.at_level(logging.WARNING, "shoal"):
        wait_for(lambda: len(set(pool.map(functions.slow_pid, range(4)))) == 2)
        os.kill(fork_server(), signal.SIGSTOP)
        for pid in pool.worker_pids:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: all(one.is_starting for one in pool._state.supervisors))
        waiting = [pool.submit(functions.echo, number) for number in range(3)]
        for _ in range(5):
            wait_for(lambda: any(one.is_starting for one in pool._state.supervisors))
            victim = fork_server()
            os.kill(victim, signal.SIGKILL)
            wait_for(partial(has_another_fork_server, victim))
            os.kill(fork_server(), signal.SIGSTOP)
        os.kill(fork_server(), signal.SIGCONT)
        assert [future.result(30) for future in waiting] == [0, 1, 2]
        said = [record.getMessage() for record in caplog.records if "cannot be started now" in record.getMessage()]
        assert len(said) == 1
        assert "fork server" in said[0]


def starter(pool: shoal.WorkerPool, method: str) -> int:
    return fork_server() if method == "forkserver" else present(present(pool._state.template).pid)


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "end", "is_starting"),
    [
        *(("forkserver", "shutdown", True), ("fork", "kill", True), ("fork", "shutdown", False)),
        *slow(("fork", "shutdown", True), ("forkserver", "kill", True), ("forkserver", "shutdown", False)),
        *slow(("forkserver", "kill", False), ("fork", "kill", False)),
    ],
)
def test_a_stopped_process_that_starts_workers(
    memory_db: shoal.Database, method: str, end: str, is_starting: bool
) -> None:
    """kill and shutdown do not wait for it when all tasks are done. No worker, no template is left."""
    pool = shoal.WorkerPool(memory_db.path, 2, mp_context=method)
    wait_for(lambda: len(set(pool.map(functions.slow_pid, range(4)))) == 2)
    stopped, workers = starter(pool, method), list(pool.worker_pids)
    os.kill(stopped, signal.SIGSTOP)
    try:
        if is_starting:
            os.kill(workers[0], signal.SIGKILL)
            wait_for(lambda: any(one.is_starting for one in pool._state.supervisors))
            assert pool.submit(functions.echo, "the other worker").result(30) == "the other worker"
        begin = time.monotonic()
        getattr(pool, end)()
        assert time.monotonic() - begin < 20
        assert not any(is_running(pid) for pid in workers)
        assert is_running(stopped) == (method == "forkserver")
        with pytest.raises(shoal.InvalidOperationError, match="closed"):
            shoal.KVStore(pool.database).get("run", "key")
    finally:
        if method == "forkserver":
            os.kill(stopped, signal.SIGCONT)
    wait_for(lambda: not any(one.thread.is_alive() for one in pool._state.supervisors))
    assert pool.worker_pids == []


@pytest.mark.long
def test_shutdown_waits_for_tasks_that_a_stopped_starter_delays(memory_db: shoal.Database) -> None:
    """Tasks that were submitted are done, although no worker can be started for a while."""
    pool = shoal.WorkerPool(memory_db.path, 1)
    worker = pool.submit(functions.pid).result(30)
    os.kill(fork_server(), signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: pool._state.supervisors[0].is_starting)
    future = pool.submit(functions.echo, "late")
    timer = threading.Timer(3, os.kill, (fork_server(), signal.SIGCONT))
    timer.start()
    pool.shutdown()
    assert future.result(0) == "late"


ORPHANS = """
    import os, re, signal, sys, time
    import shoal
    from tests.support.workers import pool_functions as functions

    def hold_the_interpreter(path):
        open(path, "w").close()
        re.match("(a*)*b", "a" * 60)  # for years

    if __name__ == "__main__":
        store, method, how = sys.argv[1:]
        pool = shoal.WorkerPool(store, 2, mp_context=method, durability="memory", linger=0.1)
        while len(set(pool.map(functions.slow_pid, range(6)))) < 2:
            pass
        workers = pool.worker_pids
        for number in range(2):
            if how == "native code":
                pool.submit(hold_the_interpreter, store + str(number))
                while not os.path.exists(store + str(number)):
                    time.sleep(0.01)
            else:
                os.kill(workers[number], signal.SIGSTOP)
        time.sleep(0.3)
        print(*workers, flush=True)
        time.sleep(60)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal is Linux's")
@pytest.mark.parametrize(
    ("method", "how"),
    [
        *(("forkserver", "native code"), ("fork", "stopped")),
        *slow(("fork", "native code"), ("spawn", "native code"), ("forkserver", "stopped"), ("spawn", "stopped")),
    ],
)
def test_kill_9_ends_workers_that_cannot_look(tmp_path: Path, method: str, how: str) -> None:
    """A worker in native code that holds the interpreter, or one that is stopped, ends with the pool's process."""
    program = Program(tmp_path, ORPHANS, method, how)
    try:
        workers = [int(word) for word in program.line().split()]
        assert len(workers) == 2
        assert all(is_running(pid) for pid in workers)
        program.process.kill()
        wait_for(lambda: not program.processes())
    finally:
        program.kill_all()


@pytest.fixture
def zombies() -> Iterator[None]:
    """No process that is a child of this one is left by the test, dead or alive."""
    before = children()
    yield
    wait_for(lambda: children() <= before)


def children() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if parent_of(int(entry.name)) == os.getpid():
                    found.add(int(entry.name))
            except (OSError, IndexError):
                continue
    return found


def _submit_interrupted(pool: shoal.WorkerPool, at: int) -> bool:
    """The first ``submit``, with an exception at its call or return number ``at``; whether that was reached."""
    events, here = 0, os.getpid()

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal events
        # Neither in the template, nor in the standard library, whose own hooks for a fork do not bear it.
        if os.getpid() != here or "/workers/" not in frame.f_code.co_filename:
            return
        if event == "c_call":  # Python looks for signals after a call: before it, no handler runs
            return
        events += 1
        if events == at:
            sys.setprofile(None)
            raise Interrupted

    sys.setprofile(profile)
    try:
        pool.submit(functions.pid)
    except Interrupted:
        return True
    finally:
        sys.setprofile(None)
    return events >= at


# An interrupt between two steps leaves sockets to the collector, and one inside ``__del__`` is reported and goes on.
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("goes_on", [False, True], ids=["kill", "submit again"])
@pytest.mark.parametrize("method", ["fork", *slow("forkserver", "spawn")])
def test_interrupted_while_it_starts(
    request: pytest.FixtureRequest, memory_db: shoal.Database, zombies: None, method: str, goes_on: bool
) -> None:
    """Ctrl-C at each call and return of the first submit: kill leaves no thread, process or descriptor.

    If the program goes on instead, the next submit starts what is missing, and its task is done.
    """
    with shoal.WorkerPool(memory_db.path, 2, mp_context=method) as pool:  # starts the helpers of multiprocessing
        pool.submit(functions.pid).result(30)
    gc.collect()
    before = len(descriptors())
    step = 7 if method != "fork" else 1 if request.config.getoption("--slow") else 5
    at, is_reached = random.randrange(step), True
    print("the first is at", at)
    while is_reached:
        at += step
        pool = shoal.WorkerPool(memory_db.path, 2, mp_context=method)
        try:
            is_reached = _submit_interrupted(pool, at)
            if goes_on:
                assert pool.submit(functions.echo, at).result(30) == at
                assert len(pool._state.supervisors) == 2
        finally:
            pool.kill()
        threads = [one.thread for one in pool._state.supervisors]
        del pool
        wait_for(partial(have_ended, threads))
    assert at > 20
    assert not [thread for thread in threading.enumerate() if thread.name == "shoal-pool"]
    gc.collect()
    wait_for(lambda: len(descriptors()) == before)
