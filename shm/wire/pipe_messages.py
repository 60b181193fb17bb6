"""Messages through a pipe that does not block: write one whole, wait for the next."""

from __future__ import annotations

import math
import time
from typing import Any

from shoal.shm.host import tasks
from shoal.shm.host.pipe_signal import SIG_DFL, SIGPIPE, getsignal, write
from shoal.shm.host.unpatched import os, select
from shoal.shm.host.waiting import Lookout
from shoal.shm.wire.frames import FrameBuffer

try:
    import cython
except ModuleNotFoundError:
    from shoal.shm import cython_shim as cython  # type: ignore[no-redef]

if cython.compiled:
    from cython.cimports.pipes import handle_signals, write_some

# A signal that comes right before a sleep does not end it: its handler runs after so long at the latest.
_LONGEST_SLEEP_S = 5.0


def write_all(fd: int, data: bytes, give_up_s: float = math.inf) -> None:
    """Write all of ``data``; TimeoutError if it does not fit into the pipe before ``give_up_s`` (monotonic)."""
    written = 0
    while True:
        if cython.compiled and getsignal(SIGPIPE) is not SIG_DFL:
            written += write_some(fd, data, written)
        else:
            try:  # noqa: SIM105 (half a microsecond for each commit)
                written += write(fd, memoryview(data)[written:] if written else data)
            except BlockingIOError:
                pass  # the pipe is full
        if written == len(data):
            return
        wait_ready(_writing_poller(fd), give_up_s)


def _writing_poller(fd: int) -> Any:
    task = tasks.running()
    if task is not None:
        return tasks.TaskPoller(task, fd, writing=True)
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return poller


def wait_ready(poller: Any, give_up_s: float) -> None:
    """Sleep until a descriptor in ``poller`` is ready; TimeoutError at ``give_up_s`` (monotonic)."""
    while True:
        left_s = give_up_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        if cython.compiled:
            handle_signals()
        if poller.poll(min(left_s, _LONGEST_SLEEP_S) * 1000):
            return


def read_message(
    fd: int,
    poller: Any,
    buffer: FrameBuffer,
    ready: list[bytes],
    lookout: Lookout,
    look_s: float,
    give_up_s: float = math.inf,
    keep_s: float = 0.0,
) -> bytes:
    """The next message from ``fd``, which ``poller`` watches: look for ``look_s`` seconds, then sleep.

    During the first ``keep_s`` seconds looking does not offer the processor to others. ``ready`` holds the messages
    that came with an earlier one. EOFError at the end of the pipe, TimeoutError at ``give_up_s`` (monotonic).
    """
    while not ready:
        data = lookout.look(poller.poll, look_s, keep_s, fd, buffer.wanted_bytes)
        if data is None:
            wait_ready(poller, give_up_s)
        if data is None or not cython.compiled:
            data = os.read(fd, buffer.wanted_bytes)
        if not data:
            raise EOFError
        ready.extend(buffer.feed(data))
    return ready.pop(0)
