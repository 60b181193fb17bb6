"""What a coordinator can meet that is no fault of shoal: a death at the worst place, a full disk, a deadly commit.

Each holds for the rest of the process it is installed in.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.commit.pipelining import Pipeline
from shoal.shm.files import storage
from shoal.shm.wire.request import CommitSet
from tests.mutants.registry import condition

GROUPS_TO_LIVE = 120
FULL_DISK_FLAG = "SHOAL_TEST_FULL_DISK"
SMALL_DISK = "SHOAL_TEST_SMALL_DISK"  # what the system says when it is full, and its size in bytes


@condition
def die_logged() -> None:
    """It is killed after 120 groups of commits, with commits in the log that nobody was told of."""
    sound = CommitEngine.finish_group
    groups = 0

    def finish_group(self: CommitEngine) -> None:
        nonlocal groups
        if self.version != self.published:
            groups += 1
            if groups == GROUPS_TO_LIVE:
                os.kill(os.getpid(), signal.SIGKILL)
        sound(self)

    CommitEngine.finish_group = finish_group


@condition
def copying_disk() -> None:
    """Nobody knows whether its disk overwrites a page where it is, so the log has no zeros ahead of the records."""
    storage.DiskStorage.overwrites_in_place = lambda _self: False


@condition
def poisoned() -> None:
    """It is killed by every commit that names the key "poison"."""
    together, in_order = CommitEngine.submit_together, Pipeline.submit

    def die_of(requests: list[CommitSet]) -> None:
        if any(b"poison" in request.mutations for request in requests):
            os.kill(os.getpid(), signal.SIGKILL)

    def submit_together(self: CommitEngine, requests: list[Any]) -> list[bytes]:
        die_of([request for _, request in requests])
        return together(self, requests)

    def submit(self: Pipeline, requests: list[CommitSet], begin: Callable[[int], None]) -> list[bytes]:
        def begin_or_die(commit_id: int) -> None:
            begin(commit_id)
            die_of(requests)

        return in_order(self, requests, begin_or_die)

    CommitEngine.submit_together = submit_together
    Pipeline.submit = submit


@condition
def full_disk() -> None:
    """The disk has no room for another log file as long as the flag file is there."""
    flag = Path(os.environ[FULL_DISK_FLAG])

    class FullOs:
        """``os`` as a full disk shows it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def posix_fallocate(self, fd: int, offset: int, length: int) -> None:
            if flag.exists():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.posix_fallocate(fd, offset, length)

    storage.os = FullOs()


@condition
def small_disk() -> None:
    """The store's directory may take so many bytes of the disk; a quota does not show in ``statvfs``."""
    number, most_bytes = map(int, os.environ[SMALL_DISK].split())

    def used_bytes(directory: str) -> int:
        used = 0
        for entry in os.scandir(directory):
            with contextlib.suppress(FileNotFoundError):
                used += entry.stat().st_size
        return used

    class SmallOs:
        """``os`` as such a disk shows it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def posix_fallocate(self, fd: int, offset: int, length: int) -> None:
            used = used_bytes(os.path.dirname(os.readlink(f"/proc/self/fd/{fd}")))
            if used + offset + length - os.fstat(fd).st_size > most_bytes:
                raise OSError(number, os.strerror(number))
            os.posix_fallocate(fd, offset, length)

        def statvfs(self, directory: Path) -> Any:
            if number != errno.ENOSPC:
                return os.statvfs(directory)
            free = max(0, most_bytes - used_bytes(str(directory)))
            return SimpleNamespace(f_blocks=most_bytes, f_bavail=free, f_frsize=1)

    storage.os = SmallOs()
