"""A pool in a program whose standard descriptors are closed, or lead nowhere.

None of the numbers 0 to 2 is the pool's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import shoal
from tests.support.slow import slow
from tests.support.workers import pool_functions as functions

pytestmark = [pytest.mark.long, pytest.mark.uncompiled]

PROGRAM = """
import os, sys, time, traceback
import shoal

def low():
    return {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in range(3) if os.path.exists(f"/proc/self/fd/{fd}")}

def say(closed):
    for fd in closed:
        try:
            os.write(fd, b"a line of the program")
        except OSError:
            pass

def task(closed):
    say(closed)
    time.sleep(0.1)
    return low()

def wait_for(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, low()
        time.sleep(0.01)

def main(path, method, closed):
    before = low()
    print("this text waits in the buffer")
    with shoal.WorkerPool(path + "/store", 2, mp_context=method, linger=0.0) as pool:

        def results():
            futures = [pool.submit(task, closed) for _ in range(4)]
            say(closed)
            return [future.result(60) for future in futures]

        results()
        wait_for(lambda: low() == before)  # 0 to 2 are taken while a worker starts
        told = results()
        files = [os.open(path + "/file", os.O_RDWR | os.O_CREAT) for _ in closed]
        assert files == closed, files
        print("x" * 5000, flush=True)
        pool.submit(os._exit, 1).exception(60)
        told += results()
        assert all(there[fd] == "/dev/null" for there in told for fd in closed), told
        assert low() == {**before, **{fd: path + "/file" for fd in closed}}
    assert low() == {**before, **{fd: path + "/file" for fd in closed}}

if __name__ == "__main__":
    log = os.fdopen(os.dup(2), "w")
    closed = [int(fd) for fd in sys.argv[3]]
    for fd in closed:
        os.close(fd)
    try:
        main(sys.argv[1], sys.argv[2], closed)
    except BaseException as error:
        traceback.print_exception(error, file=log)
        log.flush()
        os._exit(1)
    os._exit(7)
"""


@pytest.mark.parametrize(
    ("method", "closed"),
    [
        ("forkserver", "012"),
        ("spawn", "012"),
        ("fork", "012"),
        *slow(*((method, closed) for method in ("forkserver", "spawn", "fork") for closed in ("0", "1", "12", "02"))),
    ],
)
def test_a_program_without_standard_descriptors(tmp_path: Path, method: str, closed: str) -> None:
    """Neither the pool nor a worker uses the numbers; what the program or a task writes to them harms no task."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path), method, closed],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 7, done.stderr


PRINTS_IN_VAIN = """
import os, sys
import shoal

if __name__ == "__main__":
    print("this text waits in the buffer")
    with shoal.WorkerPool(sys.argv[1], 1, mp_context=sys.argv[2], linger=0.0) as pool:
        assert pool.submit(len, "abc").result(60) == 3
        pool.submit(os._exit, 1).exception(60)
        assert pool.submit(len, "abcd").result(60) == 4
    os._exit(7)
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
@pytest.mark.parametrize("place", ["closed pipe", "full disk"])
def test_a_program_whose_output_cannot_be_written(tmp_path: Path, method: str, place: str) -> None:
    """Workers are started and replaced, though nobody takes what the program has printed before."""
    program = tmp_path / "program.py"
    program.write_text(PRINTS_IN_VAIN)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    if place == "full disk":
        nowhere = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, nowhere = os.pipe()
        os.close(reader)
    with os.fdopen(nowhere, "wb") as output:
        done = subprocess.run(
            [sys.executable, str(program), str(tmp_path / "store"), method],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=120,
        )
    assert done.returncode == 7, done.stderr


def test_a_task_that_closes_the_workers_descriptors(
    memory_db: shoal.Database, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is lost with its worker, whose one line on stderr tells why, and the pool goes on."""
    # Spawned: it has this process's descriptor 2, and no object that pytest captures with.
    with shoal.WorkerPool(memory_db.path, 1, mp_context="spawn") as pool:
        with pytest.raises(shoal.WorkerLostError, match="exit code 1"):
            pool.submit(functions.close_descriptors).result(60)
        assert pool.submit(functions.echo, "abc").result(60) == "abc"
    told = [line for line in capfd.readouterr().err.splitlines() if "Warning" not in line]
    assert len(told) == 1
    assert "has closed descriptors of the worker (Bad file descriptor); have it close only" in told[0]
