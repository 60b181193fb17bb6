"""Programs that SIGPIPE ends, as those that set its default action: the death of another process does not end them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT
from tests.support.slow import slow

PROGRAM = """
import asyncio, os, signal, sys, threading, time
import shoal

signal.signal(signal.SIGPIPE, signal.SIG_DFL)

def kill(db):
    pid = db.info().coordinator_pid
    os.kill(pid, signal.SIGKILL)
    while os.path.exists(f"/proc/{pid}") and open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z":
        time.sleep(0.005)
    time.sleep(0.05)

def use(path):
    with shoal.open(path, linger=0.0) as db:
        kv = shoal.KVStore(db)
        for number in range(2):
            kv.put("r", f"k{number}", "x" * 200_000)
            kill(db)
            kv.put("r", f"l{number}", 1)
        with db.pipeline("r") as pipe:
            pipe.kv.put("m", 1).result(30)
            kill(db)
            pipe.kv.put("n", 1)
        print(len(kv.list("r")))

async def use_tasks(path):
    from shoal import aio
    async with await aio.open(path, linger=0.0) as db:
        kv = aio.KVStore(db)
        await kv.put("r", "o", 1)
        with shoal.open(path) as other:
            kill(other)
        await kv.put("r", "p", 1)
        print(len(await kv.list("r")))

HOW
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.sigpending(), signal.getsignal(signal.SIGPIPE).name)
sys.stdout.flush()
"""

CALLS = {
    "main thread": "use(sys.argv[1])",
    "other thread": "thread = threading.Thread(target=use, args=sys.argv[1:]); thread.start(); thread.join()",
    "tasks": "use(sys.argv[1]); asyncio.run(use_tasks(sys.argv[1]))",
}


# That with tasks does all that the one of the main thread does.
@pytest.mark.long
@pytest.mark.parametrize("how", [*slow("main thread"), "other thread", "tasks"])
def test_a_coordinator_dies_in_a_program_that_sigpipe_ends(tmp_path: Path, how: str) -> None:
    """Every commit is done, and the signal's action and mask are as the program has set them."""
    program = PROGRAM.replace("HOW", CALLS[how])
    command = [sys.executable, "-c", program, str(tmp_path / "store")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    counts = "6\n8\n" if how == "tasks" else "6\n"
    assert (ended.returncode, ended.stdout) == (0, f"{counts}set() set() SIG_DFL\n"), ended.stderr


POOL = """
import os, signal, sys, time
from multiprocessing import forkserver, resource_tracker
import shoal
from tests.support.workers import pool_functions as functions

path, method = sys.argv[1:]
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
large = "x" * 2_000_000  # more than the pipe takes through which a worker gets what it begins with
with shoal.WorkerPool(
    path, 1, durability="memory", mp_context=method, initializer=functions.echo, initargs=[large]
) as pool:
    print(pool.submit(functions.echo, 1).result(30))
    if method == "fork":
        os.kill(pool._state.template.pid, signal.SIGKILL)
        print(type(pool.submit(functions.die).exception(30)).__name__)
        while pool._state._broken is None:
            time.sleep(0.01)
    else:
        os.kill(resource_tracker._resource_tracker._pid, signal.SIGKILL)
        server = forkserver._forkserver._forkserver_pid
        os.kill(server, signal.SIGSTOP)
        print(type(pool.submit(functions.die).exception(30)).__name__)
        time.sleep(0.5)  # the start of the next worker fills the pipe
        os.kill(server, signal.SIGKILL)
        print(pool.submit(functions.echo, 2).result(30))
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.sigpending(), signal.getsignal(signal.SIGPIPE).name)
sys.stdout.flush()
"""


@pytest.mark.parametrize(
    ("method", "told"), [("fork", "1\nWorkerLostError\n"), ("forkserver", "1\nWorkerLostError\n2\n")]
)
def test_what_starts_workers_dies_in_a_program_that_sigpipe_ends(tmp_path: Path, method: str, told: str) -> None:
    """The pool is broken, or starts its workers in another way; the program goes on, with its action and mask."""
    command = [sys.executable, "-c", POOL, str(tmp_path / "store"), method]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert (ended.returncode, ended.stdout) == (0, f"{told}set() set() SIG_DFL\n"), ended.stderr
