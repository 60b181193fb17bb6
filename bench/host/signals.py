"""Signals that end the run: the parent unwinds and cleans up, and ends its children."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1


class InterruptedRun(BaseException):
    """Raised by a signal. It is no Exception, so that no handler takes it for a failure of a store."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def raised() -> Iterator[None]:
    """Raise ``InterruptedRun`` at the first signal, which ends workers, peers and directories; ignore later ones."""

    def unwind(number: int, frame: FrameType | None) -> NoReturn:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise InterruptedRun(number)

    before = {number: signal.signal(number, unwind) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Block signals while a process is started: else the parent could lose it, or the child unwind as the parent."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def leave_to_parent() -> None:
    """In a child: ignore Ctrl-C, which goes to all processes of the terminal. The parent ends its children itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """``leave_to_parent`` in the server of a peer; the kernel sends the server a signal if its parent dies."""
    leave_to_parent()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
