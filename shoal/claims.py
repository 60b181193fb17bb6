"""Claims on inputs of a fleet: a process holds one while it works on the input. The kernel releases it at any death.

    fleet.lock    empty; byte N stands for the input whose hash begins with N, and is locked, never written

- A claim is a record lock (``fcntl``) on one byte of ``fleet.lock`` in the store's directory. The byte's offset is
  60 bits of the input's hash, so two inputs never share one in practice.
- The claim belongs to the process that works on the input. Its children do not inherit it, so a program that a task
  leaves behind blocks no other process.
- A record lock is released when its process closes *any* descriptor of the file. So each process opens the file once,
  never closes it, and claims in one thread only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal.shm.files.storage import private_file

CLAIMS_FILE = "fleet.lock"
_HASH_DIGITS = 15  # hexadecimal: 60 bits; the offset of a byte is a signed 64-bit number

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, process

_open: dict[tuple[int, str], int] = {}  # process id and path -> descriptor; a forked child opens its own


@contextmanager
def claimed(directory: str, input_hash: str, wait: bool) -> Iterator[bool]:
    """Hold the claim on an input within the block.

    If another process holds it: wait for it with ``wait``, else run the block with False and without the claim.
    """
    fd, byte = _descriptor(directory), int(input_hash[:_HASH_DIGITS], 16)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, byte)


def holder(directory: str, input_hash: str) -> int | None:
    """The process that holds the claim on an input; None if no other process does, or it is not known."""
    if sys.platform != "linux":
        return None
    byte = int(input_hash[:_HASH_DIGITS], 16)
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(_descriptor(directory), fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK or pid <= 0 else pid


def _descriptor(directory: str) -> int:
    key = os.getpid(), directory
    fd = _open.get(key)
    if fd is None:
        fd = _open[key] = private_file(Path(directory) / CLAIMS_FILE, os.O_RDWR | os.O_CREAT)
    return fd
