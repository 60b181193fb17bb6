"""Sleeping, in a thread that may run other tasks meanwhile.

A call of shoal runs in a thread, or in a *task*: one of many that an event loop runs in one thread (``shoal.aio``). A
task never blocks its thread. Where a thread sleeps, a task has the loop run others, and goes on when what it waits for
is there. Every place where a call may sleep asks here which of both it runs in. It does so only when it is about to
sleep, so a call that need not wait pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from shoal.shm.host.unpatched import thread

T = TypeVar("T")


class Task(Protocol):
    """What a call that runs in a task does in place of sleeping."""

    @property
    def owner(self) -> object:
        """What waits for this call, and makes no other one until then, but inside this one."""
        ...

    def in_turn(self, at: object, call: Callable[[], T], /) -> T:
        """Run ``call`` while no other task does so with the same ``at``."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Have other tasks run for ``seconds``."""
        ...

    def wait_for_fd(self, fd: int, writing: bool, timeout_s: float, /) -> bool:
        """Have other tasks run until ``fd`` is ready; False after ``timeout_s`` seconds, or if it should look again."""
        ...


_find: Callable[[], Task | None] | None = None


def find_with(find: Callable[[], Task | None]) -> None:
    """Ask ``find`` from now on which task runs; None of it is a thread."""
    global _find
    _find = find


def running() -> Task | None:
    """The task that this call runs in; None in a thread."""
    return None if _find is None else _find()


def sleep(seconds: float, clock: Any) -> None:
    """``clock.sleep``, or that of the task."""
    task = running()
    if task is None:
        clock.sleep(seconds)
    else:
        task.sleep(seconds)


def owner() -> object:
    """What makes this call: the thread, or what waits for the task."""
    task = running()
    return thread.get_ident() if task is None else task.owner


def in_turn(at: object, call: Callable[[], T]) -> T:
    """Run ``call``; in a task when it is its turn at ``at``."""
    task = running()
    return call() if task is None else task.in_turn(at, call)


class TaskPoller:
    """``select.poll`` for one descriptor and one task."""

    __slots__ = ("_fd", "_task", "_writing")

    def __init__(self, task: Task, fd: int, writing: bool) -> None:
        self._task = task
        self._fd = fd
        self._writing = writing

    def poll(self, timeout_ms: float) -> list[int]:
        """The descriptor, if it is ready within ``timeout_ms``."""
        return [self._fd] if self._task.wait_for_fd(self._fd, self._writing, timeout_ms / 1000) else []
