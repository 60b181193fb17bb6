"""Calls that no signal handler interrupts: they run in a thread of their own.

CPython runs signal handlers in the main thread, between any two bytecodes, and a handler may raise. Code that makes
descriptors or processes would lose them there: ``fd = os.open(...)`` can be interrupted after the call and before the
assignment. In another thread that cannot happen. What the call returns must close itself when it is dropped, because
the thread that waits for it may be interrupted. A thread takes 0.1 ms to start: this is for attaching, not for commits.
"""

from __future__ import annotations

import os
import sys
from _queue import SimpleQueue
from collections.abc import Callable
from typing import Any, TypeVar

from shoal.shm.host.unpatched import thread

T = TypeVar("T")


class _ForkedError(Exception):
    """The process has been forked, and in the child nobody runs the call."""


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
        try:
            outcome.put((call(), None))
        except BaseException as error:
            outcome.put((None, error))

    if sys.is_finalizing():  # other threads do not run any more
        return call()
    try:
        _waiting.append(outcome)
        try:
            thread.start_new_thread(run, ())
        except RuntimeError:  # the machine has no thread left: the call is worth more than its protection
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
    for outcome in _waiting:
        outcome.put((None, _ForkedError()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
