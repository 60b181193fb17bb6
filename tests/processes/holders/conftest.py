"""Processes that hold something."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

import pytest

import shoal

Start = Callable[..., "subprocess.Popen[str]"]
Hold = Callable[[str, float], "subprocess.Popen[str]"]
_HOLDER = """
import sys, shoal
db = shoal.open(sys.argv[1])
lease = db.lease("run", sys.argv[2], ttl=float(sys.argv[3]))
print("held", flush=True)
sys.stdin.readline()
try:
    db.transact("run", lambda txn: txn.kv.put("late", 1), fence=lease)
    print("committed")
except shoal.FencedError:
    print("fenced")
"""


@pytest.fixture
def start(db: shoal.Database) -> Iterator[Start]:
    """Starts a program, whose first argument is the store's path, and waits until it says ``says``, if that is given.

    All are killed at the end.
    """
    started: list[subprocess.Popen[str]] = []

    def begin(program: str, *arguments: object, says: str | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, db.path, *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert says is None or process.stdout.readline() == f"{says}\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def hold(start: Start) -> Hold:
    """Starts a process that holds a lease, and commits fenced with it when it is told so."""
    return partial(start, _HOLDER, says="held")
