"""Requests that are answered later."""

from __future__ import annotations

from typing import NamedTuple

from shoal.coordinator.presence.changes import Watched
from shoal.coordinator.server.clients import Client
from shoal.shm.wire.request import CommitSet

Answers = list[tuple[Client, bytes]]
Line = tuple[str, bytes]  # the operation and its first argument


class Pending(NamedTuple):
    """A request that is answered later."""

    client: Client
    request: CommitSet
    line: Line | None  # None of one that only waits
    watched: Watched | None = None  # what to tell one that waits for changes
    place: tuple[int, int] = (0, 0)  # in its line: when it asked first (monotonic, in us), then in the order of arrival
