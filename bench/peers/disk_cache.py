"""diskcache: a cache of Python values in SQLite, used as a store that forgets nothing. Measured if it is installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgpack

from .base import Peer, Session

_MODULE = "diskcache"
_BUSY_TIMEOUT_S = 60.0
_SYNCHRONOUS = {"buffered": 1, "strict": 2}  # NORMAL and FULL


class DiskCacheSession(Session):
    """A cache opened in the worker. Values are bytes, which it keeps as they are; its own encoding is pickle."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def get(self, key: str) -> Any:
        """``Session.get``."""
        return msgpack.unpackb(self._cache[key])

    def put(self, key: str, value: Any) -> None:
        """``Session.put``."""
        self._cache[key] = msgpack.packb(value)

    def rmw(self, key: str) -> None:
        """``Session.rmw``: ``transact`` takes SQLite's write lock first."""
        self.hot(key, lambda value: value + 1)

    def think(self, key: str, seconds: float) -> None:
        """``Session.think``: the write lock is held meanwhile."""

        def think(value: int) -> int:
            time.sleep(seconds)
            return value + 1

        self.hot(key, think)

    def pipelined(self, pairs: Sequence[tuple[str, Any]]) -> None:
        """``Session.pipelined``: one at a time, since no commit is answered later than it is made."""
        for key, value in pairs:
            self.put(key, value)

    def hot(self, key: str, function: Callable[[int], int]) -> None:
        """``Session.hot``: under the write lock."""
        with self._cache.transact(retry=True):
            self.put(key, function(self.get(key)))

    def close(self) -> None:
        """``Session.close``."""
        self._cache.close()


class DiskCache(Peer):
    """Without eviction, so that it keeps what it is given; its table is SQLite's in WAL mode."""

    name = "diskcache"
    session_type = DiskCacheSession
    missing: ClassVar[Mapping[str, str]] = {"scan": "its keys have no order to scan in"}
    settings: ClassVar[Mapping[str, str]] = {"buffered": "synchronous=NORMAL", "strict": "synchronous=FULL"}
    caches_reads = False

    @classmethod
    def lacks(cls, operation: str, durability: str) -> str | None:
        """As in every peer; also, it may not be installed."""
        return super().lacks(operation, durability) if version() else f"{_MODULE} is not installed"

    def start(self, items: Mapping[str, Any]) -> None:
        """Load in one transaction, and close: SQLite must not be carried over a fork."""
        cache = self._open()
        try:
            with cache.transact():
                for key, value in items.items():
                    cache[key] = msgpack.packb(value)
        finally:
            cache.close()

    def connect(self) -> Session:
        """A cache of the worker's own."""
        return DiskCacheSession(self._open())

    def _open(self) -> Any:
        return importlib.import_module(_MODULE).Cache(
            str(self.directory),
            timeout=_BUSY_TIMEOUT_S,
            eviction_policy="none",
            cull_limit=0,
            sqlite_synchronous=_SYNCHRONOUS[self.durability],
        )


def version() -> str | None:
    """The version that is installed, None if none is."""
    try:
        return importlib.metadata.version(_MODULE)
    except importlib.metadata.PackageNotFoundError:
        return None
