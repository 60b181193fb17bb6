"""Processes that hold something."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

import shoal

Start = Callable[..., "subprocess.Popen[str]"]


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
