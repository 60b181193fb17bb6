"""What the machine says of a store's processes and files, without asking the store."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

_ROLLUP = {"Rss:": "rss", "Pss:": "pss", "Pss_Anon:": "anonymous"}


def process_sample(pid: int) -> dict[str, int] | None:
    """Memory in bytes and open descriptors; None if the process has ended. ``anonymous`` is its own memory alone."""
    found = {"pid": pid}
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, *rest = line.split()
            if name in _ROLLUP:
                found[_ROLLUP[name]] = int(rest[0]) * 1024
        found["descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    return found if "anonymous" in found else None


def segment_bytes(pid: int) -> int:
    """Memory that the coordinator's segment takes from the machine; 0 if the coordinator has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                link = f"/proc/{pid}/fd/{fd}"
                if "memfd:shoal-segment" in os.readlink(link):
                    return os.stat(link).st_blocks * 512
    return 0


def directory_sample(path: Path) -> dict[str, int]:
    """Files of a directory, and the bytes they take on disk."""
    sizes = []
    for name in os.listdir(path):
        with contextlib.suppress(FileNotFoundError):
            sizes.append((path / name).stat().st_blocks * 512)
    return {"files": len(sizes), "disk_bytes": sum(sizes)}


def serves(pid: int, path: Path) -> bool:
    """Whether the process is one of the store's, so that no other process that got the number is hit."""
    with contextlib.suppress(OSError):
        return os.fsencode(path) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return False


def latest(samples: list[dict[str, Any]], *path: str | int) -> list[tuple[float, float]]:
    """``(time, value)`` of what is found at ``path`` in each sample that has it."""
    found = []
    for sample in samples:
        value: Any = sample
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            found.append((sample["time"], value))
    return found
