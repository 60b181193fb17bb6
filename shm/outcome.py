"""What a deferred operation reads, writes and answers: the shape all rules of ``operations`` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from shoal.shm.reader import Found

Read = Callable[[bytes], "Found | None"]


class Write(NamedTuple):
    """One key's new state: ``value`` None deletes, ``expires_ms`` 0 is forever."""

    key: bytes
    value: bytes | None
    expires_ms: int


class Outcome(NamedTuple):
    """What an operation writes and what its caller is told."""

    writes: list[Write]
    result: Any
