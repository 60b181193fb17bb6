"""A coordinator that leaks, to show that it is noticed: ``python leaks.py PLANT ARGUMENTS...``; see ``sabotage``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from shoal.coordinator.server import process
from shoal.coordinator.server.clients import Client
from shoal.primitives.rules.registry import TABLE
from shoal.workers.shared_memory import take_over

LEAKED_BYTES = 1024 * 1024
_kept: list[bytes] = []


def leak_descriptors() -> None:
    """Keep a descriptor of every client that has gone."""
    sound = Client.close

    def close(self: Client) -> None:
        os.dup(self.request_fd)
        sound(self)

    Client.close = close


def leak_memory() -> None:
    """Keep some memory of every client that has gone."""
    sound = Client.close

    def close(self: Client) -> None:
        _kept.append(os.urandom(LEAKED_BYTES))
        sound(self)

    Client.close = close


PLANTS = {plant.__name__: plant for plant in (leak_descriptors, leak_memory)}


@contextlib.contextmanager
def planted(plant: str) -> Iterator[None]:
    """Coordinators started meanwhile by this process, and by those it forks, leak."""
    sound = take_over.python_command
    take_over.python_command = lambda _module, *arguments: [
        *(sys.executable, "-P", str(Path(__file__).resolve()), plant, *arguments)
    ]
    try:
        yield
    finally:
        take_over.python_command = sound


if __name__ == "__main__":
    PLANTS[sys.argv[1]]()
    sys.exit(process.main(TABLE, sys.argv[2:]))
