"""The tags in keys, and the tag of a key: what rules need of ``primitives.keys``, which has the whole layout."""

from __future__ import annotations

from enum import IntEnum

from shoal.primitives.rules.layouts.parts import parts_end


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


def tag_of(key: bytes) -> Tag:
    """The tag of a key of a run. ``ValueError`` or ``IndexError`` if it has none."""
    return Tag(key[parts_end(key)])
