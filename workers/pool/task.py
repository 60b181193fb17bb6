"""A task and its future."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError, _base
from types import FrameType
from typing import Any

from shoal.shm.errors import InvalidOperationError

log = logging.getLogger("shoal")


class _Condition(threading.Condition):
    """Of a future, which its thread can wait for again after Ctrl-C has left it locked (``release_left_locked``)."""

    _is_owned: Callable[[], bool]  # the lock's

    def acquire(self, *arguments: Any) -> bool:
        """Lock it, once: only ``wait`` and ``as_completed`` call this, all else enters a ``with``."""
        if self._is_owned():
            caller: FrameType | None = sys._getframe(1)
            while caller is not None and caller.f_code.co_filename == _base.__file__:
                caller = caller.f_back
            if not _is_in_futures(caller):
                self.release_all()
        return self._lock.acquire(*arguments)  # type: ignore[attr-defined, no-any-return]

    def release_all(self) -> None:
        """Release it as often as this thread has locked it."""
        while self._is_owned():
            self.release()


class TaskFuture(Future[Any]):
    """A future that can end as cancelled while its task runs. It belongs to one process."""

    _condition: _Condition
    was_interrupted = False  # for all futures: Ctrl-C has interrupted a thread that waited for one

    def __init__(self) -> None:
        super().__init__()
        # The one that ``Future`` has made, as another would cost more than all the rest. It has the lock's own method.
        self._condition.__class__ = _Condition
        vars(self._condition).pop("acquire", None)
        self.task: Task | None = None  # until the future is done
        self._pid = os.getpid()
        self._is_ended = False

    def end_as_cancelled(self) -> bool:
        """End it as cancelled although it runs; False if it is done."""
        self._is_ended = True
        try:
            self.set_exception(CancelledError("the task was cancelled while it ran"))
        except InvalidStateError:
            self._is_ended = False
            return False
        return True

    def cancelled(self) -> bool:
        """Whether it was cancelled, before it began or while it ran."""
        return super().cancelled() or (self._is_ended and self.done())

    def result(self, timeout: float | None = None) -> Any:
        """What the task returned, as ``Future.result``. ``InvalidOperationError`` in a forked child if not done."""
        error = self._outcome(timeout)
        if error is None:
            return self._result
        try:
            raise error  # also one that is false, as a collection of no errors: ``Future.result`` takes it for none
        finally:
            del self, error  # to which the exception's traceback would refer

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the task raised, as ``Future.exception``. ``InvalidOperationError`` in a forked child if not done."""
        error = self._outcome(timeout)
        if self._is_ended and isinstance(error, CancelledError):
            raise error
        return error

    def _outcome(self, timeout: float | None) -> BaseException | None:
        self._check_process()
        try:
            return super().exception(bounded(timeout))
        except KeyboardInterrupt:
            TaskFuture.was_interrupted = True
            raise

    def _check_process(self) -> None:
        if self._pid != os.getpid() and not self.done():
            raise InvalidOperationError(
                "this future belongs to a pool of the process that forked this one, and can only be waited for there"
            )


def release_left_locked() -> None:
    """Release the futures that this thread has left locked: no other thread could settle them, and no pool would end.

    ``concurrent.futures.wait`` and ``as_completed`` lock all their futures, one after the other. Ctrl-C in between
    leaves those locked that it had by then. In a call of that module, which may hold a lock rightly, nothing is done.
    """
    if not _is_in_futures(sys._getframe()):
        # Not by the futures: another thread may be making one, which has no condition yet.
        for condition in [each for each in gc.get_objects() if type(each) is _Condition]:
            condition.release_all()


def _is_in_futures(frame: FrameType | None) -> bool:
    """Whether a frame is of a call of ``concurrent.futures``, or below one."""
    while frame is not None and frame.f_code.co_filename != _base.__file__:
        frame = frame.f_back
    return frame is not None


def bounded(timeout: float | None) -> float | None:
    """The same wait; for ever if it is infinite, or longer than a lock can wait."""
    return None if timeout is not None and timeout > threading.TIMEOUT_MAX else timeout


class Task:
    """A call to be made by a worker. Its future is settled once, by the first thread that tries."""

    __slots__ = ("future", "name", "raw", "retries", "supervisor")

    def __init__(self, raw: Any, name: str, retries: int) -> None:
        self.raw = raw
        self.name = name
        self.retries = retries
        self.supervisor: Any = None  # its worker runs the task
        self.future = TaskFuture()
        self.future.task = self

    def begin(self) -> bool:
        """Whether the task is to be run now. The thread that took it out of the queue calls this.

        If the future was cancelled, the threads that wait for it are woken.
        """
        if self.future.running():  # its worker was lost: the task runs again
            return True
        if self.future.done() and not Future.cancelled(self.future):
            return False
        try:
            return self.future.set_running_or_notify_cancel()
        except RuntimeError:  # another thread has announced it
            return False

    def succeed(self, result: Any) -> None:
        """Settle the future with a result, unless it is settled."""
        self.future.task = None
        with contextlib.suppress(InvalidStateError):
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Settle the future with an exception, unless it is settled."""
        self.future.task = None
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)

    def drop(self, error: BaseException) -> None:
        """Settle the future of a task that will not run: cancelled, or with ``error`` if it has begun before."""
        if self.future.running():
            self.fail(error)
            return
        self.future.task = None
        try:
            self.future.cancel()
        finally:  # also if a callback has raised
            self.begin()
