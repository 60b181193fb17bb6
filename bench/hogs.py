"""Endless loops beside a trial: the machine as fleets meet it, with compilers and test runs at work."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager

from . import signals

_CONTEXT = multiprocessing.get_context("fork")


@contextmanager
def hogs(number: int) -> Iterator[None]:
    """Have ``number`` processes compute without end."""
    running = [_CONTEXT.Process(target=_loop, daemon=True) for _ in range(number)]
    try:
        for hog in running:
            with signals.held_back():
                hog.start()
        yield
    finally:
        for hog in running:
            if hog.pid is not None:
                hog.kill()
                hog.join()


def _loop() -> None:
    signals.leave_to_parent()
    while True:
        pass
