"""The keys and values of one run over one engine.

One key of the engine per user key: the run's prefix, the tag KV, the user's key. Expiry is the engine's own: its record
of a key carries the time.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

from shoal.primitives.engine import Engine
from shoal.primitives.keys import Namespace, after, decode_text, encode_prefix, encode_text
from shoal.primitives.rules import requests
from shoal.primitives.rules.tags import Tag
from shoal.primitives.views import listing
from shoal.primitives.views.view import View
from shoal.shm.arguments import check_int, check_ttl_s
from shoal.shm.clock import now_ms
from shoal.shm.codec import Value, encode, stored, unpackb
from shoal.shm.errors import AlreadyExistsError, shown
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.limits import MAX_INTEGER, MAX_KEY_BYTES, MIN_INTEGER
from shoal.shm.operation import VersionedValue

_TAG = bytes((Tag.KV,))


class Pair(NamedTuple):
    """A key with its value as an export has it. ``expires_ms``: ms since the epoch; 0 is never."""

    key: str
    value: Any
    expires_ms: int


class KVView(View):
    """The methods of ``KVStore`` for one run, without ``run_id``: ``txn.kv``.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     with db.transaction("run-1") as txn:
    ...         txn.kv.put("a", [1])
    ...         txn.kv.get("a"), txn.kv.increment("n"), txn.kv.list()
    ([1], 1, ['a', 'n'])

    What a method returns is known at once and validated at commit. Any call may also raise ``InvalidOperationError``
    (the transaction has ended, or only reads), ``SnapshotExpiredError`` (its snapshot was revoked) and
    ``CorruptionError`` (a record is none). ``Transaction`` says what the commit may raise.
    """

    __slots__ = ("_cache", "_prefix")

    def __init__(self, engine: Engine, namespace: Namespace, run_id: str) -> None:
        self._engine = engine
        self._prefix = namespace._run_prefix(run_id) + _TAG
        self._cache = KeyLocationCache(self._prefix)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``key``, or ``default`` if it is absent or has expired.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad key.
        """
        # Every read passes here, so it is written for speed: a key that is found is a good one, and only another is
        # checked.
        try:
            raw = self._engine.get_named(self._cache, key)
        except (AttributeError, TypeError, UnicodeEncodeError):
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
        """Store ``value`` for ``ttl`` seconds; for good without ``ttl`` or with ``math.inf``, whatever was there.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad key, value or ttl.
        """
        raw = encode(value)
        # ``_encode_key`` is written out, as in ``get``: every write of a key passes here.
        usual = type(key) is str and key.isascii() and 0 < len(key) <= MAX_KEY_BYTES
        name = key.encode() if usual else encode_text("key", key)
        self._engine.put(self._prefix + name, raw, 0 if ttl is None else _expires_ms(ttl))

    def put_with_ttl(self, key: str, value: Value, ttl: float | timedelta) -> None:
        """``put`` with a ``ttl`` that must be given.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad key, value or ttl.
        """
        check_ttl_given(ttl)
        self.put(key, value, ttl=ttl)

    def ttl(self, key: str) -> float | None:
        """Seconds until ``key`` expires; None if it never does, or is absent.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad key.
        """
        found = self._engine.find(self._prefix + _encode_key(key))
        if found is None or not found.expires_ms:
            return None
        return max(0.0, (found.expires_ms - now_ms()) / 1000)

    def delete(self, key: str) -> bool:
        """Delete ``key``; whether it was there.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad key.
        """
        return requests.delete(self._engine, self._prefix + _encode_key(key))

    def exists(self, key: str) -> bool:
        """Whether ``key`` is there.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad key.
        """
        return self._engine.find(self._prefix + _encode_key(key)) is not None

    def list(self, prefix: str = "") -> builtins.list[str]:
        """The keys that begin with ``prefix``, sorted.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad prefix.
        """
        return listing.names(self._scan(prefix), len(self._prefix))

    def list_with_values(self, prefix: str = "") -> builtins.list[tuple[str, Any]]:
        """``(key, value)`` of the keys that begin with ``prefix``, sorted by key.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad prefix.
        """
        return listing.named_values(self._scan(prefix), len(self._prefix))

    def increment(self, key: str, by: int = 1) -> int:
        """Add ``by`` to an integer, 0 if the key is absent, and return the sum. A ttl stays as it is.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad key or ``by``; also ``TypeError`` if
        the value is no integer, and ``LimitExceededError`` if the sum is not from -2**63 to 2**64 - 1.
        """
        check_int("by", by)
        if not MIN_INTEGER <= by <= MAX_INTEGER:
            raise ValueError(f"by is {shown(by)}; give an integer from -2**63 to 2**64 - 1")
        return requests.increment(self._engine, self._prefix + _encode_key(key), by)

    def _to_put(self, key: str, value: Value, ttl: float | timedelta | None) -> tuple[bytes, bytes, int]:
        raw = encode(value)
        return self._prefix + _encode_key(key), raw, 0 if ttl is None else _expires_ms(ttl)

    def _scan(self, prefix: str) -> Iterator[tuple[bytes, VersionedValue]]:
        lower = self._prefix + encode_prefix(prefix)
        return self._engine.scan(lower, after(lower))


def pairs(view: KVView) -> Iterator[Pair]:
    """Every key of a run with its value and time of expiry, sorted, for ``restore``."""
    prefix = view._prefix
    for key, found in view._engine.scan(prefix, after(prefix)):
        name = decode_text(key[len(prefix) :])
        yield Pair(name, stored(found.value, f"key {name!r}"), found.expires_ms)


def restore(view: KVView, pair: Pair) -> None:
    """Put a key of an export as ``pairs`` gave it, in a transaction. One that has expired is left out.

    Raises ``AlreadyExistsError`` for a key that is there, and what ``put`` raises for a bad one.
    """
    key, raw = view._prefix + _encode_key(pair.key), encode(pair.value)
    if view._engine.find(key) is not None:
        raise AlreadyExistsError(f"key {pair.key!r} exists; restore keys into a run that has none of them")
    if not pair.expires_ms or pair.expires_ms > now_ms():
        view._engine.put(key, raw, pair.expires_ms)


def check_ttl_given(ttl: object) -> None:
    """``TypeError`` for None, which is no ttl."""
    if ttl is None:
        raise TypeError("ttl is None; give seconds or a timedelta, or use put")


def _encode_key(key: str) -> bytes:
    if type(key) is str and key.isascii() and 0 < len(key) <= MAX_KEY_BYTES:  # the usual case
        return key.encode()
    return encode_text("key", key)


def _expires_ms(ttl: float | timedelta) -> int:
    ttl_s = check_ttl_s(ttl)
    return 0 if ttl_s is None else now_ms() + max(1, round(ttl_s * 1000))
