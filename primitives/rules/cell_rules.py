"""The record of a cell, and the rules by which cells change.

    key       the run's prefix, the tag STATE, the cell's name
    record    msgpack [version, time of the change in ms, value as ``codec.encode`` made it | nil if deleted]

Invariants: the first version of a name is 1, and each value has the version after the last one's. A deleted cell keeps
its record and its last version, so that no version is used twice; it reads as absent everywhere. The time of a cell
never goes back, whatever clocks do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from shoal.shm import codec
from shoal.shm.errors import AlreadyExistsError, CASConflictError, CorruptionError, NotFoundError
from shoal.shm.limits import KIB, MAX_ENCODED_VALUE_BYTES
from shoal.shm.operation import Decision, Read, one_write

_new_tuple = tuple.__new__  # a named tuple without its Python frame


class CellRecord(NamedTuple):
    """A cell as it is stored."""

    version: int
    updated_at: int
    value: bytes | None


_NEVER_USED = CellRecord(0, 0, None)
# A larger value is read from memory sooner than it comes through a pipe.
_LARGEST_TOLD_BYTES = 4 * KIB


def decode_record(raw: bytes | None) -> CellRecord:
    """The record in ``raw``; None is a name never used. ``CorruptionError`` for other bytes."""
    if raw is None:
        return _NEVER_USED
    try:
        version, updated_at, value = fields = codec.unpackb(raw)
    except (ValueError, TypeError):  # no msgpack, or not as many fields
        version, updated_at, value = fields = _NEVER_USED
    numbers = type(version) is int and version > 0 and type(updated_at) is int
    if numbers and (value is None or type(value) is bytes):
        return _new_tuple(CellRecord, fields)
    raise CorruptionError("the record of a cell", 0, "version, time, value", f"{len(raw)} bytes of something else")


def encode_record(record: CellRecord) -> bytes:
    """The stored form of a record. Raises ``ValueError`` for a bad value: it may have come through a pipe."""
    version, updated_at, value = record
    return _encoded(version, updated_at, value)


def _encoded(version: int, updated_at: int, value: bytes | None) -> bytes:
    raw = codec.pack([version, updated_at, value])
    if not (value is None or type(value) is bytes) or len(raw) > MAX_ENCODED_VALUE_BYTES:
        raise ValueError("the value of a cell is not bytes within the limit")
    return raw


def init(read: Read, now_ms: int, key: bytes, name: str, value: bytes) -> Decision:
    """Create a cell that is not there; the result is its version."""
    last = _last(read, key)
    if last.value is not None:
        raise AlreadyExistsError(f"cell {name!r} exists, at version {last.version}; change it with cas or set")
    return _changed(key, last, now_ms, value)


def cas(read: Read, now_ms: int, key: bytes, name: str, expected_version: int, value: bytes) -> Decision:
    """Change a cell that is at ``expected_version``; the result is its new version."""
    last = _last(read, key)
    if last.value is None:
        raise NotFoundError(f"cell {name!r} does not exist; create it with init or set")
    if last.version != expected_version:
        raise CASConflictError(name, expected_version, last.version)
    return _changed(key, last, now_ms, value)


def swap(read: Read, now_ms: int, key: bytes, name: str, expected_version: int, value: bytes) -> Decision:
    """Change a cell that is at ``expected_version``; the result is None.

    If it is at another version, nothing is written, and the result is what the cell holds: [version, time of the
    change, value]. The value is None if it is large: then the caller reads it.
    """
    last = _last(read, key)
    if last.value is None:
        raise NotFoundError(f"cell {name!r} does not exist; create it with init or set")
    if last.version != expected_version:
        told = last.value if len(last.value) <= _LARGEST_TOLD_BYTES else None
        return Decision([], [last.version, last.updated_at, told])
    return _write(key, last.version + 1, now_ms, last, value, None)


def put(read: Read, now_ms: int, key: bytes, value: bytes) -> Decision:
    """Give a cell a value, whatever is there; the result is its version."""
    return _changed(key, _last(read, key), now_ms, value)


def delete(read: Read, now_ms: int, key: bytes) -> Decision:
    """Delete a cell; the result is whether it was there."""
    last = _last(read, key)
    if last.value is None:
        return Decision([], False)
    return _write(key, last.version, now_ms, last, None, True)


def _last(read: Read, key: bytes) -> CellRecord:
    found = read(key)
    return decode_record(None if found is None else found.value)


def _changed(key: bytes, last: CellRecord, now_ms: int, value: bytes) -> Decision:
    version = last.version + 1
    return _write(key, version, now_ms, last, value, version)


def _write(key: bytes, version: int, now_ms: int, last: CellRecord, value: bytes | None, result: Any) -> Decision:
    return one_write(key, _encoded(version, max(now_ms, last.updated_at), value), 0, result)
