r"""Values as lines of JSON and back, without loss: ``export`` writes them, ``import`` reads them, listings show them.

JSON has None, bool, str, list, dict with str keys, and numbers. Every other value becomes an object with one key:

    {"$bytes": base64}                         bytes
    {"$datetime": ISO 8601 with the offset}    a datetime
    {"$float": "nan", "inf" or "-inf"}         a float that is not finite; a NaN with other bits as its 8 bytes in hex
    {"$int": decimal}                          an integer beyond 2**53, which many readers of JSON would round
    {"$text": base64 of its UTF-8}             text with a lone surrogate, encoded with "surrogatepass"

A dict's key that begins with ``$`` gets another ``$`` in front, so that no dict looks like one of these objects. A key
with a lone surrogate is ``$text:`` and base64. Lines are ASCII. Dicts keep their order; a float is the shortest text
that reads back as the same float.

>>> dump({"raw": b"x", "$price": float("inf"), "n": 2**60})
b'{"raw":{"$bytes":"eA=="},"$$price":{"$float":"inf"},"n":{"$int":"1152921504606846976"}}\n'
>>> load(dump({"$int": "1", "\ud800": -0.0}))
{'$int': '1', '\ud800': -0.0}
"""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import math
import struct
from typing import Any

from shoal.shm.codec import Value
from shoal.shm.limits import MAX_ENCODED_VALUE_BYTES, MAX_INTEGER, MAX_NESTING

# A byte of a stored value becomes at most 7 characters of JSON: b"" is stored in 2 bytes and is {"$bytes":""} here.
LONGEST_LINE_BYTES = 8 * MAX_ENCODED_VALUE_BYTES
# A line longer than a stored value might decode to far more items than any value has. Each item of a list or dict but
# the first has a comma before it, and takes a byte or more when stored: so commas are counted before decoding.
_MOST_COMMAS = MAX_ENCODED_VALUE_BYTES

_LARGEST_PLAIN_INT = 2**53
_LONGEST_INT = len(str(MAX_INTEGER))
_DOUBLE = struct.Struct(">d")
_NAN_BITS = _DOUBLE.pack(math.nan)
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_TEXT_KEY = "$text:"

_write = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_write_letters = json.JSONEncoder(allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode


def dump(value: Value) -> bytes:
    """A storable value as a line of JSON, its line feed included."""
    return dump_text(value).encode() + b"\n"


def dump_text(value: Value) -> str:
    """A storable value as JSON, without a line feed."""
    return _write(_to_json(value))


def readable(value: Value) -> str:
    """A storable value as JSON for a terminal: letters as they are, no control character."""
    text = _write_letters(_to_json(value))
    return text if text.isprintable() else dump_text(value)


def load(line: bytes) -> Value:
    """The value of a line. ``ValueError`` for anything that ``dump`` never writes."""
    if len(line) > LONGEST_LINE_BYTES:
        raise ValueError(f"it is longer than the {LONGEST_LINE_BYTES:,} bytes of the longest possible")
    if len(line) > _MOST_COMMAS and line.count(b",") > _MOST_COMMAS:
        raise ValueError("it has more items than any stored value")
    try:
        return _read(line.decode())
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MAX_NESTING} deep") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error.msg} at character {error.pos}") from error


def _to_json(value: Value) -> Any:
    kind = type(value)
    if kind is str:
        return value if value.isascii() or not _has_surrogate(value) else {"$text": _encode_text(value)}
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if -_LARGEST_PLAIN_INT <= value <= _LARGEST_PLAIN_INT else {"$int": str(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": _not_finite(value)}
    if kind is dict:
        return {_to_key(key): _to_json(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [_to_json(item) for item in value]
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is datetime.datetime:
        return {"$datetime": value.isoformat()}
    raise TypeError(f"a value of type {kind.__name__} is not one that shoal stores")


def _to_key(key: str) -> str:
    if key[:1] == "$":
        key = "$" + key
    return key if key.isascii() or not _has_surrogate(key) else _TEXT_KEY + _encode_text(key)


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _encode_text(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


def _not_finite(value: float) -> str:
    bits = _DOUBLE.pack(value)
    return bits.hex() if math.isnan(value) and bits != _NAN_BITS else str(value)


def _from_pairs(pairs: list[tuple[str, Any]]) -> Any:
    """The value of a JSON object whose items are values already."""
    if len(pairs) == 1:
        ((key, item),) = pairs
        if key[:1] == "$" and key in _TAGS:
            if type(item) is not str:
                raise ValueError(f"{key} has a {type(item).__name__}, not a str")
            return _TAGS[key](item)
    value = {_from_key(key) if key[:1] == "$" else key: item for key, item in pairs}
    if len(value) < len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _from_key(key: str) -> str:
    if key.startswith("$$"):
        plain = key[1:]
    elif key.startswith(_TEXT_KEY):
        plain = _decode_text(key[len(_TEXT_KEY) :])
        if plain[:1] == "$":
            plain = plain[1:]
    else:
        raise ValueError(f"an object has the key {key!r:.100}, which means nothing")
    return plain


def _decode_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{text!r:.100} is not base64") from error


def _decode_text(text: str) -> str:
    return _decode_bytes(text).decode("utf-8", "surrogatepass")


def _decode_datetime(text: str) -> datetime.datetime:
    value = datetime.datetime.fromisoformat(text)
    if value.utcoffset() is None:
        raise ValueError(f"the datetime {text!r:.100} has no offset")
    return value


def _decode_float(text: str) -> float:
    value = _NOT_FINITE.get(text)
    if value is not None:
        return value
    bits = bytes.fromhex(text)
    if len(bits) != _DOUBLE.size:
        raise ValueError(f"{text!r:.100} is no float")
    found: float = _DOUBLE.unpack(bits)[0]
    return found


def _decode_int(text: str) -> int:
    if len(text) > _LONGEST_INT:
        raise ValueError(f"{text:.30}... is beyond the integers that shoal stores")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text:.100} is beyond what a float holds")
    return value


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


_TAGS = {
    "$bytes": _decode_bytes,
    "$datetime": _decode_datetime,
    "$float": _decode_float,
    "$int": _decode_int,
    "$text": _decode_text,
}
_read = json.JSONDecoder(
    object_pairs_hook=_from_pairs, parse_int=_decode_int, parse_float=_finite, parse_constant=_refuse_constant
).decode
