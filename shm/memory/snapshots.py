"""Pinned snapshots: a page of slots for each process, the only memory a worker may write.

- A worker pins by storing the published version in its slot, then reading the published version again, until both
  are equal. The coordinator, before it frees anything, passes a barrier and then looks at all slots. So either it sees
  the slot, or the worker's second look came after and saw a version at least as new as what is freed.
- A page belongs to one process. Its coordinator-side mapping goes when the process's pipe reports its end, so the
  slots of the dead are free at once, with no guessing about pids.
- In the page's last word the coordinator notes that it does a commit of this client. If it dies then, the client finds
  the note: the commit may be what ended it.
- The kernel seals the page's size: a worker cannot make the coordinator fault.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable
from typing import Any

from shoal.shm.errors import LimitExceededError, SnapshotExpiredError
from shoal.shm.host import descriptors
from shoal.shm.host.unpatched import thread
from shoal.shm.limits import MAX_SNAPSHOTS_PER_PROCESS
from shoal.shm.memory.layout import SLOTS_WORD_USED, W_HORIZON, W_PUBLISHED
from shoal.shm.memory.segment import anonymous_file
from shoal.shm.memory.words import unmap, words_of

_PAGE_BYTES = (MAX_SNAPSHOTS_PER_PROCESS + 2) * 8
_AT_WORK = -1  # the last word, which only the coordinator writes: 1 while it does a commit of this client


def verify(words: memoryview, snapshot: int) -> None:
    """Raise SnapshotExpiredError if memory that ``snapshot`` could reach may have been reused."""
    horizon = words[W_HORIZON]
    if horizon > snapshot:
        raise SnapshotExpiredError(snapshot, horizon)


def new_page() -> int:
    """A descriptor of an empty page of slots."""
    return anonymous_file("shoal-snapshots", _PAGE_BYTES)


class _Slot:
    """The right to write one slot. Whoever has it may pin; at its end it is free again, or else lost."""

    __slots__ = ("__weakref__", "index")

    def __init__(self, index: int) -> None:
        self.index = index


class _SlotRef(weakref.ref[_Slot]):
    """Tells when a ``_Slot`` is gone, and which one it was."""

    __slots__ = ("index",)

    def __init__(self, slot: _Slot, gone: Callable[[weakref.ref[_Slot]], None]) -> None:
        super().__init__(slot, gone)  # type: ignore[call-arg] # typeshed has it as object's
        self.index = slot.index


class SnapshotSlots:
    """The worker's side: pin and unpin. Safe from several threads, and in a signal handler or finaliser.

    An exception that a signal handler raises may come between any two steps. So a slot is an object. Whatever loses
    it, on its way to a transaction or back, ends its life; its weak reference then puts itself into ``_lost``, in C,
    and the next ``pin`` frees what is there.
    """

    __slots__ = ("_free", "_lock", "_lost", "_mm", "_refs", "_slots", "_unused")

    def __init__(self, fd: int) -> None:
        self._mm = descriptors.map_file(fd, _PAGE_BYTES, mmap.PROT_READ | mmap.PROT_WRITE)
        os.close(fd)
        self._begin(words_of(self._mm), MAX_SNAPSHOTS_PER_PROCESS)

    def _begin(self, slots: memoryview, count: int) -> None:
        self._slots = slots
        self._free: list[_Slot] = []
        self._unused = iter(range(1, count + 1))
        self._refs: dict[int, _SlotRef] = {}
        self._lost: list[Any] = []
        self._lock = thread.RLock()

    def pin(self, words: memoryview) -> tuple[_Slot, int]:
        """Pin the newest published version: ``(slot, version)``."""
        if self._lost:
            self._free_lost()
        try:
            slot = self._free.pop()
        except IndexError:
            slot = self._new_slot()
        index = slot.index
        version = words[W_PUBLISHED]
        while True:
            self._slots[index] = version + 1  # an empty store has version 0, and 0 is a free slot
            again = words[W_PUBLISHED]
            if again == version:
                return slot, version
            version = again

    def unpin(self, slot: _Slot) -> None:
        """Let the version go."""
        self._slots[slot.index] = 0
        self._free.append(slot)

    def died_at_work(self) -> bool:
        """Of a coordinator that has died: whether it was doing a commit of this client."""
        return bool(self._slots[_AT_WORK])

    def close(self) -> None:
        """Unmap the page. Pins and unpins go to a copy nobody reads: in a forked child, the page is the parent's."""
        mapped, self._slots = self._slots, memoryview(bytearray(_PAGE_BYTES)).cast("Q")
        unmap(self._mm, mapped)

    def _new_slot(self) -> _Slot:
        index = next(self._unused, 0)
        if index == 0:
            most = MAX_SNAPSHOTS_PER_PROCESS
            advice = "close snapshots and end transactions that are done with, or use with blocks"
            raise LimitExceededError("number of snapshots open in this process", most, most + 1, advice)
        with self._lock:  # before there is a slot: the coordinator looks no further than this word says
            if index > self._slots[SLOTS_WORD_USED]:
                self._slots[SLOTS_WORD_USED] = index
        slot = _Slot(index)
        self._refs[index] = _SlotRef(slot, self._lost.append)
        return slot

    def _free_lost(self) -> None:
        with self._lock:
            for ref in self._lost.copy():
                slot = _Slot(ref.index)
                again = _SlotRef(slot, self._lost.append)
                # A signal handler that ran until here may have freed it. From this look to remove() none can run.
                if ref in self._lost:
                    self._refs[ref.index] = again
                    self._slots[ref.index] = 0
                    self._lost.remove(ref)
                    self._free.append(slot)


class SnapshotPage:
    """The coordinator's side of one process's slots."""

    __slots__ = ("_mm", "_slots")

    def __init__(self, fd: int) -> None:
        self._mm = descriptors.map_file(fd, _PAGE_BYTES, mmap.PROT_READ | mmap.PROT_WRITE)
        self._slots = words_of(self._mm)

    def note_work(self, at_work: int) -> None:
        """Note that a commit of this client is being done (1), or that none is (0)."""
        self._slots[_AT_WORK] = at_work

    def pinned(self) -> list[int]:
        """The versions pinned now, in no order; several snapshots may share one."""
        used = min(self._slots[SLOTS_WORD_USED], MAX_SNAPSHOTS_PER_PROCESS)
        return [word - 1 for word in self._slots[1 : used + 1].tolist() if word]
