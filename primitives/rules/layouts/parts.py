"""The parts of keys: numbers, texts with their lengths, bounds of ranges. ``primitives.keys`` has the whole key."""

from __future__ import annotations

from itertools import pairwise

from shoal.shm.limits import MAX_RUN_ID_BYTES

NUMBER_BYTES = 8
_NAMESPACE_PARTS = 3
# The part of a namespace that is named "default", as nearly all are, is this byte alone: no length is so large. Written
# out, the three names took 24 of the 100 bytes of memory that a key took beyond the user's key and value.
_DEFAULT_NAME, _DEFAULT = b"default", MAX_RUN_ID_BYTES + 1
FIRST_NAMESPACE, BEHIND_NAMESPACES = b"\1", bytes((_DEFAULT + 1,))  # the range of all keys that are in a namespace
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


def name_part(raw: bytes) -> bytes:
    """A name of 1 to 128 bytes as a part of a namespace."""
    return bytes((_DEFAULT,)) if raw == _DEFAULT_NAME else run_part(raw)


def run_part(raw: bytes) -> bytes:
    """A run id of 1 to 128 bytes as the part behind the namespace."""
    return bytes((len(raw),)) + raw


def split_parts(key: bytes) -> tuple[list[bytes], bytes]:
    """Tenant, app, agent and run of a key, and the rest; an empty run is none. ``ValueError`` for other bytes."""
    ends = _part_ends(key, _NAMESPACE_PARTS + 1)
    names = [_DEFAULT_NAME if key[begin] == _DEFAULT else key[begin + 1 : end] for begin, end in pairwise([0, *ends])]
    if b"".join(map(name_part, names[:_NAMESPACE_PARTS])) != key[: ends[_NAMESPACE_PARTS - 1]]:
        raise ValueError("a name of the key is not written as names are")
    return names, key[ends[-1] :]


def parts_end(key: bytes) -> int:
    """Where the four parts of a key end; the run may be none. ``ValueError`` if it does not begin with them."""
    return _part_ends(key, _NAMESPACE_PARTS + 1)[-1]


def namespace_of(key: bytes) -> bytes:
    """What every key of the namespace of ``key`` begins with. ``ValueError`` if ``key`` is in none."""
    return key[: _part_ends(key, _NAMESPACE_PARTS)[-1]]


def run_of(key: bytes) -> bytes:
    """What every key of the run of ``key`` begins with. ``ValueError`` if ``key`` is in none."""
    *_, begin, end = _part_ends(key, _NAMESPACE_PARTS + 1)
    if not key[begin]:
        raise ValueError("the key belongs to no run")
    return key[:end]


def _part_ends(key: bytes, count: int) -> list[int]:
    """Where each of the first parts of a key ends. ``ValueError`` if it has fewer, or a name of them is empty."""
    ends: list[int] = []
    end = 0
    for at in range(count):
        length = key[end] if end < len(key) else len(key)
        is_name = at < _NAMESPACE_PARTS
        text_bytes = 0 if is_name and length == _DEFAULT else length
        end += 1 + text_bytes
        if text_bytes > MAX_RUN_ID_BYTES or end > len(key) or (is_name and not length):
            raise ValueError("the key does not begin with so many parts")
        ends.append(end)
    return ends
