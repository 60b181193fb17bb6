"""Drives the asynchronous face as if it were the synchronous one: so tests of one are tests of the other.

An event loop runs in a thread. Every call of a ``Driven`` object is made there and waited for here.
"""

from __future__ import annotations

import asyncio
import inspect
import pickle
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from shoal import aio
from shoal.aio.calls import Items
from shoal.aio.faces import EnteredTransaction, Face
from shoal.workers.tasks.greenlets import running

FACADES = ("Budget", "EventLog", "KVStore", "RunIndex", "StateCell", "TaskQueue", "TraceStore")
_END = object()


class _Raised(NamedTuple):
    error: BaseException


class LoopThread:
    """An event loop in a thread; ``close`` ends both."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, call: Any, *arguments: Any, **options: Any) -> Any:
        """Make a call in the loop and wait for what it returns, awaited if it can be."""

        async def made() -> Any:
            try:
                result = call(*arguments, **options)
                return await result if inspect.isawaitable(result) else result
            except (KeyboardInterrupt, SystemExit) as error:  # these would end the loop
                return _Raised(error)

        task = running()
        if task is not None:  # a function that a call was given calls another
            return task.wait(made())
        result = asyncio.run_coroutine_threadsafe(made(), self.loop).result()
        if isinstance(result, _Raised):
            raise result.error
        return result

    def close(self) -> None:
        """End the loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Driven:
    """An asynchronous object with the calls of the synchronous one."""

    def __init__(self, loop: LoopThread, face: Any) -> None:
        self._loop = loop
        self._face = face

    def __getattr__(self, name: str) -> Any:
        # A face does not give away its store, which tests of the engine need.
        member = self._face._sync._store if name == "_store" else getattr(self._face, name)
        return self._method(member) if inspect.ismethod(member) and not name.startswith("_") else member

    def __reduce__(self) -> NoReturn:
        pickle.dumps(self._face)  # what belongs to its process raises here
        raise TypeError("a driven object stays with its loop")

    def __enter__(self) -> Any:
        return self._driven(self._loop.run(self._face.__aenter__))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Any:
        return self._loop.run(self._face.__aexit__, kind, error, traceback)

    def __iter__(self) -> Iterator[Any]:
        return self if isinstance(self._face, Items) else Driven(self._loop, self._loop.run(self._face.__aiter__))

    def __next__(self) -> Any:
        async def following() -> Any:
            return await anext(self._face, _END)

        item = self._loop.run(following)
        if item is _END:
            raise StopIteration
        return self._driven(item)

    def close(self) -> None:
        """Of an iterator or of what has a ``close``."""
        self._loop.run(self._face.aclose if isinstance(self._face, Items) else self._face.close)

    def _method(self, method: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            given = [_face_of(argument) for argument in arguments]
            named = {name: _face_of(argument) for name, argument in options.items()}
            return self._driven(self._loop.run(method, *given, **named))

        return call

    def _driven(self, result: Any) -> Any:
        if isinstance(result, (Face, Items, EnteredTransaction)):
            return Driven(self._loop, result)
        return [self._driven(each) for each in result] if type(result) is list else result


def _face_of(argument: Any) -> Any:
    return argument._face if isinstance(argument, Driven) else argument


def facade(name: str) -> Any:
    """Stands for ``shoal.NAME``: the asynchronous class, driven, of a driven database."""

    def make(db: Driven, **options: Any) -> Driven:
        return Driven(db._loop, getattr(aio, name)(db._face, **options))

    make.verify = getattr(aio, name).verify if name == "EventLog" else None  # type: ignore[attr-defined]
    return make
