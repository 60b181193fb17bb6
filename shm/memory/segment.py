"""One memory-mapped segment: the coordinator makes it, everyone else attaches it read-only. ``layout`` has its bytes.

- Only the process that made it can write: every other one gets a descriptor opened for reading, and maps it so.
- Its size is whole pages, set once and sealed, so a mapping never moves, shrinks or faults. Memory is taken with
  ``fallocate`` before anything is written to it, so a full machine is StoreFullError here and never SIGBUS.
- It has no name. The kernel frees it when the last process that maps it has ended, in whatever way. It does not survive
  its coordinator: readers may read it to the end, and the next coordinator makes another.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

from shoal.shm.errors import ConfigurationError, StoreFullError
from shoal.shm.host import descriptors
from shoal.shm.host.libc import punch_hole
from shoal.shm.memory import layout
from shoal.shm.memory.words import unmap, words_of

_NO_MEMORY = (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT)


class Segment:
    """A mapped segment. ``mm`` copies bytes, ``words`` loads and stores single words."""

    __slots__ = ("_fd", "mm", "size_bytes", "words")

    def __init__(self, fd: int, size_bytes: int, writable: bool) -> None:
        self._fd = fd
        self.size_bytes = size_bytes
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        try:
            self.mm = descriptors.map_file(fd, size_bytes, access)
        except OSError as error:
            os.close(fd)
            if error.errno not in _NO_MEMORY:
                raise
            raise _no_memory(size_bytes, error) from error
        self.words = words_of(self.mm)

    @classmethod
    def create(cls, max_bytes: int, hash_seed: int) -> Segment:
        """A new, empty segment that this process may write."""
        size_bytes = max_bytes - max_bytes % mmap.PAGESIZE
        try:
            fd = anonymous_file("shoal-segment", size_bytes)
        except OSError as error:
            if error.errno not in _NO_MEMORY:
                raise
            raise _no_memory(size_bytes, error) from error
        segment = cls(fd, size_bytes, writable=True)
        try:
            segment.take(0, layout.HEADER_BYTES * 2)
        except StoreFullError as error:
            raise _no_memory(size_bytes, error) from error
        words = segment.words
        words[layout.W_LAYOUT_VERSION] = layout.LAYOUT_VERSION
        words[layout.W_MAX_BYTES] = size_bytes
        words[layout.W_HASH_SEED] = hash_seed
        words[layout.W_MAGIC] = layout.MAGIC
        os.fchmod(fd, 0o400)  # a process that is given a descriptor cannot open it again for writing, by /proc/self/fd
        try:
            segment.try_read_only_fd()  # now: where none can be had, nobody could attach to what is served
        except (OSError, ConfigurationError):
            segment.close()
            segment.close_descriptor()
            raise
        return segment

    @classmethod
    def attach(cls, fd: int) -> Segment:
        """Map the segment behind ``fd`` for reading; the descriptor is closed."""
        segment = cls(fd, os.fstat(fd).st_size, writable=False)
        segment.close_descriptor()
        magic, version = segment.words[layout.W_MAGIC], segment.words[layout.W_LAYOUT_VERSION]
        if (magic, version) != (layout.MAGIC, layout.LAYOUT_VERSION):
            raise ConfigurationError(
                f"the coordinator's segment has layout {version}, this shoal reads {layout.LAYOUT_VERSION}; "
                "run the same version of shoal in every process"
            )
        return segment

    def close_descriptor(self) -> None:
        """Close the descriptor. The mapping stays; no more memory can be taken for it."""
        os.close(self._fd)
        self._fd = -1

    def close(self) -> None:
        """Unmap an attached segment. A thread that still reads from it gets ValueError."""
        unmap(self.mm, self.words)

    def read_only_fd(self) -> int:
        """A new descriptor of this segment that cannot write."""
        try:
            return os.open(f"{descriptors.OPEN_ONES}/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ConfigurationError(
                f"the memory of the store cannot be handed out read-only, as there is no {descriptors.OPEN_ONES}; "
                "mount /proc in the container or chroot that the store is used in"
            ) from None

    def try_read_only_fd(self) -> None:
        """Raise what ``read_only_fd`` raises."""
        os.close(self.read_only_fd())

    def take(self, start_byte: int, n_bytes: int) -> None:
        """Back a range of bytes with memory, or raise StoreFullError."""
        try:
            os.posix_fallocate(self._fd, start_byte, n_bytes)
        except OSError as error:
            if error.errno not in _NO_MEMORY:
                raise
            raise StoreFullError(
                f"the machine has no {n_bytes:,} bytes of memory left for the store ({error.strerror}); free memory or "
                "delete keys, and open the store with a max_bytes that the machine has room for"
            ) from error

    def give_back(self, start_byte: int, n_bytes: int) -> bool:
        """Return the memory of a range to the machine; False where the system cannot punch holes."""
        return punch_hole(self._fd, start_byte, n_bytes)


def _no_memory(size_bytes: int, error: Exception) -> ConfigurationError:
    """The error when a store of that size cannot be made or mapped in this process."""
    return ConfigurationError(
        f"no {size_bytes:,} bytes of memory can be had for the store ({error}); open it with a smaller max_bytes, once "
        "nobody else has it open, or raise the limits of the process (ulimit -v, ulimit -f) or of its container"
    )


def anonymous_file(name: str, size_bytes: int) -> int:
    """A descriptor of a nameless file in memory. Its size can never change, and only this user can read it."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.fchmod(fd, 0o600)
            os.ftruncate(fd, size_bytes)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        except BaseException:
            os.close(fd)
            raise
        return fd
    import tempfile  # here, because Linux does not need it

    fd, path = tempfile.mkstemp(prefix=name)
    os.unlink(path)
    os.ftruncate(fd, size_bytes)
    return fd
