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
from collections.abc import Iterator

from shoal.shm.host.unpatched import ReentrantLock, thread

FIRST_OWN = 3
# Where a process sees its descriptors. On Linux /dev/fd leads there; a chroot or a small container may have no /dev/fd.
OPEN_ONES = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
_CLOSED = None
# Nobody else opens a file with these flags. They tell what ``standard_taken`` has opened from what the program has put
# in its place since.
_TAKEN = os.O_RDWR | os.O_APPEND | os.O_NONBLOCK | os.O_SYNC

_lock = ReentrantLock()  # guards the two lists; reentrant, because a signal handler may map a file, too
_takers: list[int] = []  # the threads inside ``standard_taken``
_taken: list[int] = []


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
    with standard_taken():
        return os.pipe()


def wake_pipe() -> tuple[int, int]:
    """A ``pipe`` that ends a thread's sleep: neither a full nor an empty one blocks."""
    read_fd, write_fd = pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    return read_fd, write_fd


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
    the end. If standard input is closed that would be 0, which may belong to the program by then.
    """
    if sys.version_info >= (3, 13):
        mapped = mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, access, trackfd=False)
    else:
        with standard_taken():
            mapped = mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, access)
    return mapped


@contextlib.contextmanager
def standard_taken() -> Iterator[None]:
    """Whatever is opened meanwhile has a number from 3 on: where 0 to 2 are free, /dev/null takes them.

    The last thread that leaves frees the numbers. A number on which the program has put a file meanwhile is the
    program's, and stays open. What ``above_standard`` moves is on such a number for a moment, so what is made while
    other threads are in here is made in here, too.
    """
    own = thread.get_ident()
    _takers.append(own)
    try:
        with _lock:
            _take_standard(_taken, _TAKEN)
        yield
    finally:
        with _lock:
            _takers.remove(own)
            _free_standard()


def keep_standard() -> None:
    """In a process of shoal's own: open /dev/null for good under each of the numbers 0 to 2 that is free."""
    _take_standard([], os.O_RDWR)


def _take_standard(taken: list[int], flags: int) -> None:
    """Note each number in ``taken`` at once: the next ``open`` may find that no descriptor is left."""
    while (fd := os.open(os.devnull, flags | os.O_CLOEXEC)) < FIRST_OWN:
        taken.append(fd)
    os.close(fd)


def _free_standard() -> None:
    while _taken and not _takers:
        fd = _taken.pop()
        with contextlib.suppress(OSError):  # the program has closed it
            if fcntl.fcntl(fd, fcntl.F_GETFL) & _TAKEN == _TAKEN:
                os.close(fd)


def _after_fork_in_child() -> None:
    """The other threads that took the numbers are not there to free them."""
    _lock._at_fork_reinit()
    own = thread.get_ident()
    _takers[:] = [taker for taker in _takers if taker == own]
    _free_standard()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
