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
    """Wait until a coordinator is gone."""
    deadline_s = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}") and "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1][:3]:
        assert time.monotonic() < deadline_s, f"process {pid} does not end"
        time.sleep(0.01)
