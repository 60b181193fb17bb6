"""Checks of what users pass: lengths of time, whole numbers, texts and functions, each with one rule for every method.

- Seconds are an int or a float (or a subclass, such as numpy's float64), 0 or more. Infinity, and an int that is too
  large for a float, mean for ever. A bool, a Decimal, a Fraction or a text is a ``TypeError``; NaN and a negative
  number are a ``ValueError``.
- A whole number is an int and no bool.
- A text that is kept or given back is a plain str (``text_of``), whatever kind of str was passed.
- A function must run to its end when it is called. A call of an async function or of a generator function runs nothing
  of its body: a transaction would commit nothing, and a task would end before it began.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from datetime import timedelta
from types import FunctionType, MethodType
from typing import Any, TypeVar

from shoal.shm.errors import shown, shown_value

T = TypeVar("T")

# A str of any kind as the plain str that the store holds: a member of a str enum may be shown by its own name, and one
# of a user's own type may say that it equals other texts. A method of C, as every call of a queue asks for it.
text_of = str.__str__

# Results that need no look at abstract classes, which takes 0.7 us.
_USUAL_RESULTS = frozenset((type(None), bool, int, float, str, bytes, list, tuple, dict))

# For ever, as a wait: 31 years. A clock and a socket take it; they do not take infinity.
FOREVER_S = 1e9
# For ever, as a time to live: 31,000 years. The time of expiry of a longer one, in ms, would not fit into a word.
_PERMANENT_S = 1e12

# CO_GENERATOR, CO_COROUTINE, CO_ITERABLE_COROUTINE, CO_ASYNC_GENERATOR. A coordinator does not import ``inspect``.
_NOT_PLAIN = 0x20 | 0x80 | 0x100 | 0x200


def check_seconds(what: str, value: object, hint: str = "") -> float:
    """``value`` in seconds, ``FOREVER_S`` at most. ``hint`` names what else the argument may be."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} has type {type(value).__name__}; give seconds as an int or a float{hint}")
    if not value >= 0:
        raise ValueError(f"{what} is {shown(value)}; give 0 seconds or more{hint}")
    return float(min(value, FOREVER_S))


def check_positive_seconds(what: str, value: object, hint: str = "") -> float:
    """As ``check_seconds``, for a time that must be more than 0."""
    if type(value) is float and 0.0 < value <= FOREVER_S:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} has type {type(value).__name__}; give seconds as an int or a float{hint}")
    if not value > 0:
        raise ValueError(f"{what} is {shown(value)}; give more than 0 seconds{hint}")
    return float(min(value, FOREVER_S))


def check_wait(what: str, value: object) -> float:
    """A user's bound of a wait in seconds; None means for ever."""
    if type(value) is float and 0.0 <= value <= FOREVER_S:  # nearly always: 0.3 us less
        return value
    return FOREVER_S if value is None else check_seconds(what, value, ", or None to wait for ever")


def check_ttl_s(
    ttl: object, what: str = "ttl", hint: str = ", or leave it out to keep the key for good"
) -> float | None:
    """A key's time to live in seconds, more than 0. None if it is infinite, or as long as 31,000 years."""
    if isinstance(ttl, timedelta):
        ttl = ttl.total_seconds()
    elif isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
        raise TypeError(f"{what} has type {type(ttl).__name__}; give seconds as an int or float, or a timedelta{hint}")
    if not ttl > 0:
        raise ValueError(f"{what} is {shown(ttl)}; give more than 0 seconds{hint}")
    return None if ttl >= _PERMANENT_S else float(ttl)


def check_int(what: str, value: object, unit: str = "an int") -> int:
    """``value`` if it is a whole number, else ``TypeError``. ``unit`` says in the message what to give."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} has type {type(value).__name__}; give {unit}")
    return value


def check_count(what: str, value: object, least: int, hint: str = "") -> int:
    """``value`` if it is a whole number from ``least``, else ``ValueError``. ``hint`` names what else it may be."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    given = shown(value) if isinstance(value, int) else shown_value(value)
    raise ValueError(f"{what} is {given}; give a whole number from {least}{hint}")


def check_bool(what: str, value: object) -> bool:
    """``value`` if it is a bool, else ``TypeError``."""
    if not isinstance(value, bool):
        raise TypeError(f"{what} has type {type(value).__name__}; give True or False")
    return value


def check_number(what: str, value: object) -> float:
    """``value`` if it is an int or a float and no bool, else ``TypeError``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} has type {type(value).__name__}; give an int or a float")
    return value


def check_str(what: str, value: object, hint: str = "") -> str:
    """``value`` if it is a str of any length, else ``TypeError``. ``hint`` says in the message where to get one."""
    if not isinstance(value, str):
        raise TypeError(f"{what} has type {type(value).__name__}; give a str{hint}")
    return value


def check_type(what: str, value: object, kind: type[T], give: str) -> T:
    """``value`` if it is an instance of ``kind``, else ``TypeError``. ``give`` says in the message what to give."""
    if not isinstance(value, kind):
        raise TypeError(f"{what} has type {type(value).__name__}; give {give}")
    return value


def check_plain_function(what: str, fn: object) -> None:
    """``TypeError`` unless ``fn``, the argument ``what``, is a function whose call runs it to its end.

    >>> check_plain_function("fn", len)
    >>> async def step(txn): ...
    >>> check_plain_function("fn", step)
    Traceback (most recent call last):
    TypeError: fn is step, an async function: calling it runs nothing of it; give a plain function
    """
    if not callable(fn):
        raise TypeError(f"{what} has type {type(fn).__name__}; give a function")
    kind = _kind(fn)
    if kind is not None:
        raise TypeError(f"{what} is {name_of(fn)}, {kind}: calling it runs nothing of it; give a plain function")


def check_plain_result(what: str, fn: object, result: object) -> None:
    """``TypeError`` if ``result``, returned by ``fn``, still has to be awaited or iterated. A coroutine is closed."""
    if type(result) in _USUAL_RESULTS or not isinstance(result, (Awaitable, Generator, AsyncGenerator)):
        return
    if isinstance(result, Coroutine):
        result.close()  # else the interpreter warns that it was never awaited
    raise TypeError(
        f"{what} is {name_of(fn)}, which returned a {type(result).__name__}: what it is to do has not been done; "
        "give a plain function that does it before it returns"
    )


def name_of(fn: object) -> str:
    """The name of a function in a message."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)


def _kind(fn: Any) -> str | None:
    """Which kind of function ``fn`` is that a call does not run to its end; None for a plain function."""
    while True:
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, MethodType):
            fn = fn.__func__
        else:
            break
    if type(fn) is FunctionType and not fn.__code__.co_flags & _NOT_PLAIN and not fn.__dict__:
        return None  # nearly always; the checks below take some microseconds
    import inspect

    called = inspect.getattr_static(type(fn), "__call__", fn)
    for candidate in (fn, called):
        if inspect.iscoroutinefunction(candidate):
            return "an async function"
        if inspect.isasyncgenfunction(candidate):
            return "an async generator function"
        if inspect.isgeneratorfunction(candidate):
            return "a generator function"
    return None
