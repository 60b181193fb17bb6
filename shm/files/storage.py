"""The port to the disk: a store's directory (``Storage``) and a log file in it (``LogFile``). Tests simulate both.

- The coordinator writes the log and ``store.json`` through it. Recovery, checks and repair read files through it;
  recovery also cuts and removes them. ``store_files`` names the files.
- What survives: ``LogFile.write`` survives SIGKILL at once, and a power cut after ``sync``. ``create_log_file``,
  ``replace``, ``truncate`` and ``write_again`` are durable when they return. ``rename`` and ``remove`` are durable
  after ``sync_directory``. After SIGKILL in ``replace`` or ``write_again`` the file is the old one or the new one, and
  a file NAME.new may be left.
- Every file has mode 0600, whatever the umask.
- ``read`` is for small files; a file that may be large is read in pieces (``read_at``).
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from shoal.shm.errors import StoreFullError
from shoal.shm.files import file_system
from shoal.shm.files.regular_file import existing_file, private_file, read_file, remove_file, size_of

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Network file systems and those in user space may not know the sync of a directory. They pass on changes themselves.
_NO_SYNC_OF_DIRECTORIES = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP)


class Space(NamedTuple):
    """The size of a disk and its free part, in bytes. A quota may allow less."""

    total_bytes: int
    free_bytes: int


class LogFile(Protocol):
    """A file of fixed size that is written in place, from the start to the end."""

    size: int

    def write(self, offset: int, data: bytes) -> None:
        """Put ``data`` at ``offset``. It survives SIGKILL of this process, but no power cut before ``sync``."""
        ...

    def sync(self) -> None:
        """Make everything written so far survive a power cut."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Storage(Protocol):
    """A flat directory."""

    def list(self) -> list[str]:
        """Names of all files."""
        ...

    def read(self, name: str) -> bytes:
        """A file's whole content."""
        ...

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        """``size`` bytes of a file from ``offset``, fewer only at its end."""
        ...

    def create_log_file(self, name: str, size: int) -> LogFile:
        """A new file of zeros with its space reserved; StoreFullError if there is none."""
        ...

    def reserve(self, name: str, size: int, create: bool) -> None:
        """Let a file have at least ``size`` bytes with their space reserved; StoreFullError if there is no room.

        FileNotFoundError if it is not there, unless ``create``. On an error the file keeps the room it had.
        Not durable: only a living coordinator needs it.
        """
        ...

    def rename(self, name: str, new_name: str) -> None:
        """Give a file another name, not durably."""
        ...

    def size(self, name: str) -> int:
        """The length of a file in bytes."""
        ...

    def space(self) -> Space:
        """The room of the disk."""
        ...

    def overwrites_in_place(self) -> bool:
        """Whether a page of a file is known to be overwritten where it is."""
        ...

    def truncate(self, name: str, size: int) -> None:
        """Cut a file to ``size`` bytes, durably."""
        ...

    def write_again(self, name: str, from_byte: int) -> None:
        """Make an existing file's content durable, from there on as if it had never been written."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file."""
        ...

    def replace(self, name: str, content: bytes) -> None:
        """Replace a whole file, durably: after a kill or a power cut it is the old one or the new one."""
        ...

    def sync_directory(self) -> None:
        """Make creations, renames and removals durable."""
        ...


_PAGE_BYTES = 4096
_PIECE_BYTES = 1024 * 1024


class _MappedFile:
    """A log file written through a mapping: no system call per commit, and the page cache outlives the process."""

    __slots__ = ("_fd", "_map", "size")

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._map = mmap.mmap(fd, size)
        self.size = size

    def write(self, offset: int, data: bytes) -> None:
        self._map[offset : offset + len(data)] = data

    def sync(self) -> None:
        sync_data(self._fd)

    def close(self) -> None:
        self._map.close()
        os.close(self._fd)


class DiskStorage:
    """A real directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def list(self) -> list[str]:
        """Names of all files."""
        return sorted(os.listdir(self.directory))

    def read(self, name: str) -> bytes:
        """A file's whole content."""
        return read_file(self.directory / name)

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        """``size`` bytes of a file from ``offset``, fewer only at its end."""
        fd = existing_file(self.directory / name)
        try:
            return _read_all(fd, offset, size)
        finally:
            os.close(fd)

    def create_log_file(self, name: str, size: int) -> LogFile:
        """A new file of zeros with its space reserved; StoreFullError if there is none."""
        path = self.directory / name
        wanted = f"{size:,} bytes for the log at {path}"
        fd = file_with_room(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, wanted)
        try:
            os.posix_fallocate(fd, 0, size)
            os.fsync(fd)
            self.sync_directory()
            return _MappedFile(fd, size)
        except OSError as error:
            os.close(fd)
            os.unlink(path)
            raise_if_full(error, wanted)
            raise

    def reserve(self, name: str, size: int, create: bool) -> None:
        """Let a file have at least ``size`` bytes with their space reserved; StoreFullError if there is no room."""
        path = self.directory / name
        flags = os.O_RDWR | (os.O_CREAT if create else 0)
        fd = file_with_room(path, flags, f"the reserve for the next checkpoint at {path}")
        try:
            before = os.fstat(fd).st_size
            if before >= size:
                return
            try:
                os.posix_fallocate(fd, before, size - before)
            except OSError as error:
                os.ftruncate(fd, before)  # some systems keep the part that they could reserve
                raise_if_full(error, f"{size - before:,} bytes more in reserve for the next checkpoint at {path}")
                raise
        finally:
            os.close(fd)

    def rename(self, name: str, new_name: str) -> None:
        """Give a file another name, not durably."""
        os.rename(self.directory / name, self.directory / new_name)

    def size(self, name: str) -> int:
        """The length of a file in bytes."""
        return size_of(self.directory / name)

    def space(self) -> Space:
        """The room of the disk."""
        found = os.statvfs(self.directory)
        return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    def overwrites_in_place(self) -> bool:
        """Whether a page of a file is known to be overwritten where it is."""
        return file_system.overwrites_in_place(self.directory)

    def truncate(self, name: str, size: int) -> None:
        """Cut a file to ``size`` bytes, durably."""
        fd = existing_file(self.directory / name, os.O_RDWR)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)

    def write_again(self, name: str, from_byte: int) -> None:
        """Make an existing file's content durable, from there on as if it had never been written.

        A sync that failed is reported once; the pages stay in memory, readable and clean, and are not on disk. Syncing
        once more would succeed without writing them. Writing them once more in the same place is not enough either:
        ext4 then writes them to blocks that it still takes for unwritten, and they are zeros at the next mount
        (Linux 6.18). So the file is copied to new blocks. Killed meanwhile, the file is the old one or the new one.
        """
        fd = existing_file(self.directory / name, os.O_RDWR)
        try:
            if from_byte >= os.fstat(fd).st_size:
                os.fsync(fd)
                return

            def copy(target: int) -> None:
                os.ftruncate(target, os.fstat(fd).st_size)
                _rewrite(fd, target, 0)

            try:
                self._replace(name, f"a copy of {name}", copy)
            except StoreFullError:
                # A store must open on a full disk. Unless a sync has failed before, this makes the file durable, too.
                _rewrite(fd, fd, from_byte - from_byte % _PAGE_BYTES)
        finally:
            os.close(fd)

    def _replace(self, name: str, what: str, write: Callable[[int], None]) -> None:
        """Put a file that ``write`` fills and syncs in the place of ``name``; ``what`` is named if the disk is full."""
        temporary = self.directory / f"{name}.new"
        try:
            fd = private_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                write(fd)
            finally:
                os.close(fd)
            os.replace(temporary, self.directory / name)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise_if_full(error, what)
            raise
        self.sync_directory()

    def remove(self, name: str) -> None:
        """Delete a file."""
        remove_file(self.directory / name)

    def replace(self, name: str, content: bytes) -> None:
        """Replace a whole file, durably: after a kill or a power cut it is the old one or the new one."""

        def write(fd: int) -> None:
            _write_all(fd, content, 0)
            os.fsync(fd)

        self._replace(name, f"{len(content):,} bytes for {name}", write)

    def sync_directory(self) -> None:
        """Make creations, renames and removals durable."""
        fd = os.open(self.directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in _NO_SYNC_OF_DIRECTORIES:
                raise
        finally:
            os.close(fd)


def sync_data(fd: int) -> None:
    """fdatasync, or where there is none (macOS) fsync."""
    getattr(os, "fdatasync", os.fsync)(fd)


def file_with_room(path: Path, flags: int, wanted: str) -> int:
    """As ``private_file``; StoreFullError if the disk can hold no further file: it may be out of inodes alone."""
    try:
        return private_file(path, flags)
    except OSError as error:
        raise_if_full(error, wanted)
        raise


def _read_all(fd: int, offset: int, size: int) -> bytes:
    """All ``size`` bytes, fewer only at the end of the file. One call of the system may return less."""
    data = os.pread(fd, size, offset)
    while 0 < len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _write_all(fd: int, data: bytes, position: int) -> None:
    """Write all of ``data``. One call of the system may write less."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        view, position = view[written:], position + written


def _rewrite(source: int, target: int, position: int) -> None:
    """Write what ``source`` holds from ``position`` on to the same place of ``target``, and sync it."""
    while piece := os.pread(source, _PIECE_BYTES, position):
        kept = piece.rstrip(b"\0")
        if kept:
            _write_all(target, kept, position)
        position += len(piece)
    os.fsync(target)


def raise_if_full(error: OSError, wanted: str) -> None:
    """StoreFullError if ``error`` says that the disk has no room for ``wanted``."""
    if error.errno in NO_ROOM:
        raise StoreFullError(
            f"the disk has no room for {wanted} ({error.strerror}); delete keys or free disk space: "
            "reads and deletes go on meanwhile"
        ) from error
