"""Pinned snapshots: a page of slots for each process, the only memory a worker may write.

- A worker pins by storing the published version in its slot, then reading the published version again, until both
  are equal. The coordinator, before it frees anything, passes a barrier and then looks at all slots. So either it sees
  the slot, or the worker's second look came after and saw a version at least as new as what is freed.
- A page belongs to one process. Its coordinator-side mapping goes when the process's pipe reports its end, so the
  slots of the dead are free at once, with no guessing about pids.
- The kernel seals the page's size: a worker cannot make the coordinator fault.
"""

from __future__ import annotations

import mmap
import os

from shoal.shm.errors import LimitExceededError
from shoal.shm.layout import SLOTS_WORD_USED, W_PUBLISHED
from shoal.shm.limits import MAX_SNAPSHOTS_PER_PROCESS
from shoal.shm.segment import anonymous_file
from shoal.shm.words import words_of

_PAGE_BYTES = (MAX_SNAPSHOTS_PER_PROCESS + 1) * 8


def new_page() -> int:
    """A descriptor of an empty page of slots."""
    return anonymous_file("shoal-snapshots", _PAGE_BYTES)


class SnapshotSlots:
    """The worker's side: pin and unpin. Safe from several threads (list.pop and append are atomic)."""

    __slots__ = ("_free", "_mm", "_slots", "_used")

    def __init__(self, fd: int) -> None:
        self._mm = mmap.mmap(fd, _PAGE_BYTES)
        os.close(fd)
        self._slots = words_of(self._mm)
        self._free: list[int] = []
        self._used = iter(range(1, MAX_SNAPSHOTS_PER_PROCESS + 1))

    def pin(self, words: memoryview) -> tuple[int, int]:
        """Pin the newest published version: ``(slot, version)``."""
        try:
            slot = self._free.pop()
        except IndexError:
            slot = next(self._used, 0)
            if slot == 0:
                raise LimitExceededError(
                    "number of snapshots open in this process",
                    MAX_SNAPSHOTS_PER_PROCESS,
                    MAX_SNAPSHOTS_PER_PROCESS + 1,
                    "close snapshots and end transactions that are done with, or use with blocks",
                ) from None
            if slot > self._slots[SLOTS_WORD_USED]:
                self._slots[SLOTS_WORD_USED] = slot
        version = words[W_PUBLISHED]
        while True:
            self._slots[slot] = version + 1  # an empty store has version 0, and 0 is a free slot
            again = words[W_PUBLISHED]
            if again == version:
                return slot, version
            version = again

    def detach(self) -> None:
        """In a forked child: never write to the parent's page again. Pins and unpins go to a copy nobody reads."""
        self._slots = memoryview(bytearray(self._slots)).cast("Q")

    def unpin(self, slot: int) -> None:
        """Let the version go."""
        self._slots[slot] = 0
        self._free.append(slot)


class SnapshotPage:
    """The coordinator's side of one process's slots."""

    __slots__ = ("_mm", "_slots")

    def __init__(self, fd: int) -> None:
        self._mm = mmap.mmap(fd, _PAGE_BYTES, mmap.MAP_SHARED, mmap.PROT_READ)
        self._slots = words_of(self._mm)

    def pinned(self) -> list[int]:
        """The versions pinned now, in no order; several snapshots may share one."""
        used = min(self._slots[SLOTS_WORD_USED], MAX_SNAPSHOTS_PER_PROCESS)
        return [word - 1 for word in self._slots[1 : used + 1].tolist() if word]
