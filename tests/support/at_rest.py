"""Stores at rest: when a coordinator is gone, and what a store's files look like."""

from __future__ import annotations

import os
import time
from pathlib import Path


def looks(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything at and below a path: mode, time of the last change, content.

    Of directories no time: a lock file may have been made and removed again.
    """
    found = {}
    for entry in sorted([path, *path.rglob("*")]):
        status = entry.lstat()
        content = entry.read_bytes() if entry.is_file() else b""
        changed_ns = 0 if entry.is_dir() else status.st_mtime_ns
        found[str(entry.relative_to(path))] = (status.st_mode, changed_ns, content)
    return found


def ended(pid: int) -> None:
    """Wait until a coordinator is gone. While one of its threads lives, a zombie still holds its locks."""
    deadline_s = time.monotonic() + 20
    while _lives(pid):
        assert time.monotonic() < deadline_s, f"process {pid} does not end"
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        threads = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # it goes while it is looked at
        return os.path.exists(f"/proc/{pid}")
    return any(thread.rpartition(")")[2].split()[0] not in "ZX" for thread in threads)
