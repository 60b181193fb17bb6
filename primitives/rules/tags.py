"""What a key of a run belongs to: the byte after namespace and run id. ``primitives.keys`` has the whole key."""

from __future__ import annotations

from enum import IntEnum


class Tag(IntEnum):
    """What a key belongs to."""

    KV = 0x01
    EVENT = 0x02
    STATE = 0x03
    TRACE = 0x04
    RUN = 0x05
    LEASE = 0x08
    RESERVED = 0x10


def tag_of(key: bytes) -> Tag:
    """The tag of a key of a run. ``ValueError`` or ``IndexError`` if it has none."""
    position = 0
    for _ in range(4):
        position += 1 + key[position]
    return Tag(key[position])
