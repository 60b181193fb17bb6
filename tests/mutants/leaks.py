"""Mutants that leak: every commit is right, and the coordinator's process grows."""

from __future__ import annotations

import os

from shoal.coordinator.server.clients import Client
from tests.mutants.registry import SOAK, Patch, mutant

LEAKED_BYTES = 1024 * 1024
_kept: list[bytes] = []


@mutant("leaks", SOAK)
def leak_descriptors(patch: Patch) -> None:
    """The coordinator keeps a descriptor of every client that has gone."""

    def close(self: Client) -> None:
        os.dup(self.request_fd)
        sound(self)

    sound = patch.set(Client, "close", close)


@mutant("leaks", SOAK)
def leak_memory(patch: Patch) -> None:
    """The coordinator keeps some memory of every client that has gone."""

    def close(self: Client) -> None:
        _kept.append(os.urandom(LEAKED_BYTES))
        sound(self)

    sound = patch.set(Client, "close", close)
