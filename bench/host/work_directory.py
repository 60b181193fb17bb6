"""The directory that holds everything of a run, and its removal with all processes that serve something in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_GRACE_S = 5.0
_POLL_S = 0.02


@contextmanager
def work_directory(parent: Path) -> Iterator[Path]:
    """A new directory in ``parent``. Afterwards it is removed, and what still serves something in it is ended."""
    directory = Path(tempfile.mkdtemp(prefix="shoal-bench-", dir=parent.absolute()))
    try:
        yield directory
    finally:
        # A coordinator whose start was interrupted would make its directory again after the removal.
        _end_servers(directory)
        shutil.rmtree(directory, ignore_errors=True)


def _end_servers(directory: Path) -> None:
    """Wait for the processes whose command line names the directory to end, as they do without clients; then kill."""
    give_up_s = time.monotonic() + _GRACE_S
    while servers := _servers(directory):
        if time.monotonic() > give_up_s:
            for pid in servers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _servers(directory: Path) -> list[int]:
    # The directory's name is random, so no other process has it in its command line.
    name = os.fsencode(directory)
    return [pid for pid in _pids() if pid != os.getpid() and name in _command_line(pid)]


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()  # empty for one that has ended
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
