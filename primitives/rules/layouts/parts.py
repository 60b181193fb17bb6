"""The parts of keys: numbers, texts with their lengths, bounds of ranges. ``primitives.keys`` has the whole key."""

from __future__ import annotations

NUMBER_BYTES = 8
_NAMESPACE_PARTS = 3
_LARGEST_NUMBER = 2**64 - 1


def sized(raw: bytes) -> bytes:
    """A text inside a key, its length in front: no text reaches into another's range."""
    return len(raw).to_bytes(2, "big") + raw


def number(value: int) -> bytes:
    """A number from 0 to 2**64 - 1 inside a key, so that keys sort as numbers do."""
    return value.to_bytes(NUMBER_BYTES, "big")


def bound(value: int) -> bytes:
    """The same for a bound a user gave, which may lie outside."""
    return number(min(max(value, 0), _LARGEST_NUMBER))


def after(prefix: bytes) -> bytes:
    """The first key after all that begin with ``prefix``, which must not be all 0xff."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,))


def namespace_of(key: bytes) -> bytes:
    """What every key of the namespace of ``key`` begins with. ``ValueError`` if ``key`` is in none."""
    return _first_parts(key, _NAMESPACE_PARTS)


def run_of(key: bytes) -> bytes:
    """What every key of the run of ``key`` begins with. ``ValueError`` if ``key`` is in none."""
    return _first_parts(key, _NAMESPACE_PARTS + 1)


def _first_parts(key: bytes, count: int) -> bytes:
    position = 0
    for _ in range(count):
        length = key[position] if position < len(key) else 0
        position += 1 + length
        if not length or position > len(key):
            raise ValueError("the key does not begin with so many parts")
    return key[:position]
