"""Opens files of a store: regular ones only, and never waits for one.

Something else may stand under the name of a file: a directory, a FIFO, a device, a link that leads nowhere. To open a
FIFO waits for its other end, and a device may give bytes for ever. Who opens a store is told what is in the way.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from shoal.shm.errors import ConfigurationError, CorruptionError

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
EXPECTED = "a regular file"


def stands_instead(path: Path) -> str | None:
    """What stands at ``path`` in the place of a regular file; None if that is one, or there is nothing."""
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except OSError:
        return "a symbolic link that leads to no file" if path.is_symlink() else None
    return None if kind == stat.S_IFREG else _KINDS.get(kind, "something else")


def in_the_way(path: Path) -> ConfigurationError:
    """The error for what stands where shoal makes a file."""
    return ConfigurationError(
        f"{path.absolute()} is {stands_instead(path) or 'no regular file'}, and shoal keeps a file of the store there; "
        "move it away"
    )


def private_file(path: Path, flags: int) -> int:
    """Open, or make, with mode 0600, whatever the umask; ConfigurationError if it is no regular file."""
    fd = _opened(path, flags)
    if fd is None:
        raise in_the_way(path)
    os.fchmod(fd, 0o600)
    return fd


def existing_file(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open what a coordinator has written before; CorruptionError if it is no regular file."""
    fd = _opened(path, flags)
    if fd is None:
        raise _not_a_file(path)
    return fd


def read_file(path: Path) -> bytes:
    """The whole content of what a coordinator has written before; CorruptionError if it is no regular file."""
    with io.FileIO(existing_file(path)) as file:
        return file.readall()


def size_of(path: Path) -> int:
    """The length in bytes of what a coordinator has written before; CorruptionError if it is no regular file."""
    if stands_instead(path) is not None:
        raise _not_a_file(path)
    return os.stat(path).st_size


def remove_file(path: Path, missing_ok: bool = False) -> None:
    """Delete a file of the store; ConfigurationError if it is a directory."""
    try:
        path.unlink(missing_ok)
    except OSError:
        if path.is_dir() and not path.is_symlink():
            raise in_the_way(path) from None
        raise


def _not_a_file(path: Path) -> CorruptionError:
    return CorruptionError(path.name, 0, EXPECTED, stands_instead(path) or "something else")


def _opened(path: Path, flags: int) -> int | None:
    """A descriptor of a regular file; None if something else is there."""
    if flags & os.O_CREAT and stands_instead(path) is not None:  # a file would be made where a link leads
        return None
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError:
        if stands_instead(path) is None:
            raise
        return None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None
