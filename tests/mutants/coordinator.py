"""A coordinator with a planted fault, to show that the tests notice: ``python sabotage.py PLANT ARGUMENTS...``.

The faults are those of ``plants``, and occasions that are none: the worst moment to be killed at, a full disk,
a deadly commit.
``planted`` makes this process, and those it forks, start such a coordinator wherever they would start a sound one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

if __name__ == "__main__":  # started with -P, so that nothing but shoal itself can be found by accident
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.server import process
from shoal.primitives.rules.registry import TABLE
from shoal.shm.files import storage
from shoal.workers.shared_memory import take_over
from tests import mutants as plants

GROUPS_TO_LIVE = 120
FULL_DISK_FLAG = "SHOAL_TEST_FULL_DISK"
SMALL_DISK = "SHOAL_TEST_SMALL_DISK"  # what the system says when it is full, and its size in bytes


def die_logged() -> None:
    """Be killed again and again where it is hardest, with commits in the log and nobody told of them."""
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


def poisoned() -> None:
    """Be ended by every commit that names the key "poison"."""
    sound = CommitEngine.submit_together

    def submit_together(self: CommitEngine, requests: list[Any]) -> list[bytes]:
        if any(b"poison" in request.mutations for _, request in requests):
            os.kill(os.getpid(), signal.SIGKILL)
        return sound(self, requests)

    CommitEngine.submit_together = submit_together


def full_disk() -> None:
    """A disk without room for another log file as long as the flag file is there."""
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


def small_disk() -> None:
    """A disk on which the store's directory may take so many bytes; a quota does not show in ``statvfs``."""
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


OCCASIONS: dict[str, Callable[[], None]] = {
    "die_logged": die_logged,
    "full_disk": full_disk,
    "poisoned": poisoned,
    "small_disk": small_disk,
}
PLANTS = (*OCCASIONS, *(plant.name for plant in plants.PLANTS.values() if plant.side == plants.COORDINATOR))


@contextlib.contextmanager
def planted(names: str | None) -> Iterator[None]:
    """Coordinators started meanwhile by this process, and by those it forks, have these faults ("one+another")."""
    sound = take_over.python_command
    if names is not None:
        for name in names.split("+"):
            assert name in PLANTS, f"{name} is no fault of a coordinator's"
        take_over.python_command = lambda _module, *arguments: [
            *(sys.executable, "-P", str(Path(__file__).resolve()), names, *arguments)
        ]
    try:
        yield
    finally:
        take_over.python_command = sound


def plant_for_good(name: str) -> None:
    """Have this process, which was made for it, keep the fault."""
    context = plants.planted_here(name)
    context.__enter__()
    _kept.append(context)


_kept: list[Any] = []


def main() -> int:
    """Plant the faults and be a coordinator."""
    for name in sys.argv[1].split("+"):
        if name in OCCASIONS:
            OCCASIONS[name]()
        else:
            plant_for_good(name)
    return process.main(TABLE, sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
