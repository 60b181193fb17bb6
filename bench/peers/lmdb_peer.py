"""LMDB through py-lmdb: a memory-mapped B+ tree, one writer at a time, readers that never wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import lmdb
import msgpack

from .base import Peer, Session
from .hash_chain import GENESIS_HASH, event_hash, now_ms, verified_length

# Address space, not memory or disk; LMDB never grows past it.
_MAP_BYTES = 4 * 1024**3
# What follows the prefix of a run's log in its keys.
_HEAD, _EVENT, _TYPE = b"\0", b"\1", b"\2"


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

    def think(self, key: str, seconds: float) -> None:
        """``Session.think``: the writer lock is held meanwhile."""
        encoded = key.encode()
        with self._environment.begin(write=True) as txn:
            value = msgpack.unpackb(txn.get(encoded))
            time.sleep(seconds)
            txn.put(encoded, msgpack.packb(value + 1))

    def pipelined(self, pairs: Sequence[tuple[str, Any]]) -> None:
        """``Session.pipelined``: one at a time, since no commit is answered later than it is made."""
        for key, value in pairs:
            self.put(key, value)

    def hot(self, key: str, function: Callable[[int], int]) -> None:
        """``Session.hot``: under the writer lock."""
        encoded = key.encode()
        with self._environment.begin(write=True) as txn:
            txn.put(encoded, msgpack.packb(function(msgpack.unpackb(txn.get(encoded)))))

    def append(self, run: str, event_type: str, payload: Any) -> None:
        """``Session.append``: writes a key for the head, one for the event and one in the index of types."""
        packed = msgpack.packb(payload)
        prefix = _log_prefix(run)
        with self._environment.begin(write=True) as txn:
            head = txn.get(prefix + _HEAD)
            sequence, prev_hash, last_ms = (0, GENESIS_HASH, 0) if head is None else msgpack.unpackb(head)
            timestamp = max(now_ms(), last_ms)
            hashed = event_hash(sequence, event_type, packed, timestamp, prev_hash)
            number = sequence.to_bytes(8, "big")
            txn.put(prefix + _EVENT + number, msgpack.packb([event_type, packed, timestamp, prev_hash, hashed]))
            txn.put(prefix + _TYPE + event_type.encode() + b"\0" + number, b"")
            txn.put(prefix + _HEAD, msgpack.packb([sequence + 1, hashed, timestamp]))

    def log_length(self, run: str) -> int:
        """``Session.log_length``."""
        return verified_length(self._events(run))

    def _events(self, run: str) -> Iterator[tuple[Any, ...]]:
        first = _log_prefix(run) + _EVENT
        with self._environment.begin() as txn, txn.cursor() as cursor:
            cursor.set_range(first)
            for key, raw in cursor:
                if not key.startswith(first):
                    break
                yield (int.from_bytes(key[-8:], "big"), *msgpack.unpackb(raw))

    def close(self) -> None:
        """``Session.close``."""
        self._environment.close()


class LmdbPeer(Peer):
    """``sync=False`` survives a killed process as shoal's buffered does, but promises less about a power cut."""

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


def _log_prefix(run: str) -> bytes:
    return f"log/{run}/".encode()
