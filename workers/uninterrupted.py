"""Runs calls where no signal handler interrupts them: in a thread of their own.

CPython runs signal handlers in the main thread, between any two bytecodes, and a handler may raise. Code that makes
descriptors or processes would lose them: ``fd = os.open(...)`` can be interrupted after the call and before the
assignment. In another thread that cannot happen. The result must close itself when it is dropped, because the thread
that waits for it may be interrupted. A thread takes 0.1 ms to start: this is for attaching, not for commits.

The garbage collector does not run meanwhile. It would run finalisers of the program in that thread, and one that uses
the same database, or a lock of the program, would wait for the thread that waits here, for ever. In the waiting thread
itself such a lock lets it pass.
"""

from __future__ import annotations

import gc
import os
import sys
from _queue import SimpleQueue
from collections.abc import Callable
from typing import Any, TypeVar

from shoal.shm.host.unpatched import thread

T = TypeVar("T")


class _ForkedError(Exception):
    """The process was forked while the call ran; in the child its thread does not exist."""


class _Collector:
    """The automatic garbage collection of this process. It rests while a call runs, if the program has it enabled."""

    def __init__(self) -> None:
        # Held over a fork, so that a child finds both the collector and the note of it changed, or neither. Reentrant:
        # a signal handler may fork during a fork.
        self.lock: Any = thread.RLock()
        self._calls = 0
        self._was_enabled = False

    def rest(self) -> None:
        """Until ``go_on``, called in a thread where no signal handler runs, so that both are called."""
        self.lock.acquire()  # not ``with``, which makes an object, and that may start a collection
        self._was_enabled = self._was_enabled or gc.isenabled()
        gc.disable()
        self._calls += 1
        self.lock.release()

    def go_on(self) -> None:
        """A call has ended."""
        self.lock.acquire()
        self._calls -= 1
        if not self._calls and self._was_enabled:
            self._was_enabled = False
            gc.enable()
        self.lock.release()

    def go_on_in_child(self) -> None:
        """After a fork: the calls, and whoever had the lock, are threads of the parent."""
        self.lock._at_fork_reinit()
        if self._was_enabled:
            gc.enable()
        self._calls, self._was_enabled = 0, False


_collector = _Collector()
# Where the results of calls under way are waited for; a forked child ends these waits.
_waiting: list[SimpleQueue[Any]] = []


def uninterrupted(call: Callable[[], T]) -> T:
    """Run ``call`` in a thread and return what it returns, or raise what it raises."""
    while True:
        try:
            return _in_thread(call)
        except _ForkedError:
            continue


def _in_thread(call: Callable[[], T]) -> T:
    outcome: SimpleQueue[Any] = SimpleQueue()

    def run() -> None:
        _collector.rest()
        try:
            outcome.put((call(), None))
        except BaseException as error:
            outcome.put((None, error))
        _collector.go_on()  # last: before its outcome is there, the other thread waits for this one

    if sys.is_finalizing():  # the interpreter runs no other thread any more
        return call()
    try:
        _waiting.append(outcome)
        try:
            thread.start_new_thread(run, ())
        except RuntimeError:  # no thread can be started: an unprotected call is better than none
            return call()
        result, error = outcome.get()
    finally:
        if outcome in _waiting:
            _waiting.remove(outcome)
    if error is None:
        answer: T = result
        return answer
    try:
        raise error
    finally:
        del error


def _after_fork_in_child() -> None:
    _collector.go_on_in_child()
    for outcome in _waiting:
        outcome.put((None, _ForkedError()))


if hasattr(os, "register_at_fork"):
    # The lock's own methods: a signal handler that raises inside a function of Python would keep it locked for ever.
    os.register_at_fork(
        before=_collector.lock.acquire, after_in_parent=_collector.lock.release, after_in_child=_after_fork_in_child
    )
