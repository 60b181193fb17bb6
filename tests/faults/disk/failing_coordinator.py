"""A coordinator in which one thing fails: ``python -m tests.faults.disk.failing_coordinator PATH DURABILITY FAULT N``.

It serves, and prints a line when it does. At the N-th call of what FAULT names, and at every later one, it fails.
"""

from __future__ import annotations

import errno
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tests.support.plain_python  # noqa: F401 (first)
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.server import clients, process
from shoal.primitives.rules.registry import TABLE
from shoal.shm.errors import StoreFullError
from shoal.shm.files import storage
from shoal.shm.operation import OperationTable


def _io_error() -> Exception:
    return OSError(errno.EIO, os.strerror(errno.EIO))


# What it is called, where it is, its name there, and what it raises.
FAULTS: dict[str, tuple[Any, str, Callable[[], BaseException]]] = {
    "sync": (storage, "sync_data", _io_error),
    "append": (WalWriter, "append", _io_error),
    "mapping": (WalWriter, "append", lambda: ValueError("mmap closed or invalid")),
    "apply": (Writer, "apply", lambda: AssertionError("a block was freed twice")),
    "publish": (Writer, "publish", lambda: IndexError("index out of bounds on dimension 1")),
    "end group": (Writer, "end_group", lambda: StoreFullError("no room for a leaf")),
    "read": (Writer, "newest", lambda: IndexError("index out of bounds on dimension 1")),
    "decide": (OperationTable, "decide", MemoryError),
    "decode": (clients, "decode_request", MemoryError),
}


def fail(place: Any, name: str, error: Callable[[], BaseException], at: int) -> None:
    """Have ``place.name`` raise from its ``at``-th call on."""
    sound, calls = getattr(place, name), itertools.count(1)

    def failing(*arguments: Any, **options: Any) -> Any:
        if next(calls) >= at:
            raise error()
        return sound(*arguments, **options)

    setattr(place, name, failing)


def main(path: str, durability: str, fault: str, at: str) -> int:
    """Serve until it ends."""

    def ready() -> None:
        fail(*FAULTS[fault], int(at))
        print("serving", flush=True)

    process.serve(Path(path), durability, 8 << 20, 0.2, ready, TABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
