"""``os.read``, ``os.write`` and ``select.epoll.poll`` for descriptors that do not block.

In plain Python these are the system's own. Compiled, they are C calls with their memory on the stack: ``select.epoll``
takes and frees 12 KiB for each call.
"""

from __future__ import annotations

import errno
import functools
import math
import os
from collections.abc import Callable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from shoal.shm import cython_shim as cython  # type: ignore[no-redef]

Poll = Callable[[float], list[tuple[int, int]]]  # takes the longest time to wait in seconds; (descriptor, events)

if cython.compiled:
    from cython.cimports.pipes import poll_events, read_some, write_some

    def read(fd: int, n_bytes: int) -> bytes:
        """``os.read``."""
        data = read_some(fd, n_bytes)
        if data is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return data

    def write(fd: int, data: bytes) -> int:
        """``os.write``, but 0 if there is no room now."""
        return write_some(fd, data, 0)

    def _poll(epoll_fd: int, timeout_s: float) -> list[tuple[int, int]]:
        return poll_events(epoll_fd, 0 if timeout_s == 0 else math.ceil(timeout_s * 1000))

    def poll_of(epoll: Any) -> Poll:
        """The method ``poll`` of an epoll. It may return before its time, after a signal, with no event."""
        return functools.partial(_poll, epoll.fileno())

else:
    read, write = os.read, os.write

    def poll_of(epoll: Any) -> Poll:
        """The method ``poll`` of an epoll."""
        poll: Poll = epoll.poll
        return poll
