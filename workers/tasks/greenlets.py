"""A call of the synchronous face in a greenlet, so that it can stop in the middle while an event loop runs other tasks.

There is one implementation of shoal. A call that has to wait (for its answer, for another process, for a pause) asks
``shm.host.tasks`` whether it runs in a task. If so, it hands the loop something to await, and its greenlet stops. The
coroutine around it (``Call.result``) awaits that and switches back. No thread is needed for that.

- A greenlet stops only where shoal would sleep, and never while it holds a lock: another task of the same thread would
  pass a reentrant lock, and another thread would wait for all that the loop does.
- A cancelled task raises ``CancelledError`` where it waits. But a commit that was sent may be done already, and one
  that follows may overtake it. So a task that waits for such an answer (``Greenlet.finish``) waits on, for
  ``_LAST_ANSWER_S`` at most, and raises then. A second cancellation raises at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Generic, TypeVar

import greenlet

from shoal.shm.host import tasks
from shoal.shm.host.unpatched import thread

T = TypeVar("T")

_LAST_ANSWER_S = 1.0


# By loop, and that at which a task has its turn or is in line for it. A forked child has a loop of its own.
_turns: weakref.WeakValueDictionary[tuple[asyncio.AbstractEventLoop, object], asyncio.Lock] = (
    weakref.WeakValueDictionary()
)


class Outcome(Generic[T]):
    """A value or an error that comes once. Tasks of one loop wait for it."""

    __slots__ = ("error", "is_there", "value", "waiting")

    def __init__(self) -> None:
        self.is_there = False
        self.value: T | None = None
        self.error: BaseException | None = None
        self.waiting: list[asyncio.Future[None]] = []

    def settle(self, value: T | None, error: BaseException | None = None) -> None:
        """Give the value or the error, and wake the tasks that wait for it."""
        self.is_there, self.value, self.error = True, value, error
        for future in self.waiting:
            _wake(future)
        self.waiting.clear()


def in_thread(loop: asyncio.AbstractEventLoop, call: Callable[[], T]) -> Outcome[T]:
    """Run ``call`` in a thread of its own: for what may take seconds, as to start a coordinator."""
    outcome: Outcome[T] = Outcome()

    def run() -> None:
        try:
            settle = partial(outcome.settle, call())
        except BaseException as error:
            settle = partial(outcome.settle, None, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle)

    thread.start_new_thread(run, ())
    return outcome


class Greenlet(greenlet.greenlet):  # type: ignore[misc]
    """A call that runs in a task. Its methods are called inside it; they are those of ``shm.host.tasks.Task``."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(call)
        self.gr_context = greenlet.getcurrent().gr_context
        self._finishing = 0
        self._has_turn = False
        self._cancelled: asyncio.CancelledError | None = None
        self._give_up_s = 0.0  # monotonic, of a call that was cancelled

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that runs this task."""
        return asyncio.get_running_loop()

    @property
    def owner(self) -> object:
        """The task of the loop that waits for this call: it makes no other one until then, but inside this one."""
        return asyncio.current_task()

    def in_turn(self, at: object, call: Callable[[], T]) -> T:
        """Run ``call`` while no other task of the loop does so with the same ``at``; at once inside a turn."""
        if self._has_turn:
            return call()
        turn = _turns.setdefault((self.loop, at), asyncio.Lock())
        self.acquire(turn)
        try:
            self._has_turn = True
            return call()
        finally:
            self._has_turn = False
            turn.release()

    def wait(self, awaitable: Any) -> Any:
        """The result of an awaitable. If a cancellation is put off it is None: look again."""
        return self.parent.switch(awaitable)

    def sleep(self, seconds: float) -> None:
        """Have other tasks run for ``seconds``."""
        self.wait(asyncio.sleep(seconds))

    def wait_for_fd(self, fd: int, writing: bool, timeout_s: float) -> bool:
        """Have other tasks run until ``fd`` is ready; False after ``timeout_s`` seconds, or if it should look again."""
        return bool(self.wait(_Ready(fd, writing, min(timeout_s, self._left_s()))))

    def wait_for(self, outcome: Outcome[T]) -> T:
        """Have other tasks run until ``outcome`` is there. Its value; raises its error."""
        while not outcome.is_there:
            left_s = self._left_s()
            future = self.loop.create_future()
            outcome.waiting.append(future)
            timer = self.loop.call_later(left_s, _wake, future) if self._cancelled is not None else None
            try:
                self.wait(future)
            finally:
                if timer is not None:
                    timer.cancel()
        if outcome.error is not None:
            raise outcome.error
        return outcome.value  # type: ignore[return-value]

    def acquire(self, lock: asyncio.Lock) -> None:
        """Acquire ``lock``. A cancellation is not put off."""
        if self._cancelled is not None or not self.wait(lock.acquire()):
            assert self._cancelled is not None
            raise self._cancelled

    def finish(self, call: Callable[..., T], *arguments: Any) -> T:
        """Run ``call``. A first cancellation meanwhile is raised when it has returned, or ``_LAST_ANSWER_S`` later."""
        self._finishing += 1
        try:
            result = call(*arguments)
        except Exception as error:
            if self._cancelled is not None:
                raise self._cancelled from error
            raise
        finally:
            self._finishing -= 1
        if self._cancelled is not None:
            raise self._cancelled
        return result

    def puts_off(self, cancelled: asyncio.CancelledError) -> bool:
        """Whether a cancellation is raised later; the coroutine around the call asks."""
        if not self._finishing or self._cancelled is not None:
            return False
        self._cancelled, self._give_up_s = cancelled, time.monotonic() + _LAST_ANSWER_S
        return True

    def _left_s(self) -> float:
        """How long it may wait on; raises the cancellation that was put off when the time is up."""
        if self._cancelled is None:
            return float("inf")
        left_s = self._give_up_s - time.monotonic()
        if left_s <= 0:
            raise self._cancelled
        return left_s


class _Ready:
    """Awaitable: whether a descriptor becomes ready in time."""

    __slots__ = ("_fd", "_timeout_s", "_writing")

    def __init__(self, fd: int, writing: bool, timeout_s: float) -> None:
        self._fd = fd
        self._writing = writing
        self._timeout_s = timeout_s

    def __await__(self) -> Generator[Any, None, bool]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        add, remove = (loop.add_writer, loop.remove_writer) if self._writing else (loop.add_reader, loop.remove_reader)
        add(self._fd, _wake, future, True)
        timer = loop.call_later(self._timeout_s, _wake, future, False) if self._timeout_s < _FOR_EVER_S else None
        try:
            return bool((yield from future))
        finally:
            remove(self._fd)
            if timer is not None:
                timer.cancel()


_FOR_EVER_S = 1e6


def _wake(future: asyncio.Future[Any], value: Any = None) -> None:
    if not future.done():
        future.set_result(value)


class Call(Generic[T]):
    """One call. ``begin`` runs it until it has to wait for the first time; ``result`` runs it to its end."""

    __slots__ = ("_awaited", "_greenlet", "_value")

    def __init__(self, call: Callable[[], T]) -> None:
        self._greenlet = Greenlet(call)
        self._awaited: Any = None
        self._value: Any = None

    def begin(self) -> bool:
        """Run until it has to wait or is done; whether it is done. Raises what the call raises."""
        self._go_on(self._greenlet.switch)
        return bool(self._greenlet.dead)

    async def result(self) -> T:
        """What the call returns, or raise what it raises."""
        running = self._greenlet
        while not running.dead:
            try:
                value = await self._awaited
            except asyncio.CancelledError as cancelled:
                if running.puts_off(cancelled):
                    self._go_on(running.switch, None)
                else:
                    self._go_on(running.throw, cancelled)
            except BaseException as error:
                self._go_on(running.throw, error)
            else:
                self._go_on(running.switch, value)
        result: T = self._value
        return result

    def _go_on(self, switch: Callable[..., Any], *arguments: Any) -> None:
        running = self._greenlet
        running.parent = greenlet.getcurrent()
        self._awaited = None
        value = switch(*arguments)
        if running.dead:
            self._value = value
        else:
            self._awaited = value


def running() -> Greenlet | None:
    """The task that this call runs in; None in a thread."""
    current = greenlet.getcurrent()
    return current if type(current) is Greenlet else None


def apart(call: Callable[[], T]) -> T:
    """What ``call`` returns or raises. A thread runs it, and the loop of this task goes on meanwhile."""
    task = running()
    assert task is not None
    return task.wait_for(in_thread(task.loop, call))


async def run(call: Callable[[], T]) -> T:
    """Run ``call`` as a task: its result, or its error."""
    begun = Call(call)
    if begun.begin():
        result: T = begun._value
        return result
    return await begun.result()


tasks.find_with(running)
