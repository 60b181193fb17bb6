"""Files as the store needs them: one thin edge to the disk, so that a simulated disk can stand in.

A store directory holds ``wal-N.log``, ``checkpoint-V.ckpt``, ``store.json``, ``generation``, ``control.sock`` and two
lock files. Every file is 0600 and the directory 0700, whatever the umask.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from shoal.shm.errors import StoreFullError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class LogFile(Protocol):
    """A file of fixed size that is written in place, from the start to the end."""

    size: int

    def write(self, offset: int, data: bytes) -> None:
        """Put ``data`` at ``offset``: it survives this process, not a power cut."""
        ...

    def sync(self) -> None:
        """Return when everything written so far survives a power cut."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class Storage(Protocol):
    """A flat directory."""

    def list(self) -> list[str]:
        """Names of all files."""
        ...

    def read(self, name: str) -> bytes:
        """A file's whole content."""
        ...

    def create_log_file(self, name: str, size: int) -> LogFile:
        """A new file of zeros with its space reserved; StoreFullError if there is none."""
        ...

    def truncate(self, name: str, size: int) -> None:
        """Cut a file, durably."""
        ...

    def sync_file(self, name: str) -> None:
        """Make an existing file's content durable."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file."""
        ...

    def replace(self, name: str, content: bytes) -> None:
        """Write a file whole, durably: after a crash it is the old one or the new one."""
        ...

    def sync_directory(self) -> None:
        """Make creations, renames and removals durable."""
        ...


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
        return (self.directory / name).read_bytes()

    def create_log_file(self, name: str, size: int) -> LogFile:
        """A new file of zeros with its space reserved; StoreFullError if there is none."""
        path = self.directory / name
        fd = private_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            os.posix_fallocate(fd, 0, size)
            os.fsync(fd)
            self.sync_directory()
            return _MappedFile(fd, size)
        except OSError as error:
            os.close(fd)
            os.unlink(path)
            raise_if_full(error, f"{size:,} bytes for the log at {path}")
            raise

    def truncate(self, name: str, size: int) -> None:
        """Cut a file, durably."""
        fd = os.open(self.directory / name, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_file(self, name: str) -> None:
        """Make an existing file's content durable."""
        fd = os.open(self.directory / name, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def remove(self, name: str) -> None:
        """Delete a file."""
        os.unlink(self.directory / name)

    def replace(self, name: str, content: bytes) -> None:
        """Write a file whole, durably: after a crash it is the old one or the new one."""
        temporary = self.directory / f"{name}.new"
        try:
            fd = private_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                os.write(fd, content)
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise_if_full(error, f"{len(content):,} bytes for {name}")
            raise
        os.replace(temporary, self.directory / name)
        self.sync_directory()

    def sync_directory(self) -> None:
        """Make creations, renames and removals durable."""
        fd = os.open(self.directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def sync_data(fd: int) -> None:
    """fdatasync, or where there is none (macOS) fsync."""
    getattr(os, "fdatasync", os.fsync)(fd)


def private_file(path: Path, flags: int) -> int:
    """Open with mode 0600, whatever the umask."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    os.fchmod(fd, 0o600)
    return fd


def append_note(directory: Path, name: str, text: str) -> None:
    """Add a line to a file that people read when something went wrong; a full disk must not make it worse."""
    try:
        fd = private_file(directory / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OSError:
        return
    with os.fdopen(fd, "w", encoding="utf-8") as out, contextlib.suppress(OSError):
        out.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")
        out.flush()


def raise_if_full(error: OSError, wanted: str) -> None:
    """StoreFullError if ``error`` says that the disk has no room for ``wanted``."""
    if error.errno in _NO_ROOM:
        raise StoreFullError(
            f"the disk has no room for {wanted} ({error.strerror}); free disk space: reads and deletes go on meanwhile"
        ) from error
