"""Descriptors inside a process that belongs to the user's program.

- No descriptor of shoal has a number from 0 to 2. A program that was started without standard input, output or error
  may open or print to these numbers at any time.
- All are close-on-exec: no program that the process executes inherits them.
- A number is closed once. Closing it again would close what another part of the program has opened meanwhile.
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
    """``fd`` if its number is 3 or more; else a copy with such a number, and ``fd`` is closed."""
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
    """Close all descriptors of a list that ``owned`` has made. A second call does nothing.

    Each number is taken from the list and closed within one call of C, and no signal handler runs inside that. So no
    number is closed twice, and after an exception the next call closes the rest. Two threads may call this at once.
    """
    with contextlib.suppress(IndexError):
        collections.deque(map(os.close, iter(fds.pop, _CLOSED)), maxlen=0)


def map_file(fd: int, size_bytes: int, access: int) -> mmap.mmap:
    """A shared mapping of a file.

    Before Python 3.13, ``mmap`` keeps a copy of the descriptor with the lowest free number and closes that number in
    the end. If standard input is closed that would be 0, which may belong to the program by then: so 0 to 2 are taken
    meanwhile.
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
    """In a process of shoal's own: open /dev/null for good under each of the numbers 0 to 2 that is free."""
    _take_standard()


def _take_standard() -> list[int]:
    taken = []
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) < FIRST_OWN:
        taken.append(fd)
    os.close(fd)
    return taken
