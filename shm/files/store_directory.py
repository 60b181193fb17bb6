"""The directory of a store: its path, making it, and removing what was made for a store that could not be opened."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from shoal.shm.errors import ConfigurationError, StoreFullError
from shoal.shm.files.storage import NO_ROOM
from shoal.shm.host.shortage import no_descriptor

_LONGEST_NAME_BYTES = 64  # of a file in the directory, at most: its path must not be too long either
_NO_DIRECTORY = (errno.ENOENT, errno.ENAMETOOLONG)  # none can be made below /proc, or of such a name
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_PLACE = (*_NO_DIRECTORY, *_NOT_WRITABLE, errno.ENOTDIR, errno.EEXIST)


def absolute_path(path: object, what: str = "path") -> str:
    """The absolute path of the store named ``path``, the argument ``what``.

    Raises ``TypeError``, ``ValueError`` or ``ConfigurationError`` for what cannot name a directory.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"{what} has type {type(path).__name__}; give a str or a pathlib.Path")
    name = os.fsdecode(path)
    if not name:
        raise ValueError(f"{what} is empty; give the directory of the store ('.' is the current one)")
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise ValueError(
            f"{what} is {name!r:.100}, with a character that no file name has; give the directory of the store"
        ) from None
    if "\0" in name:
        raise ValueError(
            f"{what} is {name!r:.100}, with a NUL, which no file name has; give the directory of the store"
        )
    try:
        absolute = os.path.abspath(name)
    except FileNotFoundError as error:  # from os.getcwd
        raise ConfigurationError(
            f"{what} is {name!r:.200}, which is relative, and the current directory was deleted; "
            "change to another one, or give an absolute path"
        ) from error
    try:
        os.stat(os.path.join(absolute, "n" * _LONGEST_NAME_BYTES))  # follows links, which may lead in a circle
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise ConfigurationError(
                f"{absolute:.200} cannot be a store ({error.strerror}); give another path"
            ) from error
    return absolute


def make_directory(directory: Path) -> list[Path]:
    """Make the store directory, mode 0700 whatever the umask, and those above it; those made, the lowest first."""
    missing = list(itertools.takewhile(lambda path: not path.is_dir(), (directory, *directory.parents)))
    made: list[Path] = []
    try:
        for path in reversed(missing):
            try:
                path.mkdir(mode=0o700 if path == directory else 0o777)
            except FileExistsError:
                if not path.is_dir():  # else another process has made it
                    raise ConfigurationError(f"{path} is not a directory; a store is a directory") from None
            else:
                made.insert(0, path)
        if directory in made:
            directory.chmod(0o700)
    except BaseException:
        remove_directories(made)
        raise
    return made


def remove_directories(made: list[Path]) -> None:
    """Remove what ``make_directory`` has made for a store that could not be opened; what is not empty stays."""
    with contextlib.suppress(OSError):
        for path in made:
            path.rmdir()


def raise_if_read_only(directory: Path, error: OSError) -> None:
    """ConfigurationError if ``error`` says that nothing can be written in ``directory``."""
    if error.errno in _NO_DIRECTORY:
        raise ConfigurationError(
            f"no store can be made at {directory} ({error.strerror}: {error.filename}); give another path"
        ) from error
    if error.errno in _NOT_WRITABLE:
        what = "lies on a read-only file system" if error.errno == errno.EROFS else "may not be written by this user"
        remedy = (
            "to read a store there, open it with read_only=True" if os.path.exists(directory) else "give another path"
        )
        raise ConfigurationError(f"{directory} {what} ({error.strerror}: {error.filename}); {remedy}") from error


@contextlib.contextmanager
def copying_to(directory: Path) -> Iterator[None]:
    """Around what writes a copy of a store to ``directory``: tell what cannot be done there, and that it can elsewhere.

    ``ConfigurationError`` if no copy can be made there, ``StoreFullError`` if its disk is full: to delete keys of the
    store, as others are told, makes no room for the copy.
    """
    try:
        yield
    except (OSError, StoreFullError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        if cause.errno in NO_ROOM:
            raise StoreFullError(
                f"the disk of {directory} has no room for the copy ({cause.strerror}); "
                "free space on it, or give a path on another disk"
            ) from error
        if cause.errno in _NO_PLACE:
            raise ConfigurationError(
                f"no copy can be made at {directory} ({cause.strerror}); give another path"
            ) from error
        lack = no_descriptor(cause)
        if lack is not None:
            raise ConfigurationError(f"no copy can be made at {directory} now: {lack}") from error
        raise
