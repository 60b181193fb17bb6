"""What the tests of event logs share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import shoal
from shoal import LimitExceededError
from shoal.primitives import key_space
from shoal.shm.reader import Found

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
    """A log facade of either chain; the run has five events of three types."""
    log = shoal.EventLog(memory_db, chain=request.param)
    log.append_many(run, [(f"type-{i % 3}", {"i": i, "more": [i, None]}) for i in range(5)])
    return log


def prefix_of(run: str) -> bytes:
    """What the keys of a run's log begin with."""
    return shoal.Namespace().run_prefix(run) + bytes((key_space.Tag.EVENT,))


def keys_of(db: DB, run: str) -> list[bytes]:
    """Every key of a run's log."""
    return [key for key, _ in db.engine.scan(prefix_of(run), key_space.after(prefix_of(run)))]


def reader_of(state: dict[bytes, bytes]) -> Callable[[bytes], Found | None]:
    return lambda key: Found(state[key], 1, 0) if key in state else None
