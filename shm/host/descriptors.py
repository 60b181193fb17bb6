"""Rules for descriptors inside a process that belongs to somebody else.

- Nothing of shoal's has a number from 0 to 2. A program that was started without standard input, output or error may
  open or print to these numbers at any time.
- Nothing is inherited by a program that a process executes: everything is close-on-exec.
- A number is closed once. Closing it a second time would close what another part of the program has opened meanwhile.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import mmap
import os
import sys

FIRST_OWN = 3
_CLOSED = None


def above_standard(fd: int) -> int:
    """``fd``, or in its place a copy with a number from 3 on."""
    if fd >= FIRST_OWN:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_OWN)
    finally:
        os.close(fd)


def pipe() -> tuple[int, int]:
    """``os.pipe`` with numbers from 3 on."""
    read_fd, write_fd = os.pipe()
    if min(read_fd, write_fd) >= FIRST_OWN:
        return read_fd, write_fd
    return above_standard(read_fd), above_standard(write_fd)


def owned(*fds: int) -> list[int | None]:
    """A list for ``close_all``."""
    return [_CLOSED, *fds]


def close_all(fds: list[int | None]) -> None:
    """Close all of a list that ``owned`` has made; a second time does nothing.

    Each number is taken from the list and closed within one call of C: an exception that a signal handler raises comes
    before or after it. So a number is never closed twice, and what is left is closed by the next call. Two threads may
    call this at once: the one that finds the list empty has nothing left to do.
    """
    with contextlib.suppress(IndexError):
        collections.deque(map(os.close, iter(fds.pop, _CLOSED)), maxlen=0)


def map_file(fd: int, size_bytes: int, access: int) -> mmap.mmap:
    """A shared mapping of a file.

    ``mmap`` keeps a copy of the descriptor, with the lowest number that is free, and closes that number in the end.
    With standard input closed that would be 0, which may belong to the program by then.
    """
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, access, trackfd=False)
    taken = _take_standard()
    try:
        return mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, access)
    finally:
        for each in taken:
            os.close(each)


def keep_standard() -> None:
    """Have 0, 1 and 2 taken for good, in a process that is shoal's own: by /dev/null if by nothing else."""
    _take_standard()


def _take_standard() -> list[int]:
    taken = []
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) < FIRST_OWN:
        taken.append(fd)
    os.close(fd)
    return taken
