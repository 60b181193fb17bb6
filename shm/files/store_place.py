"""Where a store lies, and whether the directory there is still the one that was opened.

- A path is a name that anybody may give to another directory. A process that has a store open therefore remembers which
  directory and which store it opened (``StorePlace``), and looks again before it attaches anew or starts a coordinator.
- A coordinator makes the directory its working directory (``WorkingPlace``): its files go there wherever the directory
  is moved to, and it sees a move, of a parent as well, by asking for the directory's path: 0.5 us before each group of
  commits, of 20 that a single one takes; a stat of the path is 2.
- A lock on the directory itself says that a coordinator serves it (exclusive), or that its files are being read
  (shared). It cannot be removed as a lock file can be, and it needs no right to write.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from shoal.shm.errors import StoreMovedError
from shoal.shm.files import store_files

HERE = Path()


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a directory; None if there is nothing at ``path``."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


class StorePlace:
    """The directory that a client attached to; ``StoreMovedError`` if another store has come to lie there meanwhile."""

    def __init__(self, path: Path, store_id: bytes) -> None:
        self._path = path
        self._store_id = store_id
        self._directory = _identity(path)
        self.check()

    def check(self) -> None:
        """Raise ``StoreMovedError`` unless the same directory with the same store is at the path."""
        # The inode number of a deleted directory may be given to a new one: the store's id tells them apart.
        same_directory = self._directory is not None and _identity(self._path) == self._directory
        meta = store_files.read_meta(self._path) if same_directory else None
        # Without store.json it may be the same store: its coordinator makes the file again, and serves no other store.
        if not same_directory or (meta is not None and meta.store_id != self._store_id):
            raise StoreMovedError(str(self._path), False)


class WorkingPlace:
    """The directory that a coordinator serves, entered: from then on ``HERE`` is that directory, whatever its path."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        os.chdir(path)
        self._found_at = os.getcwdb()
        self._directory = _identity(HERE)

    def was_moved(self) -> bool:
        """Whether the directory, or one above it, was renamed or deleted. Cheap enough for every group of commits."""
        try:
            return os.getcwdb() != self._found_at
        except FileNotFoundError:
            return True

    def is_here(self) -> bool:
        """Whether the path still leads here: it may be a symbolic link, or another file system may be mounted on it."""
        try:
            return _identity(self.path) == self._directory
        except OSError:  # no right to look there any more: nothing says that it was moved
            return True

    def moved_error(self) -> StoreMovedError:
        """What a client is told whose commit came after the directory was moved."""
        shown = str(self.path).encode(errors="backslashreplace").decode()  # what any pipe can carry
        return StoreMovedError(shown, False)


def lock_directory(directory: Path, shared: bool) -> int | None:
    """A descriptor that holds the lock until it is closed, or None if another process holds one that excludes it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            os.close(fd)
            return None
        if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOTSUP):
            os.close(fd)
            raise
        # A file system that locks files only: there the lock file alone keeps coordinators apart.
    return fd
