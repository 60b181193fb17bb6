"""What the methods of the asynchronous classes return: coroutines, and iterators."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from shoal.workers.tasks.greenlets import Call, run

T = TypeVar("T")
_END: Any = object()


class Entering(Coroutine[Any, Any, T]):
    """A call that can be awaited, or used in ``async with``, which enters what the call returns.

    ``to_enter`` turns the result of the call into what is entered.
    """

    __slots__ = ("_call", "_entered", "_to_enter")

    def __init__(self, call: Coroutine[Any, Any, T], to_enter: Callable[[T], Any]) -> None:
        self._call = call
        self._to_enter = to_enter
        self._entered: Any = None

    def __await__(self) -> Generator[Any, Any, T]:
        return self._call.__await__()

    def send(self, value: Any) -> Any:
        """As of a coroutine."""
        return self._call.send(value)

    def throw(self, *error: Any) -> Any:
        """As of a coroutine."""
        return self._call.throw(*error)

    def close(self) -> None:
        """As of a coroutine."""
        self._call.close()

    async def __aenter__(self) -> T:
        result = await self._call
        if result is None:  # of a claim
            raise TypeError("the call returned None, which cannot be entered; await it, and see what it returns")
        self._entered = self._to_enter(result)
        return cast(T, await self._entered.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return cast("bool | None", await self._entered.__aexit__(kind, error, traceback))


class Items(AsyncIterator[T], Generic[T]):
    """An asynchronous iterator over a synchronous one. Each step is a call of its own.

    The iterator is made at once, so a bad argument is refused there, and no later change is missed. A cancelled step
    ends the iterator, as it ends an asynchronous generator. One task at a time is in a step; another one that asks
    meanwhile gets ``RuntimeError``, as from an asynchronous generator: two would drive one greenlet.
    """

    __slots__ = ("_begun", "_convert", "_is_in_step", "_iterator")

    def __init__(self, make: Callable[[], Iterator[Any]], convert: Callable[[Any], T]) -> None:
        self._begun = Call(make)
        self._begun.begin()
        self._iterator: Iterator[Any] | None = None
        self._convert = convert
        self._is_in_step = False

    def __aiter__(self) -> Items[T]:
        return self

    async def __anext__(self) -> T:
        with self._step():
            iterator = await self._made()
            item = await run(lambda: next(iterator, _END))
        if item is _END:
            raise StopAsyncIteration
        return self._convert(item)

    async def aclose(self) -> None:
        """End it. A second time does nothing. Raises ``RuntimeError`` while another task waits for the next item."""
        with self._step():
            close = getattr(await self._made(), "close", None)
            if close is not None:
                await run(close)

    async def _made(self) -> Iterator[Any]:
        if self._iterator is None:
            self._iterator = await self._begun.result()
        return self._iterator

    @contextmanager
    def _step(self) -> Iterator[None]:
        if self._is_in_step:
            raise RuntimeError(
                "another task waits for the next item of this iterator; use it in one task, or cancel that"
            )
        self._is_in_step = True
        try:
            yield
        finally:
            self._is_in_step = False
