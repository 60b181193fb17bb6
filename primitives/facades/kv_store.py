"""KVStore: general-purpose keys and values of a run.

One key of the engine per user key; nothing else. Expiry is the engine's: a record carries its moment.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

from shoal.primitives.engine import Engine
from shoal.primitives.facades.facade import Facade
from shoal.primitives.keys import Namespace, Tag, after, decode_text, encode_prefix, encode_text
from shoal.primitives.rules import registry as operations
from shoal.shm.arguments import check_ttl_s
from shoal.shm.clock import now_ms
from shoal.shm.codec import Value, encode, stored, unpackb
from shoal.shm.errors import AlreadyExistsError, shown
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.limits import MAX_INTEGER, MIN_INTEGER

_TAG = bytes((Tag.KV,))


class Pair(NamedTuple):
    """A key as an export has it. ``expires_ms``: when it expires, ms since the epoch; 0 is never."""

    key: str
    value: Any
    expires_ms: int


class KVView:
    """The methods of ``KVStore`` for one run, over one engine: ``txn.kv``, and every facade call."""

    __slots__ = ("_engine", "_place", "_prefix")

    def __init__(self, engine: Engine, namespace: Namespace, run_id: str) -> None:
        self._engine = engine
        self._prefix = namespace.run_prefix(run_id) + _TAG
        self._place = KeyLocationCache(self._prefix)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``key``, or ``default`` if it is absent or expired."""
        # Written for speed, as every read passes here. What is found has a good key; only then is it looked at.
        try:
            raw = self._engine.get_named(self._place, key)
        except (AttributeError, UnicodeEncodeError):
            encode_text("key", key)
            raise
        if raw is None:
            encode_text("key", key)
            return default
        try:
            return unpackb(raw)
        except ValueError:
            return stored(raw, f"key {key!r}")

    def put(self, key: str, value: Value, *, ttl: float | timedelta | None = None) -> None:
        """Store ``value``; for ``ttl`` seconds if given, else (or for ``math.inf``) for good, whatever was there."""
        raw = encode(value)
        self._engine.put(self._prefix + _encode_key(key), raw, 0 if ttl is None else _expires_ms(ttl))

    def put_with_ttl(self, key: str, value: Value, ttl: float | timedelta) -> None:
        """``put`` with a ``ttl`` that must be given."""
        if ttl is None:
            raise TypeError("ttl is None; give seconds or a timedelta, or use put")
        self.put(key, value, ttl=ttl)

    def ttl(self, key: str) -> float | None:
        """Seconds until ``key`` expires; None if it never does, or is absent."""
        found = self._engine.find(self._prefix + _encode_key(key))
        if found is None or not found.expires_ms:
            return None
        return max(0.0, (found.expires_ms - now_ms()) / 1000)

    def delete(self, key: str) -> bool:
        """Delete ``key``; whether it was there."""
        deleted: bool = self._engine.perform(operations.DELETE, [self._prefix + _encode_key(key)])
        return deleted

    def exists(self, key: str) -> bool:
        """Whether ``key`` is there."""
        return self._engine.find(self._prefix + _encode_key(key)) is not None

    def list(self, prefix: str = "") -> builtins.list[str]:
        """The keys that begin with ``prefix``, sorted."""
        return [key for key, _ in self._scan(prefix)]

    def list_with_values(self, prefix: str = "") -> builtins.list[tuple[str, Any]]:
        """``(key, value)`` of the keys that begin with ``prefix``, sorted by key."""
        return [(key, stored(raw, f"key {key!r}")) for key, raw in self._scan(prefix)]

    def increment(self, key: str, by: int = 1) -> int:
        """Add ``by`` to an integer (absent counts as 0) and return the sum. A ttl stays as it is."""
        if type(by) is not int:
            raise TypeError(f"by has type {type(by).__name__}; give an int")
        if not MIN_INTEGER <= by <= MAX_INTEGER:
            raise ValueError(f"by is {shown(by)}; give an integer from -2**63 to 2**64 - 1")
        total: int = self._engine.perform(operations.INCREMENT, [self._prefix + _encode_key(key), by])
        return total

    def pairs(self) -> Iterator[Pair]:
        """Every key with its value and the moment it expires, sorted, for ``restore``."""
        for key, found in self._engine.scan(self._prefix, after(self._prefix)):
            name = decode_text(key[len(self._prefix) :])
            yield Pair(name, stored(found.value, f"key {name!r}"), found.expires_ms)

    def restore(self, pair: Pair) -> None:
        """Put a key as ``pairs`` once gave it, in a transaction: how an export comes back. Expired ones stay away.

        ``AlreadyExistsError`` for a key that is there.
        """
        key, raw = self._prefix + _encode_key(pair.key), encode(pair.value)
        if self._engine.find(key) is not None:
            raise AlreadyExistsError(f"key {pair.key!r} exists; restore keys into a run that has none of them")
        if not pair.expires_ms or pair.expires_ms > now_ms():
            self._engine.put(key, raw, pair.expires_ms)

    def _scan(self, prefix: str) -> Any:
        own = self._prefix
        lower = own + encode_prefix(prefix)
        for key, found in self._engine.scan(lower, after(lower)):
            yield decode_text(key[len(own) :]), found.value


class KVStore(Facade[KVView]):
    """Keys and values of a run, each call a transaction of its own.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     kv = shoal.KVStore(db)
    ...     kv.put("run-1", "task/status", {"state": "running"})
    ...     kv.get("run-1", "task/status")
    ...     kv.increment("run-1", "task/attempts")
    ...     kv.list("run-1", "task/")
    {'state': 'running'}
    1
    ['task/attempts', 'task/status']

    Keys are strings of 1 to 1,024 bytes of UTF-8, any character. Values: see ``shoal.shm.codec``.
    Raises ``TypeError`` or ``ValueError`` for a bad argument and ``LimitExceededError`` for one too large, before
    anything is sent; ``StoreFullError`` if there is no room.
    """

    __slots__ = ()
    view = KVView

    def get(self, run_id: str, key: str, default: Any = None) -> Any:
        """The value of ``key``, or ``default`` if it is absent or expired."""
        return self._views[run_id].get(key, default)

    def put(self, run_id: str, key: str, value: Value, *, ttl: float | timedelta | None = None) -> None:
        """Store ``value``; for ``ttl`` seconds (or a ``timedelta``) if given, else for good."""
        self._views[run_id].put(key, value, ttl=ttl)

    def put_with_ttl(self, run_id: str, key: str, value: Value, ttl: float | timedelta) -> None:
        """``put`` with a ``ttl`` that must be given."""
        self._views[run_id].put_with_ttl(key, value, ttl)

    def ttl(self, run_id: str, key: str) -> float | None:
        """Seconds until ``key`` expires; None if it never does, or is absent."""
        return self._views[run_id].ttl(key)

    def delete(self, run_id: str, key: str) -> bool:
        """Delete ``key``; whether it was there."""
        return self._views[run_id].delete(key)

    def exists(self, run_id: str, key: str) -> bool:
        """Whether ``key`` is there."""
        return self._views[run_id].exists(key)

    def list(self, run_id: str, prefix: str = "") -> builtins.list[str]:
        """The keys that begin with ``prefix``, sorted."""
        return self._views[run_id].list(prefix)

    def list_with_values(self, run_id: str, prefix: str = "") -> builtins.list[tuple[str, Any]]:
        """``(key, value)`` of the keys that begin with ``prefix``, sorted by key."""
        return self._views[run_id].list_with_values(prefix)

    def increment(self, run_id: str, key: str, by: int = 1) -> int:
        """Add ``by`` to an integer (absent counts as 0) and return the sum; never conflicts."""
        return self._views[run_id].increment(key, by)


def _encode_key(key: str) -> bytes:
    return encode_text("key", key)


def _expires_ms(ttl: float | timedelta) -> int:
    ttl_s = check_ttl_s(ttl)
    return 0 if ttl_s is None else now_ms() + max(1, round(ttl_s * 1000))
