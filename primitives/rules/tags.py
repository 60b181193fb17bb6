"""The tags in keys, and the tag of a key: what rules need of ``primitives.keys``, which has the whole layout."""

from __future__ import annotations

from enum import IntEnum

_PARTS = 4  # tenant, app, agent, run: each a byte of length and so many bytes


class Tag(IntEnum):
    """What a key belongs to."""

    KV = 0x01
    EVENT = 0x02
    STATE = 0x03
    TRACE = 0x04
    RUN = 0x05
    QUEUE = 0x06
    BUDGET = 0x07
    LEASE = 0x08
    IDEMPOTENCY = 0x09
    RETENTION = 0x0C
    CONSUMER = 0x0B
    RESERVED = 0x10


def tag_position(key: bytes) -> int:
    """Where in a key of a run its tag is. ``IndexError`` if it has none."""
    position = 0
    for _ in range(_PARTS):
        position += 1 + key[position]
    return position


def tag_of(key: bytes) -> Tag:
    """The tag of a key of a run. ``ValueError`` or ``IndexError`` if it has none."""
    return Tag(key[tag_position(key)])
