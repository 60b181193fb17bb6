"""Claims on inputs of a fleet: who works on one holds it, and the kernel lets it go at any kind of death.

- A claim is a record lock (``fcntl``) on one byte of ``fleet.lock`` in the store's directory: the byte is the input's
  hash, so no two inputs meet. Nothing is written, the file stays empty.
- It belongs to the process that works on the input. What that process forks or starts does not inherit it, so a program
  a task has left behind keeps nobody waiting.
- A record lock is let go when its process closes *any* descriptor of the file. Each process therefore opens it once and
  never closes it, and has one thread that claims.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal.shm.files.storage import private_file

CLAIMS_FILE = "fleet.lock"
_HASH_DIGITS = 15  # hexadecimal: 60 bits, as the place of a byte is a signed word

_open: dict[tuple[int, str], int] = {}  # process id and path -> descriptor: after a fork the child opens its own


@contextmanager
def claimed(directory: str, input_hash: str, wait: bool) -> Iterator[bool]:
    """Hold the claim on an input within the block. False, and not held, if another process does and not ``wait``."""
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


def _descriptor(directory: str) -> int:
    key = os.getpid(), directory
    fd = _open.get(key)
    if fd is None:
        fd = _open[key] = private_file(Path(directory) / CLAIMS_FILE, os.O_RDWR | os.O_CREAT)
    return fd
