"""How a pool ends: in order, by Ctrl-C, by kill -9, collected, forked; and that no process is left in any case."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.workers.pool import helper_processes
from tests.processes.pool.pool_processes import Program, wait_for
from tests.support.slow import slow
from tests.support.workers import pool_functions as functions

pytestmark = pytest.mark.uncompiled

METHODS = ["forkserver", *slow("fork", "spawn")]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def start(text: str, *arguments: str) -> Program:
        started.append(Program(tmp_path, text, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.kill_all()


INTERRUPTED = """
    import concurrent.futures, functools, sys, time
    import shoal
    from tests.support.workers import pool_functions as functions

    def nap(_=None):
        time.sleep(0.5)

    def main(store, method, where):
        pool = shoal.WorkerPool(store, 2, mp_context=method, durability="memory", linger=0.1)
        if where == "starting":
            pool.submit(nap)
            print("ready", flush=True)
            for _ in range(600):  # a signal right before a long sleep would be noticed at its end only
                time.sleep(0.1)
        pool.submit(nap).result()
        if where == "submit":
            print("ready", flush=True)
            while True:
                pool.submit(nap)
        futures = [pool.submit(nap) for _ in range(200)]
        futures[0].result()
        ready = functools.partial(print, "ready", flush=True)
        if where not in ("caught", "exit in with", "raises another"):  # these say it where they catch the signal
            ready()
        if where == "result":
            [future.result() for future in futures]
        elif where == "caught":
            try:
                ready()
                [future.result() for future in futures]
            except KeyboardInterrupt:
                sys.exit(130)
        elif where == "map":
            list(pool.map(nap, range(100)))
        elif where == "as_completed":
            list(concurrent.futures.as_completed(futures))
        elif where == "sleep":
            time.sleep(60)
        elif where == "shutdown":
            pool.shutdown()
        elif where == "with":
            with pool:
                futures[-1].result()
        elif where == "exit in with":
            with pool:
                try:
                    ready()
                    list(concurrent.futures.as_completed(futures))
                except KeyboardInterrupt:
                    sys.exit(130)
        elif where == "raises another":
            try:
                ready()
                concurrent.futures.wait(futures)
            except KeyboardInterrupt:
                raise ValueError("interrupted")
        elif where == "end of with":
            with pool:
                pass
        elif where == "callback":
            futures[1].add_done_callback(lambda _: time.sleep(60))
            pool.shutdown()

    if __name__ == "__main__":
        main(*sys.argv[1:])
"""
PLACES = ["result", "at exit", "exit in with", "raises another"]
CODES = {"caught": 130, "exit in with": 130, "raises another": 1}
MORE_PLACES = [
    "starting",
    "with",
    "submit",
    "caught",
    "map",
    "as_completed",
    "sleep",
    "shutdown",
    "end of with",
    "callback",
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "where"),
    [
        *(("forkserver", where) for where in PLACES),
        *slow(*(("forkserver", where) for where in MORE_PLACES), ("fork", "result"), ("spawn", "starting")),
    ],
)
def test_ctrl_c_ends_it(program: Callable[..., Program], method: str, where: str) -> None:
    """Wherever the main thread is: what is queued is not done, workers say nothing, and no process is left."""
    running = program(INTERRUPTED, method, where)
    assert running.line() == "ready"
    if where == "at exit":
        time.sleep(0.3)
    begin = time.monotonic()
    running.interrupt()
    code, _, errors = running.end(40)
    assert time.monotonic() - begin < 20
    assert "shoal-worker" not in errors
    assert "in work\n" not in errors
    assert where == "at exit" or code == CODES.get(where, -signal.SIGINT)
    wait_for(lambda: not running.processes())


ORPHANS = """
    import os, sys, time
    import shoal
    from tests.support.workers import pool_functions as functions

    if __name__ == "__main__":
        store, method = sys.argv[1:]
        pools = []
        for name in "ab":
            pool = shoal.WorkerPool(store + name, 1, mp_context=method, durability="memory", linger=0.1)
            pool.submit(functions.pid).result()
            pools.append(pool)
        child = os.fork()
        if child == 0:
            time.sleep(60)  # with copies of every descriptor
            os._exit(0)
        pools[0].submit(functions.die).exception()
        for pool in pools:
            pool.submit(functions.sleep_then, 60)
        time.sleep(0.5)
        print(child, flush=True)
        time.sleep(60)
"""


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_kill_9_leaves_nothing(program: Callable[..., Program], method: str) -> None:
    """Also with two pools, and while a forked child of the pools' process lives on: only that child is left."""
    running = program(ORPHANS, method)
    child = int(running.line())
    running.process.kill()
    # What multiprocessing starts to look after semaphores lives as long as the child has a copy of its pipe.
    wait_for(lambda: all(pid == child or b"resource_tracker" in command(pid) for pid in running.processes()))
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: not running.processes())


def command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


LEFT_ALONE = """
    import os, sys, time
    import shoal
    from tests.support.workers import pool_functions as functions

    def note(text):
        time.sleep(0.05)
        print(text, flush=True)

    if __name__ == "__main__":
        store, method, how = sys.argv[1:]
        pool = shoal.WorkerPool(store, 2, mp_context=method, durability="memory", linger=0.1)
        for number in range(6):
            pool.submit(note, "done")
        if how == "no wait":
            pool.shutdown(wait=False)
        elif how == "dropped":
            del pool
        elif how == "exit":
            sys.exit(3)
        elif how == "error":
            raise ValueError("of the program")
        elif how == "thread":
            import threading
            threading.Thread(target=time.sleep, args=(0.5,)).start()
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "how"),
    [
        *(("forkserver", how) for how in ("dropped", "error")),
        *slow(
            *(("forkserver", how) for how in ("end", "no wait", "exit", "thread")), ("fork", "end"), ("spawn", "end")
        ),
    ],
)
def test_what_is_queued_is_done_at_exit(program: Callable[..., Program], method: str, how: str) -> None:
    """As with the standard pool, however the program ends in order; then no process is left."""
    running = program(LEFT_ALONE, method, how)
    code, out, errors = running.end()
    assert out.count("done") == 6
    assert code == {"exit": 3, "error": 1}.get(how, 0)
    assert ("of the program" in errors) == (how == "error")
    wait_for(lambda: not running.processes())


@pytest.mark.long
def test_collected_pools_end_their_workers(memory_db: shoal.Database) -> None:
    """After what was submitted is done; the futures stay good."""
    pids, futures = [], []
    for _ in range(3):
        pool = shoal.WorkerPool(memory_db.path, 1)
        pids.append(pool.submit(functions.pid).result(30))
        futures.append(pool.submit(functions.sleep_then, 0.2, "done"))
    del pool
    gc.collect()
    assert [future.result(30) for future in futures] == ["done"] * 3
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_a_forked_child_cannot_use_the_pool(memory_db: shoal.Database, method: str) -> None:
    """It is told so and never hangs; that it leaves the pool's with statement, or exits, does not harm the pool."""
    with shoal.WorkerPool(memory_db.path, 1, mp_context=method) as pool:
        worker = pool.submit(functions.pid).result(30)
        pending = pool.submit(functions.sleep_then, 1.0, "pending")
        child = os.fork()
        if child == 0:
            refused = 0
            for call in (
                lambda: pool.submit(functions.pid),
                lambda: pool.map(functions.pid, [1]),
                lambda: pending.result(20),
                lambda: pool.cancel(pending, kill=True),
            ):
                try:
                    call()
                except shoal.InvalidOperationError:
                    refused += 1
            pool.shutdown()
            pool.kill()
            with pool:
                pass
            os._exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
        assert pending.result(30) == "pending"
        assert pool.submit(functions.pid).result(30) == worker


def _use_a_pool(path: str, method: str, ends_it: bool, answers: Any) -> None:
    pool = shoal.WorkerPool(path, 1, mp_context=method)
    answers.put(pool.submit(functions.echo, "abc").result(30))
    pool.submit(functions.sleep_then, 0.2)
    if ends_it:
        pool.shutdown()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("daemon", "ends_it"), [(True, False), *slow((True, True), (False, False))])
def test_a_pool_in_a_process_of_multiprocessing(
    memory_db: shoal.Database, method: str, daemon: bool, ends_it: bool
) -> None:
    """Also in a daemonic one, which may have no children of ``multiprocessing``; it ends, shut down or not."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_use_a_pool, args=(memory_db.path, method, ends_it, answers), daemon=daemon)
    process.start()
    assert answers.get(timeout=60) == "abc"
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.slow
def test_a_main_module_without_a_guard_is_told(program: Callable[..., Program]) -> None:
    """Workers import it again: each is refused its pool, and the pool breaks instead of starting workers for ever."""
    running = program("""
        import sys
        import shoal
        from tests.support.workers import pool_functions as functions
        pool = shoal.WorkerPool(sys.argv[1], 1, durability="memory", linger=0.1)
        print(pool.submit(functions.pid).exception(), flush=True)
    """)
    _, out, errors = running.end(90)
    assert "died before they were ready" in out
    assert "if __name__ ==" in errors
    wait_for(lambda: not running.processes())


def test_ctrl_c_again_at_the_very_end() -> None:
    """The program's end waits for a helper process of multiprocessing no longer, and nothing is raised and printed."""
    came: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    with subprocess.Popen(["sleep", "60"]) as helper:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            helper_processes._end(helper.pid, os.open(os.devnull, os.O_RDONLY))
            assert came == [signal.SIGALRM]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            helper.kill()
