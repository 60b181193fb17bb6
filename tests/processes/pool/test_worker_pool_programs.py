"""How a pool ends with the program around it: exit, exec, programs without a file, a coordinator that pauses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.processes.pool.pool_processes import is_running, wait_for
from tests.support.slow import slow
from tests.support.workers import pool_functions as functions

pytestmark = pytest.mark.uncompiled

METHODS = ["forkserver", *slow("spawn", "fork")]

BEGIN = """
import os, signal, sys, threading, time
import shoal

def note(path, number):
    time.sleep(0.1)
    open(f"{path}/done{number}", "w").close()

def note_and_sleep(path):
    open(f"{path}/{os.getpid()}.pid", "w").close()
    time.sleep(30)

def main(path, method):
"""

END = """
if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
"""

EXITS = """
    with shoal.WorkerPool(path + "/store", 1, mp_context=method, linger=0.0) as pool:
        for i in range(4):
            pool.submit(note, path, i)
        sys.exit(0)
"""

GOES_ON_AFTER_CTRL_C = """
    pool = shoal.WorkerPool(path + "/store", 1, mp_context=method, linger=0.0)
    waiting = pool.submit(time.sleep, 1)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        waiting.result()
    except KeyboardInterrupt:
        pass
    for i in range(4):
        pool.submit(note, path, i)
"""

EXECUTES = """
    pool = shoal.WorkerPool(path + "/store", 2, mp_context=method, linger=0.0)
    for _ in range(2):
        pool.submit(note_and_sleep, path)
    while len([name for name in os.listdir(path) if name.endswith(".pid")]) < 2:
        time.sleep(0.02)
    os.execv("/bin/sleep", ["sleep", "20"])
"""

WITHOUT_A_FILE = """
    with shoal.WorkerPool(path + "/store", 1, mp_context=method, linger=0.0) as pool:
        print(pool.submit(len, "abc").result(30))
"""


ENDS_AT_ONCE = """
    pool = shoal.WorkerPool(path + "/store", 2, mp_context=method, linger=0.0)
    for i in range(4):
        pool.submit(note, path, i)
"""

EXITS_HARD = """
    pool = shoal.WorkerPool(path + "/store", 2, mp_context=method, linger=0.0)
    pool.submit(len, "abc").result(30)
    os._exit(0)
"""

THREAD_GOES_ON = """
    make = shoal.WorkerPool  # imports what cannot be imported later

    def work():
        threading.main_thread().join()
        time.sleep(0.2)
        pool = make(path + "/store", 1, mp_context=method, linger=0.0)
        try:
            pool.submit(len, "abc")
        except RuntimeError as error:
            print(error)
        pool.shutdown()

    threading.Thread(target=work).start()
"""

ENDS_OF_WORKERS = """
    import atexit, multiprocessing
    atexit.register(print, "end of the program", flush=True)
    texts = multiprocessing.get_context(method).Queue()
    options = {"mp_context": method, "linger": 0.0, "initializer": begin, "initargs": (texts,)}
    with shoal.WorkerPool(path + "/store", 1, **options) as pool:
        pool.submit(put_off, path).result(30)
    assert len(texts.get_nowait()) == 1000

def begin(texts):
    global tell
    tell = texts.put

def put_off(path):
    import atexit
    atexit.register(note, path, 0)
    tell("x" * 1000)
"""

IN_AN_INTERACTIVE_SESSION = """
import os, shoal, signal, sys, time
signal.raise_signal(signal.SIGINT)
pool = shoal.WorkerPool(sys.argv[1] + "/store", 1, linger=0.0)
first = pool.submit(time.sleep, 0.5)
last = pool.submit(os.mkdir, sys.argv[1] + "/done")
"""


def start(path: Path, method: str, body: str, **options: Any) -> subprocess.Popen[str]:
    program = path / "program.py"
    program.write_text(BEGIN + body + END)
    return subprocess.Popen([sys.executable, str(program), str(path), method], text=True, **options)


@pytest.mark.long
@pytest.mark.parametrize("body", [EXITS, GOES_ON_AFTER_CTRL_C], ids=["sys.exit in with", "goes on after Ctrl-C"])
def test_what_was_submitted_is_done(tmp_path: Path, body: str) -> None:
    """sys.exit is no Ctrl-C; and a program that has caught Ctrl-C may submit more. Both end as the standard pool."""
    assert start(tmp_path, "forkserver", body).wait(60) == 0
    assert len(list(tmp_path.glob("done*"))) == 4


@pytest.mark.long
def test_ctrl_c_in_an_interactive_session_ends_one_line(tmp_path: Path) -> None:
    """The session goes on, so what is submitted after it is done when the session ends."""
    command = [sys.executable, "-i", "-", str(tmp_path)]
    said = subprocess.run(command, input=IN_AN_INTERACTIVE_SESSION, capture_output=True, text=True, timeout=60)
    assert "KeyboardInterrupt" in said.stderr
    assert (tmp_path / "done").exists(), said.stderr


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("body", [ENDS_AT_ONCE, EXITS_HARD], ids=["end of the main module", "os._exit"])
def test_an_end_without_a_word(tmp_path: Path, method: str, body: str) -> None:
    """The main module may end while workers start, and a program at any time: nothing is printed."""
    program = start(tmp_path, method, body, stderr=subprocess.PIPE)  # which ends when the last process has ended
    assert program.communicate(timeout=60)[1] == ""
    assert program.returncode == 0
    assert len(list(tmp_path.glob("done*"))) == (4 if body is ENDS_AT_ONCE else 0)


@pytest.mark.long
def test_a_thread_after_the_end_of_the_main_thread(tmp_path: Path) -> None:
    """It can start no workers any more, as with the standard pool, and is told why."""
    program = start(tmp_path, "forkserver", THREAD_GOES_ON, stdout=subprocess.PIPE)
    assert "the main thread has ended; have it wait" in program.communicate(timeout=60)[0]
    assert program.returncode == 0


@pytest.mark.long
def test_a_generator_that_is_closed_early_finishes_its_tasks(memory_db: shoal.Database, tmp_path: Path) -> None:
    """Its GeneratorExit is no Ctrl-C."""
    futures: list[Future[None]] = []

    def results() -> Iterator[object]:
        with shoal.WorkerPool(memory_db.path, 1) as pool:
            futures.extend(pool.submit(time.sleep, 0.3) for _ in range(3))
            for future in futures:
                yield future.result(30)

    generator = results()
    next(generator)
    generator.close()  # type: ignore[attr-defined]
    assert [future.result(0) for future in futures] == [None] * 3


@pytest.mark.parametrize("method", METHODS)
def test_workers_end_when_the_program_executes_another(tmp_path: Path, method: str) -> None:
    """The process lives on after exec, but nobody is there for the workers any more."""
    program = start(tmp_path, method, EXECUTES)
    try:
        wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
        wait_for(lambda: not any(is_running(pid) for pid in pids), 15)
        assert program.poll() is None
    finally:
        program.kill()
        program.wait()


@pytest.mark.long
def test_a_worker_that_ends_does_what_it_has_put_off(tmp_path: Path) -> None:
    """Forked or not: its ``atexit`` functions run, and its queues of multiprocessing are written out. What the program
    has registered runs in the program alone."""
    program = start(tmp_path, "fork", ENDS_OF_WORKERS, stdout=subprocess.PIPE)
    assert program.communicate(timeout=60)[0] == "end of the program\n"
    assert program.returncode == 0
    assert (tmp_path / "done0").exists()


@pytest.mark.parametrize("method", METHODS)
def test_a_program_read_from_standard_input(tmp_path: Path, method: str) -> None:
    """Its workers start without the main module, which no other process can import, as with ``python -c``."""
    command = [sys.executable, "-", str(tmp_path), method]
    said = subprocess.run(command, input=BEGIN + WITHOUT_A_FILE + END, capture_output=True, text=True, timeout=60)
    assert said.stdout == "3\n", said.stderr


def test_killing_a_pool_whose_template_is_dead_and_reaped(memory_db: shoal.Database) -> None:
    """A program that ignores SIGCHLD has its children reaped by the kernel."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        pool = shoal.WorkerPool(memory_db.path, 1, mp_context="fork")
        template = pool.submit(os.getppid).result(30)
        os.kill(template, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{template}").exists())
        pool._state._ended -= 1  # the thread puts nothing away: what it raised would not be seen here
        pool.kill()
        pool._state._ended += 1
        pool.kill()
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.slow
def test_a_coordinator_that_pauses_while_a_worker_is_replaced(tmp_path: Path) -> None:
    """The pool tries again: it is not broken by one worker that found no coordinator in time."""
    with shoal.WorkerPool(tmp_path / "store", 1) as pool:
        coordinator = pool.database.info().coordinator_pid
        pool.submit(functions.pid).result(30)
        os.kill(coordinator, signal.SIGSTOP)
        try:
            pool.submit(os._exit, 1)
            future = pool.submit(functions.pid)
            time.sleep(12)
        finally:
            os.kill(coordinator, signal.SIGCONT)
        assert isinstance(future.result(30), int)
