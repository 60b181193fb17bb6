"""Endless loops beside a trial: a busy machine, as it is with compilers and test runs at work."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager

from . import signals

_CONTEXT = multiprocessing.get_context("fork")


@contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Run ``number`` processes that compute without end during the block."""
    loops = [_CONTEXT.Process(target=_loop, daemon=True) for _ in range(number)]
    try:
        for loop in loops:
            with signals.held_back():
                loop.start()
        yield
    finally:
        for loop in loops:
            if loop.pid is not None:
                loop.kill()
                loop.join()


def _loop() -> None:
    signals.leave_to_parent()
    while True:
        pass
