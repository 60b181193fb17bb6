"""SQLite in WAL mode, through the standard library."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, ClassVar

import msgpack

from .base import Peer, Session

_BUSY_TIMEOUT_S = 60.0
# Holds the whole table, so that reads do not measure the default cache of 2 MiB.
_CACHE_KIB = 64 * 1024
_SYNCHRONOUS = {"buffered": "NORMAL", "strict": "FULL"}

_GET = "SELECT value FROM kv WHERE key = ?"
_SCAN = "SELECT key, value FROM kv WHERE key >= ? AND key < ? ORDER BY key"
_PUT = "INSERT INTO kv (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_UPDATE = "UPDATE kv SET value = ? WHERE key = ?"


class SqliteSession(Session):
    """A connection in autocommit mode. Waiting for the write lock is SQLite's own busy handler."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute

    def get(self, key: str) -> Any:
        """``Session.get``."""
        return msgpack.unpackb(self._execute(_GET, (key,)).fetchone()[0])

    def scan(self, prefix: str) -> list[tuple[str, Any]]:
        """``Session.scan``: a range over the primary key."""
        upper = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        return [(key, msgpack.unpackb(raw)) for key, raw in self._execute(_SCAN, (prefix, upper))]

    def put(self, key: str, value: Any) -> None:
        """``Session.put``."""
        self._execute(_PUT, (key, msgpack.packb(value)))

    def rmw(self, key: str) -> None:
        """``Session.rmw``: IMMEDIATE takes the write lock first; a deferred transaction could fail when it upgrades."""
        self._execute("BEGIN IMMEDIATE")
        try:
            value = msgpack.unpackb(self._execute(_GET, (key,)).fetchone()[0])
            self._execute(_UPDATE, (msgpack.packb(value + 1), key))
        except BaseException:
            self._execute("ROLLBACK")
            raise
        self._execute("COMMIT")

    def close(self) -> None:
        """``Session.close``."""
        self._connection.close()


class SqliteWal(Peer):
    """One table, keyed by text, without a row id: a key is found in one tree, as in the others."""

    name = "SQLite WAL"
    session_type = SqliteSession
    settings: ClassVar[Mapping[str, str]] = {
        "buffered": "synchronous=NORMAL",
        "strict": "synchronous=FULL",
    }

    def start(self, items: Mapping[str, Any]) -> None:
        """Make the table, load it, and leave the write-ahead log empty."""
        connection = self._open()
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
            connection.execute("BEGIN")
            connection.executemany(_PUT, ((key, msgpack.packb(value)) for key, value in items.items()))
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()

    def connect(self) -> Session:
        """A connection of the worker's own: one may not be carried over a fork."""
        return SqliteSession(self._open())

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.directory / "bench.sqlite", timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        connection.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[self.durability]}")
        connection.execute(f"PRAGMA cache_size = {-_CACHE_KIB}")
        return connection
