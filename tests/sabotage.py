"""A coordinator with a planted fault, to show that the tests notice: ``python sabotage.py PLANT ARGUMENTS...``.

The plants live here and nowhere in shoal. ``planted`` makes this process, and those it forks, start such a
coordinator wherever they would start a sound one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shoal.coordinator import commit_engine, process
from shoal.coordinator.log.wal_writer import WalWriter
from shoal.shm import storage
from shoal.shm.snapshots import SnapshotSlots
from shoal.workers import take_over

LATE_RECORDS = 40
GROUPS_TO_LIVE = 120
FULL_DISK_FLAG = "SHOAL_TEST_FULL_DISK"


def skip_point_validation() -> None:
    """Commit whatever was read point by point, changed or not."""
    sound = commit_engine.validate
    commit_engine.validate = lambda request, window: sound(request._replace(keys_read=[]), window)


def skip_range_validation() -> None:
    """Commit whatever was scanned, changed or not."""
    sound = commit_engine.validate
    commit_engine.validate = lambda request, window: sound(request._replace(ranges_read=[]), window)


def answer_before_log() -> None:
    """Answer commits while their records wait in this process's memory."""
    sound = WalWriter.append
    waiting: list[tuple[Any, ...]] = []

    def append(self: WalWriter, *record: Any) -> None:
        waiting.append(record)
        if len(waiting) >= LATE_RECORDS:
            for late in waiting:
                sound(self, *late)
            waiting.clear()

    WalWriter.append = append


def die_logged() -> None:
    """No fault: be killed again and again where it is hardest, with commits in the log and nobody told of them."""
    sound = commit_engine.CommitEngine.finish_group
    groups = 0

    def finish_group(self: commit_engine.CommitEngine) -> None:
        nonlocal groups
        if self.version != self.published:
            groups += 1
            if groups == GROUPS_TO_LIVE:
                os.kill(os.getpid(), signal.SIGKILL)
        sound(self)

    commit_engine.CommitEngine.finish_group = finish_group


def apply_twice() -> None:
    """Die with commits logged and not answered, and forget in the next life that they were done."""
    die_logged()
    sound = commit_engine.CommitEngine.__init__

    def begin(self: commit_engine.CommitEngine, *args: Any, **kwargs: Any) -> None:
        sound(self, *args, **kwargs)
        self.remembered.clear()

    commit_engine.CommitEngine.__init__ = begin


def full_disk() -> None:
    """No fault: a disk without room for another log file as long as the flag file is there."""
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


PLANTS = {
    plant.__name__: plant
    for plant in (skip_point_validation, skip_range_validation, answer_before_log, die_logged, apply_twice, full_disk)
}


@contextlib.contextmanager
def planted(plant: str | None) -> Iterator[None]:
    """Coordinators started meanwhile by this process, and by those it forks, have the fault ``plant``."""
    sound = take_over.python_command
    if plant is not None:
        take_over.python_command = lambda _module, *arguments: [
            *(sys.executable, "-P", str(Path(__file__).resolve()), plant, *arguments)
        ]
    try:
        yield
    finally:
        take_over.python_command = sound


def stale_snapshots() -> None:
    """In this process: a snapshot is the one that should have been taken the time before."""
    sound = SnapshotSlots.pin
    before: dict[int, tuple[int, int]] = {}

    def pin(self: SnapshotSlots, words: memoryview) -> tuple[int, int]:
        fresh = sound(self, words)
        stale = before.get(id(self)) or sound(self, words)
        before[id(self)] = fresh
        return stale

    SnapshotSlots.pin = pin


def main() -> int:
    """Plant the fault and be a coordinator."""
    PLANTS[sys.argv[1]]()
    return process.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
