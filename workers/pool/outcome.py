"""Results and exceptions of tasks as bytes: made in the worker, read in the pool.

The message of an exception holds its type's name, its text and its traceback beside its pickle. If the pickle cannot be
made or read, the exception arrives as ``WorkerTaskError`` with these. No exception of a task harms the worker or the
pool, whatever its methods do.
"""

from __future__ import annotations

import io
import pickle
import traceback
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any

from shoal.shm.errors import WorkerTaskError
from shoal.workers.pool.channel import RAISED, RESULT, UNSENDABLE


class RemoteTraceback(Exception):  # noqa: N818 (it is never raised: it is the __cause__ of another)
    """The traceback of an exception in the worker that raised it, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.tb = text

    def __str__(self) -> str:
        return f'\n"""\n{self.tb}"""'


class UnsendableResultError(pickle.PicklingError, TypeError):
    """A task's result cannot be pickled."""


def pack_result(result: object) -> tuple[bytes, Any]:
    """Kind and body of the message for a result."""
    try:
        return RESULT, pickled(result)
    except BaseException as error:
        text = f"the task's result of type {type(result).__name__} cannot be sent to the pool: {_text_of(error)}"
        return UNSENDABLE, pickle.dumps((text, _traceback_of(error)))


def pack_exception(error: BaseException, kind: bytes = RAISED) -> tuple[bytes, Any]:
    """Kind and body of the message for an exception."""
    try:
        raw = pickled(error, _ExceptionPickler)
    except BaseException:
        raw = b""
    notes = _attempt(lambda: [_exact(note) for note in getattr(error, "__notes__", ())], [])
    return kind, pickle.dumps((raw, type(error).__name__, _text_of(error), _traceback_of(error), notes))


def unpack(kind: bytes, body: bytearray) -> tuple[object, BaseException | None]:
    """The result of a task, or the error in its place; ``WorkerTaskError`` for what cannot be unpickled here."""
    if kind == RAISED:
        return None, unpack_exception(body)
    if kind == UNSENDABLE:
        text, where = pickle.loads(body)
        unsendable = UnsendableResultError(text)
        unsendable.__cause__ = RemoteTraceback(where)
        return None, unsendable
    try:
        return pickle.loads(body), None
    except BaseException as error:
        text = f"the task's result cannot be unpickled: {_text_of(error)}"
        told = WorkerTaskError(type(error).__name__, text, _traceback_of(error))
        told.__cause__ = error.with_traceback(None)  # which would refer to this frame, and so to itself
        return None, told


def unpack_exception(body: bytearray) -> BaseException:
    """The exception, with its remote traceback as ``__cause__``; a ``WorkerTaskError`` if it cannot be unpickled."""
    raw, name, text, where, notes = pickle.loads(body)
    error = _attempt(lambda: pickle.loads(raw), None) if raw else None
    if not isinstance(error, BaseException):
        error = WorkerTaskError(name, text, where)
    # Not by assignment: the exception's own class may refuse it, as a frozen dataclass does.
    _attempt(lambda: BaseException.__setattr__(error, "__cause__", RemoteTraceback(where)), None)
    if notes and not _attempt(lambda: getattr(error, "__notes__", None), None):
        _attempt(lambda: BaseException.__setattr__(error, "__notes__", notes), None)
    return error


def describe_exception(body: bytearray) -> str:
    """Type and text of the exception; runs none of its code."""
    _, name, text, _, _ = pickle.loads(body)
    return f"{name}: {text}"


def traceback_of_exception(body: bytearray) -> str:
    """The exception's remote traceback."""
    where: str = pickle.loads(body)[3]
    return where


def pickled(value: object, pickler: type[ForkingPickler] = ForkingPickler) -> bytes:
    """A value as bytes, by the rules of ``multiprocessing``, which can pickle more than ``pickle`` alone."""
    written = io.BytesIO()
    pickler(written, pickle.HIGHEST_PROTOCOL).dump(value)
    return written.getvalue()


class _ExceptionPickler(ForkingPickler):
    """Pickles exceptions so that unpickling does not call their class's ``__setattr__``.

    Python sets attributes one by one by it, and that of a frozen dataclass refuses. What a program has registered with
    ``copyreg`` for a class of exceptions comes first, as with any pickler.
    """

    def reducer_override(self, value: object) -> Any:
        if not isinstance(value, BaseException) or type(value).__setstate__ is not BaseException.__setstate__:
            return NotImplemented
        if type(value) in self.dispatch_table:
            return NotImplemented
        reduced = value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        if not isinstance(reduced, tuple) or len(reduced) != 3 or not isinstance(reduced[2], dict):
            return reduced
        # Not as arguments of a function that makes it: an attribute may refer to the exception, which must exist then.
        return *reduced, None, None, _set_attributes


def _set_attributes(error: BaseException, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        try:  # what Python's own classes add, as the name in ImportError, is in no dict
            BaseException.__setattr__(error, name, value)
        except Exception:  # a property that cannot be set, or refuses the value
            error.__dict__[name] = value


def drop_first_line(error: BaseException) -> None:
    """Take the outermost call out of the exception's traceback. Runs none of its code."""
    where = _where(error)
    if where is not None:
        BaseException.with_traceback(error, where.tb_next)


def _where(error: BaseException) -> TracebackType | None:
    where: TracebackType | None = BaseException.__getattribute__(error, "__traceback__")
    return where


def _text_of(error: BaseException) -> str:
    text: str = _attempt(lambda: _exact(error), "(its text cannot be had: its __str__ raises)")
    return text


def _exact(value: object) -> str:
    """``str(value)``, and no subclass of ``str``: a ``__str__`` may return one, which need not be picklable."""
    return str.__str__(str(value))


def _traceback_of(error: BaseException) -> str:
    lines = _attempt(lambda: traceback.format_exception(error), None)
    if lines is None:  # one of its methods raises
        lines = [*traceback.format_tb(_where(error)), f"{type(error).__name__}: {_text_of(error)}\n"]
    # What cannot be encoded is shown, so that the traceback can be printed anywhere.
    return "".join(lines).encode("utf-8", "backslashreplace").decode()


def _attempt(call: Callable[[], Any], otherwise: Any) -> Any:
    """What ``call`` returns; ``otherwise`` if it raises. The methods of a task's exception may do anything."""
    try:
        return call()
    except BaseException:
        return otherwise
