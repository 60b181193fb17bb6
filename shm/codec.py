"""Values as bytes: msgpack, and a refusal that names the place for everything else. Never pickle.

>>> decode(encode({"steps": (1, 2.0), "raw": b"x"}))
{'steps': [1, 2.0], 'raw': b'x'}
>>> encode({"steps": [{"fn": print}]})
Traceback (most recent call last):
TypeError: value at $.steps[0].fn has type builtin_function_or_method; shoal stores None, bool, int, float, str, \
bytes, list, tuple, dict with str keys, and datetime with a time zone
"""

from __future__ import annotations

import datetime
from typing import Any

import msgpack

from shoal.shm.errors import LimitExceededError
from shoal.shm.limits import MAX_INTEGER, MAX_NESTING, MAX_VALUE_BYTES, MIN_INTEGER

# What a value may be. A tuple reads back as a list, a datetime in UTC; subclasses read back as what they extend.
Value = Any

_STORED = "None, bool, int, float, str, bytes, list, tuple, dict with str keys, and datetime with a time zone"
_SIMPLE = frozenset((type(None), bool, float, str, bytes))

# A lone surrogate (a file name from os.listdir may hold one) is text to Python, so it is stored, too.
_pack = msgpack.Packer(datetime=True, unicode_errors="surrogatepass").pack
pack = _pack
unpackb = msgpack.unpackb


def encode(value: Value) -> bytes:
    """The stored form of ``value``.

    Raises ``TypeError`` naming the path of what cannot be stored, ``LimitExceededError`` beyond 16 MiB.
    """
    if type(value) not in _SIMPLE:
        _check(value, (), 0)
    raw: bytes = _pack(value)
    if len(raw) > MAX_VALUE_BYTES:
        raise LimitExceededError("size of the value in bytes", MAX_VALUE_BYTES, len(raw))
    return raw


def decode(raw: bytes) -> Value:
    """The value whose stored form is ``raw``."""
    return unpackb(raw, timestamp=3, unicode_errors="surrogatepass")


def _check(value: Value, path: tuple[str | int, ...], depth: int) -> None:
    kind = type(value)
    if kind in _SIMPLE:
        return
    if depth > MAX_NESTING:
        raise LimitExceededError("nesting of the value", MAX_NESTING, depth)
    if isinstance(value, int):
        if not MIN_INTEGER <= value <= MAX_INTEGER:
            raise TypeError(f"value at {_where(path)} is {value}; shoal stores integers from -2**63 to 2**64 - 1")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(
                    f"value at {_where(path)} has key {key!r} of type {type(key).__name__}; shoal stores {_STORED}"
                )
            if type(item) not in _SIMPLE:
                _check(item, (*path, key), depth + 1)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            if type(item) not in _SIMPLE:
                _check(item, (*path, i), depth + 1)
    elif isinstance(value, datetime.datetime):
        if value.utcoffset() is None:
            raise TypeError(f"value at {_where(path)} is a datetime without a time zone; add one, as tzinfo=UTC")
    elif not isinstance(value, (float, str, bytes)):
        raise TypeError(f"value at {_where(path)} has type {kind.__name__}; shoal stores {_STORED}")


def _where(path: tuple[str | int, ...]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
