"""System calls that Python does not have, through the C library.

ctypes is imported while descriptors 0 to 2 are taken. Importing it makes a first closure, and for that libffi may open
its own library for good, under the lowest free number (seen with CPython 3.14 on Debian). A program that was started
without standard input would find that number in use.
"""

from __future__ import annotations

import os
import sys

from shoal.shm.host.descriptors import standard_taken

with standard_taken():
    import ctypes

    _libc = ctypes.CDLL(None, use_errno=True)

_MEMBARRIER = {"x86_64": 324, "aarch64": 283, "riscv64": 283}.get(os.uname().machine)  # the number of the call
_FALLOC_PUNCH_AND_KEEP = 0x02 | 0x01


def membarrier(command: int) -> bool:
    """Run a memory barrier in every process that has registered, or register; False where the system cannot."""
    if sys.platform != "linux" or _MEMBARRIER is None:
        return False
    return bool(_libc.syscall(_MEMBARRIER, command, 0, 0) == 0)


def punch_hole(fd: int, start_byte: int, n_bytes: int) -> bool:
    """Give the memory of a range of a file back to the system; False where it cannot punch holes."""
    if sys.platform != "linux":
        return False
    offset, length = ctypes.c_int64(start_byte), ctypes.c_int64(n_bytes)
    return bool(_libc.fallocate(fd, _FALLOC_PUNCH_AND_KEEP, offset, length) == 0)
