"""What a coordinator's process does before it serves: it leaves its starter, enters the store's directory, locks it.

The starter can be killed at any time, and the coordinator outlives it. So the coordinator keeps one thing of the
starter: the pipe on which it reports how the start went.

If SIGKILL comes here, the kernel releases the locks. The empty files that were made stay, and the next start uses them.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from pathlib import Path
from typing import Any

from shoal.shm import codec
from shoal.shm.errors import ShoalError, StoreMovedError
from shoal.shm.files import epoch_file, store_files
from shoal.shm.files.store_place import HERE, WorkingPlace, lock_directory, lock_file
from shoal.shm.host import descriptors
from shoal.shm.wire import wire_errors

_SERVED = "{} is served by another coordinator; shoal info shows its process; use the store through it, or end it first"


def raise_limit_of_descriptors() -> None:
    """Raise the limit to the hard one: every client takes descriptors, and the usual limit suits smaller programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS names a limit that it then refuses: the old one stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def have_ends_of_children_told() -> None:
    """Have the kernel tell how a helper has ended.

    Where SIGCHLD is ignored, which a process inherits, it tells nothing, and ``subprocess`` takes that for status 0: a
    checkpoint whose helper was killed would count as written, and the log would be removed.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def leave_everything(but: int) -> None:
    """Keep neither the client's working directory nor its descriptors, ``but`` one."""
    os.chdir("/")
    try:
        names = os.listdir(descriptors.OPEN_ONES)
    except FileNotFoundError:  # nothing can be served here, which the segment finds out and says (``Segment.create``)
        return
    for name in names:
        if int(name) >= descriptors.FIRST_OWN and int(name) != but:
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(int(name))


class AlreadyServedError(Exception):
    """Another coordinator holds the store."""


def enter(directory: Path, store_id: bytes | None) -> WorkingPlace:
    """Make the store's directory the working directory; ``StoreMovedError`` if store ``store_id`` is not there."""
    try:
        return WorkingPlace(directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        if store_id is None:
            raise
        raise StoreMovedError(str(directory), False) from error


def hold_locks(directory: Path, held: contextlib.ExitStack, made: contextlib.ExitStack) -> None:
    """Keep other coordinators out of the working directory, or raise ``AlreadyServedError``.

    The lock on the directory decides. The lock file is locked, too, because a shoal that writes format 1 looks at that.
    ``held`` gives the locks back; ``made`` removes the files that this and the epoch word make, if there were none
    before.
    """
    directory_fd = lock_directory(HERE, shared=False)
    if directory_fd is None:
        raise AlreadyServedError(_SERVED.format(directory))
    held.callback(os.close, directory_fd)
    for path in (HERE / store_files.COORDINATOR_LOCK_FILE, HERE / epoch_file.EPOCH_FILE):
        if not (path.exists() or path.is_symlink()):
            made.callback(path.unlink, missing_ok=True)
    file_fd = lock_file(HERE / store_files.COORDINATOR_LOCK_FILE)
    if file_fd is None:
        raise AlreadyServedError(_SERVED.format(directory))
    held.callback(os.close, file_fd)


class Report:
    """Tells the process that started this one, if it is still there, how the start went."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def is_due(self) -> bool:
        """Whether nothing has been said yet: the store is not being served."""
        return self._fd >= 0

    def ready(self) -> None:
        """Say that the store is being served."""
        self._say([])

    def failed(self, error: ShoalError) -> None:
        """Say why the store is not served."""
        self._say(list(wire_errors.error_parts(error)))

    def _say(self, parts: list[Any]) -> None:
        if self._fd >= 0:
            with contextlib.suppress(BrokenPipeError):  # the starter was killed meanwhile; other clients may wait
                os.write(self._fd, codec.pack(parts))
            os.close(self._fd)
            self._fd = -1
