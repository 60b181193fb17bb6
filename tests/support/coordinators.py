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
    below = f"{directory}/"
    found = []
    for entry in os.listdir("/proc"):
        arguments = command_of(int(entry)) if entry.isdecimal() else []
        if "shoal.coordinator_main" in arguments and any(each.startswith(below) for each in arguments):
            found.append(int(entry))
    return found


def command_of(pid: int) -> list[str]:
    """What a process was started with; empty if it has ended."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
    return [os.fsdecode(argument) for argument in raw.split(b"\0") if argument]
