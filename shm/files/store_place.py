"""Where a store lies, and whether the directory there is still the one that was opened.

- A path may lead to another directory later. So a process that has a store open keeps which directory and which store
  it opened (``StorePlace``), and compares them before it attaches anew or starts a coordinator.
- A coordinator makes the directory its working directory (``WorkingPlace``). Its files go there, wherever the directory
  is moved to. By asking for the directory's path it notices a move, of a parent as well. That takes 0.5 us before each
  group of commits (a single commit takes 20 us); a stat of the path would take 2 us.
- A lock on the directory itself shows that a coordinator serves it (exclusive), or that its files are being read
  (shared). Unlike a lock file it cannot be removed, and it needs no right to write.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from shoal.shm.errors import ConfigurationError, StoreMovedError
from shoal.shm.files import store_files
from shoal.shm.files.regular_file import private_file

try:
    import cython
except ModuleNotFoundError:
    from shoal.shm import cython_shim as cython  # type: ignore[no-redef]

if cython.compiled:
    from cython.cimports.directory import is_working_directory

HERE = Path()
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)  # as of Lustre and NFS, depending on how they are mounted


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of what is at ``path``; None if there is nothing, or a link that leads in a circle."""
    try:
        found = os.stat(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return None
    return found.st_dev, found.st_ino


class StorePlace:
    """The directory that a client attached to, and the store in it."""

    def __init__(self, path: Path, store_id: bytes) -> None:
        self._path = path
        self._store_id = store_id
        self._directory = identity(path)
        self.check()

    def check(self) -> None:
        """Raise ``StoreMovedError`` unless the same directory with the same store is at the path."""
        # A new directory may get the inode number of a deleted one; the id of the store tells them apart.
        try:
            same_directory = self._directory is not None and identity(self._path) == self._directory
            meta = store_files.read_meta(self._path) if same_directory else None
        except PermissionError:  # this process has given up rights: that shows no move, and what attaches tells it
            return
        # Without store.json it may be the same store: its coordinator makes the file again, and serves no other store.
        if not same_directory or (meta is not None and meta.store_id != self._store_id):
            raise StoreMovedError(str(self._path), False)


class WorkingPlace:
    """The directory that a coordinator serves, as its working directory: ``HERE`` leads to it whatever its path."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        os.chdir(path)
        self._found_at = os.getcwdb()
        self._directory = identity(HERE)

    def was_moved(self) -> bool:
        """Whether the directory, or one above it, was renamed or deleted. Called for every group of commits."""
        if cython.compiled:
            same = is_working_directory(self._found_at)
            if same >= 0:
                return not same
        try:
            return os.getcwdb() != self._found_at
        except FileNotFoundError:
            return True

    def is_here(self) -> bool:
        """Whether the path still leads here. A symbolic link may be changed, or a file system be mounted on it."""
        try:
            return identity(self.path) == self._directory
        except OSError:  # this process may not look there any more, which does not show a move
            return True

    def moved_error(self) -> StoreMovedError:
        """The error for a commit that comes after the directory was moved."""
        shown = str(self.path).encode(errors="backslashreplace").decode()  # valid UTF-8, which a pipe carries
        return StoreMovedError(shown, False)


def lock_file(path: Path) -> int | None:
    """A descriptor that holds the lock on a file, which it makes, until it is closed; None if it is held already."""
    fd = private_file(path, os.O_RDWR | os.O_CREAT)
    try:
        if lock(fd, path):
            return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def lock(fd: int, path: Path) -> bool:
    """Lock the open file ``path``; False if it is locked. ``ConfigurationError`` if its file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise ConfigurationError(
            f"{path} cannot be locked ({error.strerror}), and nothing else keeps a second coordinator out; "
            "give a path on a file system that has locks, as a local one"
        ) from error
    return True


def lock_directory(directory: Path, shared: bool) -> int | None:
    """A descriptor that holds the lock until it is closed; None if another process holds a lock that excludes it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            os.close(fd)
            return None
        if error.errno not in (errno.EBADF, errno.EINVAL, *NO_LOCKS):
            os.close(fd)
            raise
        # The file system locks no directories: there only the lock file keeps coordinators apart.
    return fd
