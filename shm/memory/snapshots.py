"""Pinned snapshots: one page of slots for each process, the only memory that a worker may write.

    word 0         the highest slot ever used
    words 1..4095  one slot each: the pinned version + 1, 0 if it is free
    last word      while the coordinator does a commit of this client: 1, or of a pipeline the commit id; else 0. Only
                   the coordinator writes it

- A worker pins by storing the published version in its slot, then reading the published version again, until both are
  equal. The coordinator, before it frees anything, passes a barrier and then reads all slots. So either it sees the
  slot, or the worker's second read came after the barrier and saw a version at least as new as what is freed.
- A past version is pinned in three steps: the slot pins version 0, so that nothing is freed from then on; the
  coordinator is asked for the version, and sees the slot from its answer on; the slot pins that version instead. Last,
  the horizon is looked at, because a coordinator that is short of memory passes old pins.
- A page belongs to one process. The coordinator closes its mapping when the process's pipe reports its end, so the
  slots of a process that was killed are free at once, without any guess about pids.
- If the coordinator dies while the last word is not 0, the client knows that this commit may have killed it.
- The kernel seals the page's size, so a worker cannot make the coordinator fault.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Callable
from typing import Any

from shoal.shm.errors import LimitExceededError, SnapshotExpiredError
from shoal.shm.host import descriptors
from shoal.shm.host.unpatched import ReentrantLock
from shoal.shm.limits import MAX_SNAPSHOTS_PER_PROCESS
from shoal.shm.memory.layout import SLOTS_WORD_USED, W_HORIZON, W_PUBLISHED
from shoal.shm.memory.segment import anonymous_file
from shoal.shm.memory.words import unmap, words_of

try:
    from cython import compiled
except ModuleNotFoundError:
    from shoal.shm.cython_shim import compiled

if compiled:
    from cython.cimports.bytes_at import listed
    from cython.cimports.order import fence_acquire

_PAGE_BYTES = (MAX_SNAPSHOTS_PER_PROCESS + 2) * 8
_AT_WORK = -1  # the last word of a page


def verify(words: memoryview, snapshot: int) -> None:
    """Raise SnapshotExpiredError if memory that ``snapshot`` could reach may have been reused."""
    if compiled:
        if len(words) == 0:
            raise ValueError("the segment is closed")
        fence_acquire()  # what was copied was loaded before the horizon
    horizon = words[W_HORIZON]
    if horizon > snapshot:
        raise SnapshotExpiredError(snapshot, horizon)


def new_page() -> int:
    """A descriptor of an empty page of slots."""
    return anonymous_file("shoal-snapshots", _PAGE_BYTES)


def map_page(fd: int) -> memoryview:
    """The words of the page behind ``fd``, mapped."""
    return words_of(descriptors.map_file(fd, _PAGE_BYTES, mmap.PROT_READ | mmap.PROT_WRITE))


class _Slot:
    """The right to write one slot. It is passed to a pinned snapshot and back; its end means that it was lost."""

    __slots__ = ("__weakref__", "index")

    def __init__(self, index: int) -> None:
        self.index = index


class _SlotRef(weakref.ref[_Slot]):
    """Its callback runs when a ``_Slot`` is gone; ``index`` says which one it was."""

    __slots__ = ("index",)

    def __init__(self, slot: _Slot, gone: Callable[[weakref.ref[_Slot]], None]) -> None:
        super().__init__(slot, gone)  # type: ignore[call-arg] # typeshed has it as object's
        self.index = slot.index


class SnapshotSlots:
    """The worker's side: pin and unpin. Safe from several threads, and in a signal handler or finaliser.

    A signal handler may raise an exception between any two steps, so that a slot is lost on its way to a transaction
    or back. Therefore a slot is an object. A lost slot is collected; its weak reference then appends itself to
    ``_lost``, in C, and the next ``pin`` frees the slots it finds there.
    """

    __slots__ = ("_free", "_lock", "_lost", "_mm", "_refs", "_slots", "_unused")

    def __init__(self, page: memoryview) -> None:
        """``page``: of ``map_page``, or of a simulated machine."""
        self._mm: Any = page.obj
        self._slots = page
        self._free: list[_Slot] = []
        self._unused = iter(range(1, len(page) - 1))
        self._refs: dict[int, _SlotRef] = {}
        self._lost: list[Any] = []
        self._lock = ReentrantLock()

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
                if compiled:
                    fence_acquire()
                return slot, version
            version = again

    def pin_all(self, words: memoryview) -> _Slot:
        """Pin every version there is; ``move`` says which one is needed."""
        slot, _ = self.pin(words)
        self._slots[slot.index] = 1
        return slot

    def move(self, slot: _Slot, version: int) -> None:
        """Pin a newer version instead."""
        self._slots[slot.index] = version + 1

    def unpin(self, slot: _Slot) -> None:
        """Free the slot: its version is not pinned any more."""
        self._slots[slot.index] = 0
        self._free.append(slot)

    def died_at_work(self) -> bool:
        """Whether the coordinator, which has died, was doing a commit of this client."""
        return bool(self._slots[_AT_WORK])

    def work_at_death(self) -> int:
        """The commit of a pipeline that the coordinator, which has died, was doing, by id; 0 if none."""
        return self._slots[_AT_WORK]

    def close(self) -> None:
        """Unmap the page. Later pins write to private memory: in a forked child, the page belongs to the parent."""
        page, self._slots = self._slots, memoryview(bytearray(_PAGE_BYTES)).cast("Q")
        unmap(self._mm, page)

    def _new_slot(self) -> _Slot:
        index = next(self._unused, 0)
        if index == 0:
            most = MAX_SNAPSHOTS_PER_PROCESS
            advice = "close snapshots and end transactions that are done with, or use with blocks"
            raise LimitExceededError("number of snapshots open in this process", most, most + 1, advice)
        with self._lock:  # before the slot exists: the coordinator reads no slot behind the one in this word
            if index > self._slots[SLOTS_WORD_USED]:
                self._slots[SLOTS_WORD_USED] = index
        slot = _Slot(index)
        self._refs[index] = _SlotRef(slot, self._lost.append)
        return slot

    def _free_lost(self) -> None:
        with self._lock:
            for ref in self._lost.copy():
                self._free_slot_of(ref)

    def _free_slot_of(self, ref: _SlotRef) -> None:
        slot = _Slot(ref.index)
        again = _SlotRef(slot, self._lost.append)
        # A signal handler that ran until now may have freed it. From here to remove() none can run.
        if ref in self._lost:
            self._refs[ref.index] = again
            self._slots[ref.index] = 0
            self._lost.remove(ref)
            self._free.append(slot)


class SnapshotPage:
    """The coordinator's side of the slots of one process."""

    __slots__ = ("_slots",)

    def __init__(self, page: memoryview) -> None:
        """``page``: of ``map_page``, or of a simulated machine."""
        self._slots = page

    def note_work(self, at_work: int) -> None:
        """Note that the coordinator does a commit of this client (1, or its id), or that it does none (0)."""
        self._slots[_AT_WORK] = at_work

    def pinned(self) -> list[int]:
        """The versions pinned now, in no order; a version is listed once for each snapshot."""
        used = min(self._slots[SLOTS_WORD_USED], MAX_SNAPSHOTS_PER_PROCESS)
        if compiled:  # noqa: SIM108 (mypy knows the names of C in statements alone)
            words = listed(self._slots, 1, used)
        else:
            words = self._slots[1 : used + 1].tolist()
        return [word - 1 for word in words if word]
