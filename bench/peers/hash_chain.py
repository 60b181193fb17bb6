"""The hash chain of the peers' event logs, with the same hash and the same fields as in shoal's."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import msgpack
from xxhash import xxh3_128_digest

from .base import BenchError

GENESIS_HASH = bytes(16)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def event_hash(sequence: int, event_type: str, packed: bytes, timestamp: int, prev_hash: bytes) -> bytes:
    """The hash of an event whose payload is ``packed``."""
    return xxh3_128_digest(msgpack.packb([sequence, event_type, packed, timestamp, prev_hash]))


def verified_length(events: Iterable[tuple[Any, ...]]) -> int:
    """The number of events; ``BenchError`` for a wrong one.

    An event is (sequence, type, packed payload, timestamp, hash before, hash).
    """
    length, head_hash = 0, GENESIS_HASH
    for sequence, event_type, packed, timestamp, prev_hash, found_hash in events:
        expected = event_hash(length, event_type, packed, timestamp, head_hash)
        if (sequence, prev_hash, found_hash) != (length, head_hash, expected):
            raise BenchError(f"the log is broken at event {length}")
        length, head_hash = length + 1, expected
    return length
