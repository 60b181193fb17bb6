"""What the tests of event logs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import shoal
from shoal import LimitExceededError
from shoal.primitives import keys as key_space
from shoal.primitives.event_types import sequence_of
from shoal.primitives.rules.event_rules import TYPE, EventRecord, decode_events, event_key
from shoal.primitives.rules.tags import Tag
from shoal.shm import codec
from shoal.shm.operation import VersionedValue

DB = shoal.Database
NASTY_TYPES = ["a", "a\0", "a\0\0\0", "\0", "__idx_", "/", "é" * 512, "t" * 1024, "🦀", "\U0010ffff", "\n", " "]
NO_TEXTS = [
    (None, TypeError),
    (7, TypeError),
    (b"raw", TypeError),
    ("", ValueError),
    ("\ud800", ValueError),
    ("x" * 1025, LimitExceededError),
    ("é" * 513, LimitExceededError),
]
NO_NUMBERS = [None, "0", 1.0, True, b"0", [0]]


@pytest.fixture
def log(memory_db: DB) -> shoal.EventLog:
    """A log facade of the shared store."""
    return shoal.EventLog(memory_db)


@pytest.fixture(params=["xxh3", "sha256"])
def filled(request: pytest.FixtureRequest, memory_db: DB, run: str) -> shoal.EventLog:
    """A log facade of either chain; the run has five events of three types, the last three stored together."""
    log = shoal.EventLog(memory_db, chain=request.param)
    events = [(f"type-{i % 3}", {"i": i, "more": [i, None]}) for i in range(5)]
    for event in events[:2]:
        log.append(run, *event)
    log.append_many(run, events[2:])
    return log


def prefix_of(run: str) -> bytes:
    """What the keys of a run's log begin with."""
    return shoal.Namespace()._run_prefix(run) + bytes((Tag.EVENT,))


def keys_of(db: DB, run: str) -> list[bytes]:
    """Every key of a run's log."""
    return [key for key, _ in db._store.auto_commit.scan(prefix_of(run), key_space.after(prefix_of(run)))]


def record_of(db: DB, run: str, sequence: int) -> tuple[bytes, dict[int, EventRecord]]:
    """The key under which event ``sequence`` is stored, and the events that are stored there together."""
    key, found = next(iter(db._store.auto_commit.scan(event_key(prefix_of(run), sequence), prefix_of(run) + TYPE)))
    return key, decode_events(sequence_of(key), found.value)


def rewrite_event(db: DB, run: str, sequence: int, **changed: Any) -> None:
    """Change fields of a stored event behind the log's back."""
    key, events = record_of(db, run, sequence)
    events[sequence] = events[sequence]._replace(**changed)
    db._store.auto_commit.put(key, codec.pack(list(events.values())))


def remove_event(db: DB, run: str, sequence: int) -> None:
    """Take an event out behind the log's back, and leave those that are stored with it."""
    key, events = record_of(db, run, sequence)
    before = [event for i, event in events.items() if i < sequence]
    behind = [event for i, event in events.items() if i > sequence]
    if before:
        db._store.auto_commit.put(event_key(prefix_of(run), sequence - 1), codec.pack(before))
    if behind:
        db._store.auto_commit.put(key, codec.pack(behind))
    else:
        db._store.auto_commit.delete(key)


def reader_of(state: dict[bytes, bytes]) -> Callable[[bytes], VersionedValue | None]:
    return lambda key: VersionedValue(state[key], 1, 0) if key in state else None
