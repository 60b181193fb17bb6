"""Values as bytes: msgpack, never pickle. The error for a value that cannot be stored names the path in it.

    value    msgpack of the value
       or    1 byte 0xC1, then msgpack with datetimes as timestamps and lone surrogates in texts ("surrogatepass")

msgpack never begins with 0xC1, so the first byte tells the two forms apart.

>>> decode(encode({"steps": (1, 2.0), "raw": b"x"}))
{'steps': [1, 2.0], 'raw': b'x'}
>>> encode({"steps": [{"fn": print}]})
Traceback (most recent call last):
TypeError: value at $.steps[0].fn has type builtin_function_or_method; shoal stores None, bool, int, float, str, \
bytes, list, tuple, dict with str keys, and datetime with a time zone
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import msgpack

from shoal.shm.errors import CorruptionError, LimitExceededError, no_memory_to_send, shown, shown_value
from shoal.shm.limits import ADVICE_FOR_VALUES, MAX_INTEGER, MAX_NESTING, MAX_VALUE_BYTES, MIN_INTEGER

try:
    import cython
except ModuleNotFoundError:
    from shoal.shm import cython_shim as cython  # type: ignore[no-redef]

if cython.compiled:
    from cython.cimports.packed import usual_packed
    from cython.cimports.unpacked import usual_unpacked

# What a value may be. A tuple reads back as a list, a datetime in UTC, a subclass as the type it extends.
Value = Any

_STORED = "None, bool, int, float, str, bytes, list, tuple, dict with str keys, and datetime with a time zone"
_SIMPLE = frozenset((type(None), bool, float, str, bytes))

# Only values with a datetime or a lone surrogate (file names may have some) need the second form. Reading all values so
# would take 0.1 us more each.
_RICH = b"\xc1"
_EXTENSION = msgpack.ExtType
_LONG_HEADER_BYTES = 5  # of msgpack before a str or bytes of 64 KiB and more
# Bound to the class itself: a program's tests may put a subclass in its place, as freezegun does.
_combine = datetime.datetime.combine


def _as_datetime(value: Any) -> datetime.datetime:
    """The datetime that a subclass of it extends, for msgpack, which takes no subclass. Its zone and fold stay."""
    if not isinstance(value, datetime.datetime):
        raise TypeError(f"shoal stores no {type(value).__name__}")
    return _combine(value.date(), value.timetz())


_pack = msgpack.Packer().pack
_pack_rich = msgpack.Packer(datetime=True, unicode_errors="surrogatepass", default=_as_datetime).pack
# For shoal's own formats, not for users' values. Compiled, values of usual types, size and depth take a quarter of the
# time that msgpack takes for them.
if cython.compiled:

    def pack(value: Any) -> bytes:
        """``value`` as msgpack."""
        raw = usual_packed(value, _EXTENSION)
        return _pack(value) if raw is None else raw

    def unpackb(raw: bytes) -> Any:
        """The value whose msgpack is ``raw``."""
        value = usual_unpacked(raw) if type(raw) is bytes else NotImplemented
        return msgpack.unpackb(raw) if value is NotImplemented else value
else:
    pack: Callable[[Any], bytes] = _pack
    unpackb: Callable[[bytes], Any] = msgpack.unpackb


def encode(value: Value) -> bytes:
    """The stored form of ``value``.

    Raises ``TypeError`` (``ValueError`` for a datetime out of range) naming the path of what cannot be stored, and
    ``LimitExceededError`` beyond 16 MiB.
    """
    if cython.compiled:
        try:
            usual = usual_packed(value, _EXTENSION)
        except MemoryError as error:
            raise no_memory_to_send("the value") from error
        if usual is not None and len(usual) <= MAX_VALUE_BYTES:
            return usual
    rich = type(value) not in _SIMPLE and _check(value, (), 0)
    try:
        raw: bytes = _RICH + _pack_rich(value) if rich else _pack(value)
    except UnicodeEncodeError:
        raw = _RICH + _pack_rich(value)
    except MemoryError as error:
        raise no_memory_to_send("the value") from error
    if len(raw) > MAX_VALUE_BYTES:
        size = len(raw)
        if isinstance(value, (str, bytes)):
            size -= _LONG_HEADER_BYTES + len(_RICH) * (raw[:1] == _RICH)
        if size > MAX_VALUE_BYTES:
            raise LimitExceededError("size of the value in bytes", MAX_VALUE_BYTES, size, ADVICE_FOR_VALUES)
    return raw


def decode(raw: bytes) -> Value:
    """The value whose stored form is ``raw``. Raises ``ValueError`` for bytes that ``encode`` never returns."""
    if raw[:1] == _RICH:
        try:
            return msgpack.unpackb(memoryview(raw)[1:], timestamp=3, unicode_errors="surrogatepass")
        except OverflowError as error:
            raise ValueError(f"a datetime in no year from 1 to 9999: {error}") from error
    return unpackb(raw)


def stored(raw: bytes, what: str) -> Value:
    """``decode`` for bytes from the store; ``CorruptionError``, which names ``what``, if they are not a value.

    Any process of the same user may have written them.
    """
    try:
        return decode(raw)
    except ValueError as error:
        raise CorruptionError(what, 0, "a value", f"{len(raw)} bytes of something else") from error


def _check(value: Value, path: tuple[str | int, ...], depth: int) -> bool:
    """Raise if the value cannot be stored; whether it holds a datetime."""
    if depth > MAX_NESTING:
        raise LimitExceededError("nesting of the value", MAX_NESTING, depth, "store it flatter, or as text (JSON)")
    rich = False
    if isinstance(value, int):
        if not MIN_INTEGER <= value <= MAX_INTEGER:
            text = f"value at {_where(path)} is {shown(value)}; shoal stores integers from -2**63 to 2**64 - 1"
            raise TypeError(text)
    elif isinstance(value, dict):
        own = type(value) is not dict
        for key, item in value.items():
            if type(key) is not str:
                if not isinstance(key, str):
                    text = f"has key {shown_value(key, 100)} of type {type(key).__name__}; shoal stores {_STORED}"
                    raise TypeError(f"value at {_where(path)} {text}")
                own = True
            if type(item) not in _SIMPLE:
                rich |= _check(item, (*path, key), depth + 1)
        if own:
            keys = [key for key, _ in value.items()]
            _check_whole(keys, len(value), path)
            _check_keys(keys, path)
    elif isinstance(value, (list, tuple)) and not isinstance(value, msgpack.ExtType):
        for i, item in enumerate(value):
            if type(item) not in _SIMPLE:
                rich |= _check(item, (*path, i), depth + 1)
        if type(value) is not list and type(value) is not tuple:
            counted = list.__len__(value) if isinstance(value, list) else tuple.__len__(value)
            _check_whole(list(value), counted, path)
    elif isinstance(value, datetime.datetime):
        if value.utcoffset() is None:
            raise TypeError(f"value at {_where(path)} is a datetime without a time zone; add one, as tzinfo=UTC")
        try:
            value.astimezone(datetime.UTC)
        except OverflowError:
            text = f"value at {_where(path)} is {value.isoformat()}; in UTC it is not in a year from 1 to 9999"
            raise ValueError(text) from None
        rich = True
    elif not isinstance(value, (float, str, bytes)):
        raise TypeError(f"value at {_where(path)} has type {type(value).__name__}; shoal stores {_STORED}")
    return rich


def _check_whole(given: list[Any], counted: int, path: tuple[str | int, ...]) -> None:
    """Raise if a container of a user's own type does not give as many elements as it counts: none could read it."""
    if len(given) != counted:
        text = f"gives {len(given)} elements and counts {counted}; give a dict or a list that holds them"
        raise TypeError(f"value at {_where(path)} {text}")


def _check_keys(keys: list[str], path: tuple[str | int, ...]) -> None:
    """Raise if two keys of a user's own type are the same text, however they compare: one of them would be lost."""
    texts = set()
    for text in map(str.__str__, keys):
        if text in texts:
            raise TypeError(
                f"value at {_where(path)} has two keys that are the text {text!r}, which is what is stored; "
                "give them different texts"
            )
        texts.add(text)


def _where(path: tuple[str | int, ...]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
