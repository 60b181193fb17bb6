"""Errors as they go through a pipe: the name of the class and its arguments, never a pickle.

error    msgpack [name, arguments]: a subclass of ShoalError, TypeError or ValueError; arguments are nil, texts,
         bytes, integers or floats
"""

from __future__ import annotations

import reprlib
from typing import Any

from shoal.shm import errors, fleet_errors
from shoal.shm.errors import ShoalError
from shoal.shm.limits import MAX_INTEGER, MIN_INTEGER
from shoal.shm.wire.frames import FrameError

_BY_NAME: dict[str, type[Exception]] = {
    name: cls
    for name, cls in {**vars(errors), **vars(fleet_errors)}.items()
    if isinstance(cls, type) and issubclass(cls, ShoalError)
} | {"TypeError": TypeError, "ValueError": ValueError}


def error_parts(error: Exception) -> tuple[str, list[Any]]:
    """The name of an error's class and its arguments, in a form that can be sent."""
    name = type(error).__name__
    assert name in _BY_NAME, f"{name} is not an error that is sent to clients"
    return name, [_sendable(part) for part in error.args]


def _sendable(part: Any) -> Any:
    """An argument in a form that can be sent. A client's own value in it may be nested too deep for msgpack.

    A pipe carries valid UTF-8, and the path of a store need not be that.
    """
    if isinstance(part, str) and not part.isascii():
        return part.encode(errors="backslashreplace").decode()
    if type(part) is int and not MIN_INTEGER <= part <= MAX_INTEGER:
        return str(part)
    return part if part is None or isinstance(part, (str, bytes, int, float)) else reprlib.repr(part)


def error_from(name: str, arguments: list[Any]) -> Exception:
    """The error that ``error_parts`` gave these parts of; FrameError for parts that it never gives."""
    try:
        found = _BY_NAME[name](*arguments)
        str(found)  # raises if the arguments do not make a text
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise FrameError(f"an error this shoal does not know: {type(error).__name__}") from error
    return found
