"""Signal handlers for a while, and the exception that tests raise in them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

RUN = "interrupted"


class Interrupted(BaseException):
    """Raised by a signal handler."""


class Alarm(Exception):  # noqa: N818 (no error)
    """The same, as an ``Exception``, which failures of commits are, too."""


@contextlib.contextmanager
def handling(number: int, handler: Callable[[], None]) -> Iterator[None]:
    """Have a signal handled by ``handler`` meanwhile."""
    before = signal.signal(number, lambda _number, _frame: handler())
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(number, before)
