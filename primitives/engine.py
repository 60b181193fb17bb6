"""The port under the primitives: what they need of an engine, and all that they know of it.

``workers.shared_memory`` implements it over a shared segment. Keys and values are bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.operation import VersionedValue


class Engine(Protocol):
    """Reads and writes of one transaction, or of calls that commit one by one; ``expires_ms`` 0 is forever."""

    def get_named(self, place: KeyLocationCache, name: str) -> bytes | None:
        """The value of the key ``place.prefix`` + ``name``, or None."""
        ...

    def find(self, key: bytes) -> VersionedValue | None:
        """A key's value with version and expiry, or None."""
        ...

    def scan(self, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, VersionedValue]]:
        """The live keys of ``[lower, upper)`` in order."""
        ...

    def put(self, key: bytes, value: bytes, expires_ms: int = 0) -> None:
        """Write a key, whatever is there."""
        ...

    def delete(self, key: bytes) -> None:
        """Delete a key, present or not."""
        ...

    def clear(self, lower: bytes, upper: bytes) -> None:
        """Delete every key of ``[lower, upper)``, however many."""
        ...

    def perform(self, name: str, arguments: list[Any]) -> Any:
        """Run the operation ``name`` of ``primitives.rules.registry`` and return what it says."""
        ...
