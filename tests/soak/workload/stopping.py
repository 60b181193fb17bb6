"""How processes of the soak are told to stop."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from typing import Any


def start_prepared(run: Callable[..., None], *arguments: Any) -> Any:
    """A process that runs this until SIGTERM, which finds it prepared however early it comes."""
    process = multiprocessing.get_context("fork").Process(target=run, args=arguments)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    return process


class Countdown:
    """True after so many looks: a worker told to stop after so many operations."""

    def __init__(self, looks: int) -> None:
        self._left = looks

    def __bool__(self) -> bool:
        self._left -= 1
        return self._left < 0
