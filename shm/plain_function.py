"""Functions that run to their end when they are called: what shoal takes wherever it calls a function of the user.

Calling an async function or a generator function runs nothing of its body. Taken for done, it would have a transaction
commit nothing, and a task end before it began.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from types import FunctionType, MethodType
from typing import Any

_NOT_PLAIN = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE


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
    """``TypeError`` if ``result``, returned by ``fn``, is something still to be run; a coroutine is closed."""
    if not isinstance(result, (Awaitable, Generator, AsyncGenerator)):
        return
    if isinstance(result, Coroutine):
        result.close()  # else the interpreter warns that it was never awaited
    raise TypeError(
        f"{what} is {name_of(fn)}, which returned a {type(result).__name__}: what it is to do has not been done; "
        "give a plain function that does it before it returns"
    )


def name_of(fn: object) -> str:
    """What a message calls a function."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)


def _kind(fn: Any) -> str | None:
    """What kind of function that is not plain; None of a plain one."""
    while True:
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, MethodType):
            fn = fn.__func__
        else:
            break
    if type(fn) is FunctionType and not fn.__code__.co_flags & _NOT_PLAIN and not fn.__dict__:
        return None  # nearly all of them; what is below takes some microseconds
    called = inspect.getattr_static(type(fn), "__call__", fn)
    for candidate in (fn, called):
        if inspect.iscoroutinefunction(candidate):
            return "an async function"
        if inspect.isasyncgenfunction(candidate):
            return "an async generator function"
        if inspect.isgeneratorfunction(candidate):
            return "a generator function"
    return None
