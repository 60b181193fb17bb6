"""Writing to a pipe whose reader may have died, in a program that SIGPIPE would end.

Python ignores SIGPIPE when it starts. Many programs set the default action again, so that ``| head`` ends them. The
death of a coordinator must not end them.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from shoal.shm.host.unpatched import os

_signal: Any = importlib.import_module("_signal")  # ``signal`` makes an enumeration of each answer, which takes longer

SIGPIPE: int = _signal.SIGPIPE
SIG_DFL = _signal.SIG_DFL
getsignal = _signal.getsignal


def write(fd: int, data: Any) -> int:
    """``os.write``. ``BrokenPipeError`` if nobody can read it any more, and no signal, whatever the program has set."""
    if getsignal(SIGPIPE) is not SIG_DFL:
        return os.write(fd, data)  # type: ignore[no-any-return]
    with kept_back():
        return os.write(fd, data)  # type: ignore[no-any-return]


@contextlib.contextmanager
def kept_back() -> Iterator[None]:
    """A block in which no write ends the program. A process that is started in it has the signal blocked."""
    if getsignal(SIGPIPE) is not SIG_DFL:
        yield
        return
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
    try:
        _signal.pthread_sigmask(_signal.SIG_BLOCK, (SIGPIPE,))
        yield
    finally:
        if SIGPIPE not in before and SIGPIPE in _signal.sigpending():
            _signal.sigwait((SIGPIPE,))
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
