"""SQLite in WAL mode, through the standard library."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import msgpack

from shoal.primitives.identifiers import new_id

from .base import BenchError, Peer, Session
from .hash_chain import GENESIS_HASH, event_hash, now_ms, verified_length

_BUSY_TIMEOUT_S = 60.0
# Holds the whole table: with the default of 2 MiB, reads would measure the cache.
_CACHE_KIB = 64 * 1024
_SYNCHRONOUS = {"buffered": "NORMAL", "strict": "FULL"}

_GET = "SELECT value FROM kv WHERE key = ?"
_SCAN = "SELECT key, value FROM kv WHERE key >= ? AND key < ? ORDER BY key"
_PUT = "INSERT INTO kv (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_UPDATE = "UPDATE kv SET value = ? WHERE key = ?"
_HEAD = "SELECT seq, ts, hash FROM events WHERE run = ? ORDER BY seq DESC LIMIT 1"
_APPEND = "INSERT INTO events (run, seq, type, payload, ts, prev, hash) VALUES (?, ?, ?, ?, ?, ?, ?)"
_EVENTS = "SELECT seq, type, payload, ts, prev, hash FROM events WHERE run = ? ORDER BY seq"
_CREATE_CELL = "INSERT INTO cells (run, name, value, version, ts) VALUES (?, ?, ?, 1, ?)"
_SET_CELL = f"""{_CREATE_CELL} ON CONFLICT (run, name)
    DO UPDATE SET value = excluded.value, version = version + 1, ts = excluded.ts"""
_SWAP = "UPDATE cells SET value = ?, version = version + 1, ts = ? WHERE run = ? AND name = ? AND version = ?"
_VERSION = "SELECT version FROM cells WHERE run = ? AND name = ?"
_TRACE = "INSERT INTO traces (run, id, type, content, ts) VALUES (?, ?, 'Thought', ?, ?)"
_TAG = "INSERT INTO tags (run, tag, ts, id) VALUES (?, ?, ?, ?)"
_TRACE_COUNT = "SELECT count(*) FROM tags JOIN traces USING (run, id) WHERE tags.run = ? AND tag = ?"

_PUT_TASK = "INSERT INTO tasks (queue, payload, ts) VALUES (?, ?, ?)"
_CLAIM = """UPDATE tasks SET status = 1, attempt = attempt + 1, token = token + 1, ts = ? WHERE id = (
    SELECT id FROM tasks WHERE queue = ? AND status = 0 ORDER BY priority DESC, id LIMIT 1
) RETURNING id, payload, token"""
_COMPLETE = "UPDATE tasks SET status = 2, result = ?, ts = ? WHERE id = ? AND status = 1 AND token = ?"
_TASKS = "SELECT count(*) FILTER (WHERE status = 2), count(*) FILTER (WHERE status != 2) FROM tasks WHERE queue = ?"

# WITHOUT ROWID: a row lies in the tree of its key, and its indices hold that key, so no read needs a second look-up.
_TABLES = """
CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE events (
    run TEXT, seq INTEGER, type TEXT NOT NULL, payload BLOB NOT NULL, ts INTEGER NOT NULL,
    prev BLOB NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (run, seq)
) WITHOUT ROWID;
CREATE INDEX events_by_type ON events (run, type);
CREATE TABLE cells (
    run TEXT, name TEXT, value BLOB NOT NULL, version INTEGER NOT NULL, ts INTEGER NOT NULL, PRIMARY KEY (run, name)
) WITHOUT ROWID;
CREATE TABLE traces (
    run TEXT, id TEXT, type TEXT NOT NULL, content BLOB NOT NULL, ts INTEGER NOT NULL, PRIMARY KEY (run, id)
) WITHOUT ROWID;
CREATE INDEX traces_by_type ON traces (run, type, ts);
CREATE INDEX traces_by_time ON traces (run, ts);
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY, queue TEXT NOT NULL, status INTEGER NOT NULL DEFAULT 0, priority INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0, token INTEGER NOT NULL DEFAULT 0, payload BLOB NOT NULL, result BLOB,
    ts INTEGER NOT NULL
);
CREATE INDEX tasks_ready ON tasks (queue, priority DESC, id) WHERE status = 0;
CREATE TABLE tags (run TEXT, tag TEXT, ts INTEGER, id TEXT, PRIMARY KEY (run, tag, ts, id)) WITHOUT ROWID;
"""


class SqliteSession(Session):
    """A connection in autocommit mode. SQLite's own busy handler waits for the write lock."""

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
        """``Session.rmw``: takes the write lock first; a deferred transaction could fail when it takes it later."""
        with self._transaction():
            value = msgpack.unpackb(self._execute(_GET, (key,)).fetchone()[0])
            self._execute(_UPDATE, (msgpack.packb(value + 1), key))

    def think(self, key: str, seconds: float) -> None:
        """``Session.think``: the write lock is held meanwhile."""
        with self._transaction():
            value = self.get(key)
            time.sleep(seconds)
            self._execute(_UPDATE, (msgpack.packb(value + 1), key))

    def pipelined(self, pairs: Sequence[tuple[str, Any]]) -> None:
        """``Session.pipelined``: one at a time, since no commit is answered later than it is made."""
        for key, value in pairs:
            self._execute(_PUT, (key, msgpack.packb(value)))

    def hot(self, key: str, function: Callable[[int], int]) -> None:
        """``Session.hot``: under the write lock."""
        with self._transaction():
            self._execute(_UPDATE, (msgpack.packb(function(self.get(key))), key))

    def append(self, run: str, event_type: str, payload: Any) -> None:
        """``Session.append``."""
        with self._transaction():
            self._append(run, event_type, msgpack.packb(payload))

    def log_length(self, run: str) -> int:
        """``Session.log_length``."""
        return verified_length(self._execute(_EVENTS, (run,)))

    def cas(self, run: str, name: str, version: int, value: Any) -> int:
        """``Session.cas``."""
        if self._execute(_SWAP, (msgpack.packb(value), now_ms(), run, name, version)).rowcount != 1:
            raise BenchError(f"cell {name} of {run} is not at version {version}")
        return version + 1

    def create_cell(self, run: str, name: str) -> int:
        """``Session.create_cell``."""
        self._execute(_CREATE_CELL, (run, name, msgpack.packb(None), now_ms()))
        return 1

    def version(self, run: str, name: str) -> int:
        """``Session.version``."""
        row = self._execute(_VERSION, (run, name)).fetchone()
        return row[0] if row else 0

    def trace(self, run: str, content: str, tag: str) -> None:
        """``Session.trace``."""
        with self._transaction():
            self._trace(run, content, tag)

    def trace_count(self, run: str, tag: str) -> int:
        """``Session.trace_count``."""
        found: int = self._execute(_TRACE_COUNT, (run, tag)).fetchone()[0]
        return found

    def cross(self, run: str, name: str, event_type: str, payload: Any, content: str, tag: str) -> None:
        """``Session.cross``."""
        packed = msgpack.packb(payload)
        with self._transaction():
            self._execute(_PUT, (f"{run}/{name}", packed))
            self._append(run, event_type, packed)
            self._execute(_SET_CELL, (run, name, packed, now_ms()))
            self._trace(run, content, tag)

    def queue(self, queue: str, payload: Any) -> None:
        """``Session.queue``: the claim under the write lock, and fenced by a token."""
        self._execute(_PUT_TASK, (queue, msgpack.packb(payload), now_ms()))
        with self._transaction():
            task_id, raw, token = self._execute(_CLAIM, (now_ms(), queue)).fetchone()
        msgpack.unpackb(raw)
        if self._execute(_COMPLETE, (msgpack.packb(True), now_ms(), task_id, token)).rowcount != 1:
            raise BenchError(f"task {task_id} was claimed by another")

    def tasks(self, queue: str) -> tuple[int, int]:
        """``Session.tasks``."""
        done, others = self._execute(_TASKS, (queue,)).fetchone()
        return done, others

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._execute("ROLLBACK")
            raise
        self._execute("COMMIT")

    def _append(self, run: str, event_type: str, packed: bytes) -> None:
        row = self._execute(_HEAD, (run,)).fetchone()
        last, last_ms, prev_hash = row or (-1, 0, GENESIS_HASH)
        sequence, timestamp = last + 1, max(now_ms(), last_ms)
        hashed = event_hash(sequence, event_type, packed, timestamp, prev_hash)
        self._execute(_APPEND, (run, sequence, event_type, packed, timestamp, prev_hash, hashed))

    def _trace(self, run: str, content: str, tag: str) -> None:
        trace_id, timestamp = new_id(), now_ms()
        self._execute(_TRACE, (run, trace_id, msgpack.packb(content), timestamp))
        self._execute(_TAG, (run, tag, timestamp, trace_id))

    def close(self) -> None:
        """``Session.close``."""
        self._connection.close()


class SqliteWal(Peer):
    """Tables without row ids: a key is found in one tree, as in the other stores."""

    name = "SQLite WAL"
    session_type = SqliteSession
    settings: ClassVar[Mapping[str, str]] = {
        "buffered": "synchronous=NORMAL",
        "strict": "synchronous=FULL",
    }

    def start(self, items: Mapping[str, Any]) -> None:
        """Make the tables, load the items, and empty the write-ahead log."""
        connection = self._open()
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_TABLES)
            connection.execute("BEGIN")
            connection.executemany(_PUT, ((key, msgpack.packb(value)) for key, value in items.items()))
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()

    def connect(self) -> Session:
        """A connection of the worker's own: a connection must not be used after a fork."""
        return SqliteSession(self._open())

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.directory / "bench.sqlite", timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        connection.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[self.durability]}")
        connection.execute(f"PRAGMA cache_size = {-_CACHE_KIB}")
        return connection
