"""Who holds what, as ordinary keys: written by the operations that take and release, read by the coordinator.

    key      0x00 0x01, holder (8 bytes, big-endian), held key
    value    msgpack [ttl in ms, ...]: how long the holder keeps it while its process does not answer; what follows is
             the business of the rule that wrote it

A holder is an open database in one process; its id is the ``database_id`` of the greeting. The held key is the record
of a lease, a claim or whatever else is held. Both are written in one commit, so after a SIGKILL either both are there
or none. Keys that begin with 0x00 belong to the store itself: no user's key does.
"""

from __future__ import annotations

from shoal.shm import codec
from shoal.shm.operation import Write

PREFIX = b"\0\1"
BEHIND = b"\0\2"
# Every key that a user's name is in lies behind this one.
FIRST_OF_USERS = b"\1"
_HOLDER_BYTES = 8
_HEAD_BYTES = len(PREFIX) + _HOLDER_BYTES


def entry_key(holder: int, held_key: bytes) -> bytes:
    """The key of the entry that ``holder`` holds ``held_key``."""
    return entries_of(holder) + held_key


def entries_of(holder: int) -> bytes:
    """What the keys of all entries of a holder begin with."""
    return PREFIX + holder.to_bytes(_HOLDER_BYTES, "big")


def bounds_of(holder: int) -> tuple[bytes, bytes]:
    """The range of all entries of a holder."""
    return entries_of(holder), entries_of(holder + 1) if holder + 1 < 1 << 8 * _HOLDER_BYTES else BEHIND


def entry(holder: int, held_key: bytes, ttl_ms: int) -> Write:
    """Write the entry; ``ttl_ms`` from 1 on."""
    return Write(entry_key(holder, held_key), codec.pack([ttl_ms]), 0)


def no_entry(holder: int, held_key: bytes) -> Write:
    """Delete the entry."""
    return Write(entry_key(holder, held_key), None, 0)


def decode_key(key: bytes) -> tuple[int, bytes]:
    """Holder and held key of an entry."""
    return int.from_bytes(key[len(PREFIX) : _HEAD_BYTES], "big"), key[_HEAD_BYTES:]


def decode_ttl_ms(value: bytes) -> int:
    """The ttl of an entry; the shortest for other bytes, which no rule writes."""
    try:
        ttl_ms, *_ = codec.unpackb(value)
    except (ValueError, TypeError):
        return 1
    return ttl_ms if type(ttl_ms) is int and ttl_ms > 0 else 1
