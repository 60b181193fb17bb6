"""Identifiers made for users: UUIDv7, so that they sort by the time they were made."""

from __future__ import annotations

import os
import time

from shoal.shm.host.unpatched import ReentrantLock

_RANDOM_BITS = 74
_lock = ReentrantLock()
# The newest identifier of this process as a number; written under the lock.
newest = 0


def new_id() -> str:
    """A UUIDv7 (RFC 9562) that no other call returns, greater than every earlier one of this process.

    >>> first, second = new_id(), new_id()
    >>> first < second, len(first)
    (True, 36)
    """
    return id_text(new_id_bytes())


def new_id_bytes() -> bytes:
    """The 16 bytes of such an identifier."""
    global newest
    milliseconds, first = time.time_ns() // 1_000_000, 0
    if milliseconds > newest >> _RANDOM_BITS:
        first = milliseconds << _RANDOM_BITS | int.from_bytes(os.urandom(10), "big") >> 80 - _RANDOM_BITS
    with _lock:  # no calls here, so no signal handler that makes an identifier runs before the newest is noted
        # Within a millisecond the last one plus one: 74 bits leave room for it.
        fresh = newest = first if first > newest else newest + 1
    milliseconds, high, low = fresh >> _RANDOM_BITS, fresh >> 62 & 0xFFF, fresh & (1 << 62) - 1
    return (milliseconds << 80 | 7 << 76 | high << 64 | 2 << 62 | low).to_bytes(16, "big")


def id_text(raw: bytes) -> str:
    """The text of a UUID of 16 bytes."""
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def id_bytes(text: str) -> bytes:
    """The 16 bytes of a UUID; ``ValueError`` for another text.

    >>> id_text(id_bytes("0192f3a1-7d0c-7e10-8000-00000000000a"))
    '0192f3a1-7d0c-7e10-8000-00000000000a'
    """
    raw = bytes.fromhex(text.replace("-", ""))
    if len(raw) != 16:
        raise ValueError(f"{text!r:.60} is no UUID")
    return raw


def _after_fork() -> None:
    global _lock, newest
    _lock = ReentrantLock()
    newest = 0  # the child's identifiers begin with random bits of its own: the last one is its parent's


os.register_at_fork(after_in_child=_after_fork)
