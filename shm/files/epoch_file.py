"""The epoch file: one word that every process of a store maps. It tells readers which coordinator serves.

    epoch    8 bytes     upper part: generation of the coordinator; lower ``EPOCH_BITS`` bits (``memory.layout``): how
                         often this coordinator has voided cached key locations
             4,088 bytes  unused

- Only the coordinator that holds the store's lock writes the word, in one store of 8 bytes, and it only raises it.
- A coordinator raises the generation when it begins to serve: a process that has the segment of an earlier one sees by
  this that it must attach anew.
- The file survives the coordinators. If it is removed, the coordinator makes it again with a higher generation
  (``coordinator.server.serving_epoch``).
"""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

from shoal.shm.errors import CorruptionError
from shoal.shm.files.regular_file import existing_file, read_file
from shoal.shm.files.storage import file_with_room, raise_if_full
from shoal.shm.host import descriptors
from shoal.shm.memory.layout import EPOCH_BITS
from shoal.shm.memory.words import unmap, words_of

EPOCH_FILE = "epoch"
_EPOCH_BYTES = 4096
_LAST_GENERATION = (1 << 64 - EPOCH_BITS) - 1


def check_epoch(directory: Path) -> None:
    """``CorruptionError`` if the file holds the last generation: the next coordinator could not raise it."""
    try:
        raw = read_file(directory / EPOCH_FILE)[:8]
    except FileNotFoundError:
        return
    if int.from_bytes(raw, "little") >> EPOCH_BITS == _LAST_GENERATION:
        raise CorruptionError(EPOCH_FILE, 0, "a generation that another can follow", f"0x{raw[::-1].hex()}")


def has_epoch(directory: Path) -> bool:
    """Whether a coordinator has made the file. It is empty if SIGKILL came while it was made."""
    try:
        return (directory / EPOCH_FILE).stat().st_size > 0
    except OSError:
        return False


class EpochWord:
    """The mapped word, ``words[0]``. ``writable`` makes the file if it is not there, else ``FileNotFoundError``."""

    __slots__ = ("_map", "words")

    def __init__(self, directory: Path, writable: bool) -> None:
        path = directory / EPOCH_FILE
        if writable:
            check_epoch(directory)
            fd = file_with_room(path, os.O_RDWR | os.O_CREAT, f"the file {path}")
            _reserve(fd, path)
        else:
            fd = existing_file(path)
        try:
            found_bytes = os.fstat(fd).st_size
            if not found_bytes:  # it is being made, or SIGKILL came then
                raise FileNotFoundError(errno.ENOENT, "the file is being made", str(path))
            if found_bytes < _EPOCH_BYTES:
                raise CorruptionError(EPOCH_FILE, 0, f"{_EPOCH_BYTES} bytes", f"{found_bytes}")
            access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            self._map = descriptors.map_file(fd, _EPOCH_BYTES, access)
        finally:
            os.close(fd)
        self.words = words_of(self._map)

    def close(self) -> None:
        """Unmap it."""
        unmap(self._map, self.words)

    @property
    def generation(self) -> int:
        """The generation of the coordinator that serves, or served last."""
        generation: int = self.words[0] >> EPOCH_BITS
        return generation


def _reserve(fd: int, path: Path) -> None:
    """Reserve the file's page on the disk: storing to a mapped page without room there kills the process (SIGBUS)."""
    try:
        os.posix_fallocate(fd, 0, _EPOCH_BYTES)
    except OSError as error:
        if not os.fstat(fd).st_size:
            path.unlink(missing_ok=True)  # just made: without its page it is damage to whoever maps it
        os.close(fd)
        raise_if_full(error, f"{_EPOCH_BYTES:,} bytes for {path}")
        raise
