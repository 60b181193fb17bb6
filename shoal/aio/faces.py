"""Makes an asynchronous class, a *face*, of each synchronous one, from its methods. There is no second list.

An instance of a face holds an object of the synchronous class (``_sync``), and adds nothing to it. What becomes of each
public method of the synchronous class:

- one that returns an iterator: a method that returns an asynchronous iterator (``calls.Items``);
- one that returns something to be entered: a method whose result can be awaited or entered (``calls.Entering``);
- ``transaction``: a method whose result is to be entered. What it gives is the synchronous ``Transaction``, whose calls
  touch only memory;
- a static method: itself;
- any other: a coroutine function.

A class that can be entered or iterated can be entered or iterated asynchronously. Attributes are those of the
synchronous object.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any

from shoal.aio.calls import Entering, Items
from shoal.primitives.facades.facade import no_database
from shoal.primitives.transaction import Transaction
from shoal.workers.tasks.greenlets import Greenlet, apart, run, running

# By synchronous class.
_FACES: dict[type, type[Face]] = {}


class Face:
    """Base of the asynchronous classes."""

    __slots__ = ("__weakref__", "_sync")
    _sync: Any
    _without: tuple[str, ...] = ()  # names of methods that are only in the synchronous class

    def __getattr__(self, name: str) -> Any:
        if name == "_store":  # a synchronous facade would take this for its database, and block the loop
            raise AttributeError(name)
        if name in self._without:
            raise AttributeError(
                f"{self!r} has no {name}; use asyncio.gather or a task group: calls at the same time are sent together"
            )
        return getattr(object.__getattribute__(self, "_sync"), name)

    def __reduce__(self) -> tuple[Any, ...]:
        self._sync.__reduce_ex__(2)  # raises if it belongs to its process
        return faced, (self._sync,)

    def __repr__(self) -> str:
        return repr(self._sync).replace("shoal.", "shoal.aio.", 1)


class EnteredTransaction:
    """A transaction to be used in ``async with``."""

    __slots__ = ("_transaction",)

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def __aenter__(self) -> Transaction:
        return await run(self._transaction.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await run(partial(self._transaction.__exit__, kind, error, traceback))


def face_of(
    sync: type, *, blocking: tuple[str, ...] = (), calls_back: tuple[str, ...] = (), without: tuple[str, ...] = ()
) -> Any:
    """The face of a synchronous class.

    Methods named in ``blocking`` work for long without waiting for a pipe: a thread runs them. To those in
    ``calls_back`` a function may be given that returns something to be awaited, as coroutine functions do; it is
    awaited there. Those in ``without`` are not there.
    """
    members: dict[str, Any] = {
        "__slots__": (),
        "__doc__": sync.__doc__,
        "__module__": "shoal.aio",
        "_without": without,
    }
    for name in dir(sync):
        member = inspect.getattr_static(sync, name)
        if name.startswith("_") or name in without or isinstance(member, property):
            continue
        if isinstance(member, staticmethod):
            members[name] = member
        elif inspect.isfunction(member):
            members[name] = _method(member, name in blocking, name in calls_back)
    if hasattr(sync, "__enter__"):
        members["__aenter__"], members["__aexit__"] = _aenter, _aexit
    if hasattr(sync, "__iter__"):
        members["__aiter__"] = _aiter
    face: type[Face] = type(sync.__name__, (Face,), members)
    _FACES[sync] = face
    return face


def facade_of(sync: type, *, blocking: tuple[str, ...] = ()) -> Any:
    """The face of a class that is made with a database."""
    face = face_of(sync, blocking=blocking)
    sync_init = sync.__init__  # type: ignore[misc]

    @functools.wraps(sync_init)
    def init(self: Face, db: Any, **options: Any) -> None:
        if not isinstance(db, Face):
            raise no_database(db, "shoal.aio.open")
        self._sync = sync(db._sync, **options)

    init.__module__ = "shoal.aio"
    face.__init__ = init
    return face


def faced(result: Any) -> Any:
    """A result of a synchronous call: behind its face, if its class has one."""
    face = _FACES.get(type(result))
    if face is not None:
        instance = face.__new__(face)
        instance._sync = result
        return instance
    if type(result) is list and result and type(result[0]) in _FACES:
        return [faced(each) for each in result]
    return result


def _unfaced(argument: Any) -> Any:
    return argument._sync if isinstance(argument, Face) else argument


def _method(function: Callable[..., Any], blocking: bool, calls_back: bool) -> Any:
    returned = function.__annotations__.get("return", "")
    entered = [sync.__name__ for sync in (*_FACES, Transaction) if hasattr(sync, "__enter__")]
    if calls_back:
        kind = _calling_back
    elif blocking:
        kind = _blocking
    elif returned.startswith("Iterator["):
        kind = _iterating
    elif function.__name__ == "transaction":
        kind = _beginning
    elif returned.removesuffix(" | None") in entered:
        kind = _entering
    else:
        kind = _awaiting
    method = functools.wraps(function)(kind(function))
    method.__module__ = "shoal.aio"
    del method.__wrapped__  # ``inspect`` would take it for a plain function
    vars(method)["__signature__"] = inspect.signature(function)
    return method


def _bound(function: Callable[..., Any], face: Face, arguments: Any, options: Any) -> Callable[[], Any]:
    return partial(
        function,
        face._sync,
        *[_unfaced(argument) for argument in arguments],
        **{name: _unfaced(argument) for name, argument in options.items()},
    )


def _awaiting(function: Callable[..., Any]) -> Any:
    async def method(self: Face, *arguments: Any, **options: Any) -> Any:
        return faced(await run(_bound(function, self, arguments, options)))

    return method


def _blocking(function: Callable[..., Any]) -> Any:
    async def method(self: Face, *arguments: Any, **options: Any) -> Any:
        return faced(await run(partial(apart, _bound(function, self, arguments, options))))

    return method


def _calling_back(function: Callable[..., Any]) -> Any:
    async def method(self: Face, *arguments: Any, **options: Any) -> Any:
        called = [_awaited(argument) for argument in arguments]
        named = {name: _awaited(argument) for name, argument in options.items()}
        return faced(await run(_bound(function, self, called, named)))

    return method


def _awaited(argument: Any) -> Any:
    """A plain function that a task calls: it awaits what ``argument``, if that is a function, returns to be awaited."""
    if not callable(argument) or inspect.isgeneratorfunction(argument) or inspect.isasyncgenfunction(argument):
        return argument

    @functools.wraps(argument)
    def call(*arguments: Any) -> Any:
        result = argument(*arguments)
        if not inspect.isawaitable(result):
            return result
        task = running()
        assert isinstance(task, Greenlet)
        return task.wait(result)

    del call.__wrapped__
    return call


def _iterating(function: Callable[..., Iterator[Any]]) -> Any:
    def method(self: Face, *arguments: Any, **options: Any) -> Any:
        return Items(_bound(function, self, arguments, options), faced)

    return method


def _beginning(function: Callable[..., Any]) -> Any:
    def method(self: Face, *arguments: Any, **options: Any) -> Any:
        return EnteredTransaction(_bound(function, self, arguments, options)())

    return method


def _entering(function: Callable[..., Any]) -> Any:
    awaiting = _awaiting(function)

    def method(self: Face, *arguments: Any, **options: Any) -> Any:
        return Entering(awaiting(self, *arguments, **options), _to_enter)

    return method


def _to_enter(result: Any) -> Any:
    return EnteredTransaction(result) if isinstance(result, Transaction) else result


async def _aenter(self: Face) -> Face:
    await run(self._sync.__enter__)
    return self


async def _aexit(
    self: Face, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
) -> bool | None:
    left: bool | None = await run(partial(self._sync.__exit__, kind, error, traceback))
    return left


def _aiter(self: Face) -> Any:
    return Items(partial(iter, self._sync), faced)
