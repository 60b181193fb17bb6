"""Programs with a pool, their processes, and waiting for what they do."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.repository import ROOT


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Wait until ``condition()`` holds; a bound for a test that hangs, not a measurement."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether the process lives and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # the second if it ends while it is looked at
        return False


def parent_of(pid: int) -> int:
    """Process id of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


class Program:
    """A program in a session of its own. All processes that come of it carry a mark in their environment."""

    def __init__(self, directory: Path, text: str, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        self._mark = f"POOL_TEST={secrets.token_hex(8)}".encode()
        file = directory / "program.py"
        file.write_text(textwrap.dedent(text))
        name, value = self._mark.decode().split("=")
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(file), str(directory / "store"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), name: value},
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, seconds: float = 60.0) -> tuple[int, str, str]:
        """Exit code, output and errors."""
        out, errors = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, errors

    def processes(self) -> set[int]:
        """All that run."""
        found = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdecimal() and self._mark in (entry / "environ").read_bytes().split(b"\0"):
                    stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
                    if stat not in "ZX":
                        found.add(int(entry.name))
        return found

    def kill_all(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
