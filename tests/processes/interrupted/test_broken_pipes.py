"""Programs that SIGPIPE ends, as those that set its default action: the death of a coordinator does not end them."""

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
