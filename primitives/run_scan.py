"""The namespaces and runs that a store holds, registered or not, and what is in each: for listings and exports."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any, NoReturn

from shoal.primitives.engine import Engine
from shoal.primitives.keys import Namespace, after, texts_of
from shoal.primitives.rules.layouts.parts import BEHIND_NAMESPACES, FIRST_NAMESPACE, run_of
from shoal.shm.errors import InvalidOperationError
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.limits import MIB
from shoal.shm.operation import VersionedValue

# A run is read ahead up to these bounds: thousands of small runs then take one scan, instead of a few scans each.
_AHEAD_KEYS = 4096
_AHEAD_BYTES = 1 * MIB


def namespaces(engine: Engine) -> Iterator[Namespace]:
    """The namespaces that hold anything, in the order of their keys."""
    lower = FIRST_NAMESPACE
    while (key := next((key for key, _ in engine.scan(lower, BEHIND_NAMESPACES)), None)) is not None:
        tenant, app, agent, _ = texts_of(key)
        namespace = Namespace(tenant, app, agent)
        yield namespace
        lower = after(namespace._prefix)


def runs_held(engine: Engine, namespace: Namespace) -> Iterator[tuple[str, Engine]]:
    """The runs of a namespace that hold anything, registered or not, in the order of their keys.

    Each comes with an engine to read it from until the next one is asked for: ``engine``, or a copy of all its keys.
    """
    start = namespace._prefix
    lower, upper = start + b"\1", after(start)  # length 0 is what belongs to no run
    while True:
        ahead = RunAhead()
        for key, found in engine.scan(lower, upper):
            if ahead.prefix and not key.startswith(ahead.prefix):
                yield ahead.run_id, ahead
                ahead = RunAhead()
            if not ahead.prefix:
                ahead.run_id, ahead.prefix = texts_of(key)[-1], run_of(key)
            if not ahead.add(key, found):
                yield ahead.run_id, engine
                lower = after(ahead.prefix)
                break
        else:
            if ahead.prefix:
                yield ahead.run_id, ahead
            return


class RunAhead:
    """A copy of all keys of one run: an ``Engine`` that only reads."""

    __slots__ = ("_found", "_keys", "_size", "prefix", "run_id")
    read_only = True

    def __init__(self) -> None:
        self.run_id = ""
        self.prefix = b""
        self._found: dict[bytes, VersionedValue] = {}
        self._keys: list[bytes] = []
        self._size = 0

    def add(self, key: bytes, found: VersionedValue) -> bool:
        """Keep one more key, greater than all so far; False if that would exceed the bounds."""
        self._size += len(key) + len(found.value)
        if len(self._keys) == _AHEAD_KEYS or self._size > _AHEAD_BYTES:
            return False
        self._keys.append(key)
        self._found[key] = found
        return True

    def get_named(self, cache: KeyLocationCache, name: str) -> bytes | None:
        """The value of the key ``cache.prefix`` + ``name``, or None."""
        found = self.find(cache.prefix + name.encode())
        return None if found is None else found.value

    def find(self, key: bytes) -> VersionedValue | None:
        """A key's value with version and expiry, or None."""
        return self._found.get(key)

    def scan(self, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, VersionedValue]]:
        """The keys of ``[lower, upper)`` in order."""
        for key in self._keys[bisect_left(self._keys, lower) : bisect_left(self._keys, upper)]:
            yield key, self._found[key]

    def put(self, key: bytes, value: bytes, expires_ms: int = 0) -> None:
        """Raise ``InvalidOperationError``."""
        self._refuse()

    def delete(self, key: bytes) -> None:
        """Raise ``InvalidOperationError``."""
        self._refuse()

    def clear(self, lower: bytes, upper: bytes) -> None:
        """Raise ``InvalidOperationError``."""
        self._refuse()

    def perform(self, name: str, arguments: list[Any]) -> Any:
        """Raise ``InvalidOperationError``."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise InvalidOperationError("a copy of a run's keys only reads; write through a transaction")
