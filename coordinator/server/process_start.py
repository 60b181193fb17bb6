"""What a coordinator's process does before it serves: what it keeps of its starter, and what it tells it.

Nobody may depend on the starter: it can be killed at any moment, and the coordinator outlives it.
"""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Any

from shoal.shm import codec
from shoal.shm.errors import ShoalError
from shoal.shm.host import descriptors
from shoal.shm.wire import wire_errors


def raise_limit_of_descriptors() -> None:
    """Have as many as the system allows: every client takes some, and the usual limit suits programs with few files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS names a limit that it then refuses: the old one stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def leave_everything(but: int) -> None:
    """Keep neither the client's working directory nor its descriptors, ``but`` one."""
    os.chdir("/")
    for name in os.listdir("/dev/fd"):
        if int(name) >= descriptors.FIRST_OWN and int(name) != but:
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(int(name))


class Report:
    """Tells whoever started this process, if it is still there, how the start went."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def is_due(self) -> bool:
        """Whether nothing has been said yet: the store is not being served."""
        return self._fd >= 0

    def ready(self) -> None:
        """Say that the store is being served."""
        self._say([])

    def failed(self, error: ShoalError) -> None:
        """Say why the store is not served."""
        self._say(list(wire_errors.error_parts(error)))

    def _say(self, parts: list[Any]) -> None:
        if self._fd >= 0:
            with contextlib.suppress(BrokenPipeError):  # the starter was killed meanwhile; others are waiting
                os.write(self._fd, codec.pack(parts))
            os.close(self._fd)
            self._fd = -1
