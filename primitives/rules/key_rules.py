"""Rules for plain keys: delete, increment, what is kept for a time, and inserting records that must be new."""

from __future__ import annotations

from typing import Any

from shoal.shm import codec
from shoal.shm.errors import AlreadyExistsError, LimitExceededError, NotFoundError
from shoal.shm.limits import MAX_INTEGER, MIN_INTEGER
from shoal.shm.operation import Decision, Read, Write, one_write


def delete(read: Read, now_ms: int, key: bytes) -> Decision:
    """Delete a key; the result is whether it was there."""
    if read(key) is None:
        return Decision([], False)
    return one_write(key, None, 0, True)


def increment(read: Read, now_ms: int, key: bytes, by: int) -> Decision:
    """Add to an integer, 0 if the key is absent; the result is the sum. An expiry stays as it is."""
    found = read(key)
    current = 0 if found is None else codec.stored(found.value, "the value of a key")
    if type(current) is not int:
        raise TypeError(f"increment found a value of type {type(current).__name__}; it adds to an int or to nothing")
    total = current + by
    if not MIN_INTEGER <= total <= MAX_INTEGER:
        limit = MAX_INTEGER if total > 0 else MIN_INTEGER
        raise LimitExceededError("the counter's new value", limit, total, "count in another key from here on")
    return one_write(key, codec.encode(total), 0 if found is None else found.expires_ms, total)


def remember(read: Read, now_ms: int, key: bytes, value: bytes, ttl_ms: int) -> Decision:
    """Write a value that expires ``ttl_ms`` after its commit, 0: never."""
    return one_write(key, value, now_ms + ttl_ms if ttl_ms else 0, None)


def insert(read: Read, now_ms: int, key: bytes, exists: str, required: list[Any], writes: list[Any]) -> Decision:
    """Write ``writes`` (key, value, key, ... flat) if ``key`` is absent and every required key is there.

    ``exists`` is the text of the ``AlreadyExistsError``. ``required`` is flat: a key, the text of the ``NotFoundError``
    if it is absent, the next key, and so on.
    """
    if read(key) is not None:
        raise AlreadyExistsError(exists)
    for i in range(0, len(required), 2):
        if read(required[i]) is None:
            raise NotFoundError(required[i + 1])
    return Decision([Write(writes[i], writes[i + 1], 0) for i in range(0, len(writes), 2)], None)
