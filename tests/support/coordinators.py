"""Which coordinators and other processes are there."""

from __future__ import annotations

import os
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def coordinators_below(directory: Path) -> list[int]:
    """Pids of the coordinators that serve a store anywhere below ``directory``."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        below = os.fsencode(directory) + b"/"
        if b"shoal.coordinator_main" in arguments and any(a.startswith(below) for a in arguments):
            found.append(int(entry.name))
    return found
