"""LMDB through py-lmdb: a memory-mapped B+ tree, one writer at a time, readers that never wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import lmdb
import msgpack

from .base import Peer, Session

# Address space, not memory or disk; LMDB never grows past it.
_MAP_BYTES = 4 * 1024**3


class LmdbSession(Session):
    """An environment opened in the worker: one inherited over a fork must not be used."""

    def __init__(self, environment: lmdb.Environment) -> None:
        self._environment = environment

    def get(self, key: str) -> Any:
        """``Session.get``."""
        with self._environment.begin() as txn:
            return msgpack.unpackb(txn.get(key.encode()))

    def scan(self, prefix: str) -> list[tuple[str, Any]]:
        """``Session.scan``."""
        found = []
        with self._environment.begin() as txn, txn.cursor() as cursor:
            first = prefix.encode()
            cursor.set_range(first)
            for key, raw in cursor:
                if not key.startswith(first):
                    break
                found.append((key.decode(), msgpack.unpackb(raw)))
        return found

    def put(self, key: str, value: Any) -> None:
        """``Session.put``."""
        with self._environment.begin(write=True) as txn:
            txn.put(key.encode(), msgpack.packb(value))

    def rmw(self, key: str) -> None:
        """``Session.rmw``: a write transaction holds the one writer lock from its beginning, so nothing conflicts."""
        encoded = key.encode()
        with self._environment.begin(write=True) as txn:
            txn.put(encoded, msgpack.packb(msgpack.unpackb(txn.get(encoded)) + 1))

    def close(self) -> None:
        """``Session.close``."""
        self._environment.close()


class LmdbPeer(Peer):
    """``sync=False`` keeps what shoal's buffered keeps of a dead process, but promises less of a power cut."""

    name = "LMDB"
    session_type = LmdbSession
    settings: ClassVar[Mapping[str, str]] = {
        "buffered": "sync=False; a power cut may corrupt it",
        "strict": "sync=True",
    }

    def start(self, items: Mapping[str, Any]) -> None:
        """Load in one transaction and close: an open environment may not be carried over a fork."""
        environment = self._open()
        try:
            with environment.begin(write=True) as txn:
                for key, value in items.items():
                    txn.put(key.encode(), msgpack.packb(value))
            environment.sync(True)
        finally:
            environment.close()

    def connect(self) -> Session:
        """Open the environment anew."""
        return LmdbSession(self._open())

    def _open(self) -> lmdb.Environment:
        return lmdb.open(str(self.directory), map_size=_MAP_BYTES, sync=self.durability == "strict")
