"""The room on the disk that is kept for the next checkpoint."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from shoal.coordinator.log.checkpoint_room import CheckpointRoom
from shoal.shm.errors import StoreFullError
from shoal.shm.files.storage import Space
from shoal.shm.limits import CHECKPOINT_EXTRA_BYTES, MIB, REMAKE_AFTER_S

RESERVE = "checkpoint.new"


class _Disk:
    """A disk of so many bytes, and the reserves on it."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.files: dict[str, int] = {}

    def space(self) -> Space:
        return Space(self.total_bytes, self.total_bytes - sum(self.files.values()))

    def reserve(self, name: str, size: int, create: bool) -> None:
        if not create and name not in self.files:
            raise FileNotFoundError(name)
        before = self.files.get(name, 0)
        if size - before > self.space().free_bytes:
            raise StoreFullError("full")
        self.files[name] = max(size, before)

    def rename(self, name: str, new_name: str) -> None:
        if name not in self.files:
            raise FileNotFoundError(name)
        self.files[new_name] = self.files.pop(name)

    def remove(self, name: str) -> None:
        if self.files.pop(name, None) is None:
            raise FileNotFoundError(name)


def _room(disk: _Disk, live_bytes: int) -> tuple[CheckpointRoom, Any]:
    heap = SimpleNamespace(used_words=live_bytes // 8, padding_words=0)
    writer: Any = SimpleNamespace(heap=heap, garbage_words=0)
    storage: Any = disk
    return CheckpointRoom(storage, writer), heap


def test_it_is_taken_before_data_grows() -> None:
    """A commit has room only if a checkpoint with it in has; without, nothing is reserved and it is refused."""
    disk = _Disk(100 * MIB)
    room, _ = _room(disk, 10 * MIB)
    room.acquire()
    assert disk.files[RESERVE] >= 10 * MIB + CHECKPOINT_EXTRA_BYTES
    room.provide(5 * MIB)
    assert room.headroom_bytes() >= 5 * MIB
    assert disk.files[RESERVE] >= 15 * MIB
    before = dict(disk.files)
    with pytest.raises(StoreFullError, match="the disk has"):
        room.provide(90 * MIB)
    assert disk.files == before


def test_of_a_full_disk_as_much_as_there_is() -> None:
    """Live data may shrink: what can be had is reserved."""
    disk = _Disk(6 * MIB)
    room, heap = _room(disk, 10 * MIB)
    room.acquire()
    assert 0 < disk.files[RESERVE] <= 6 * MIB
    assert room.headroom_bytes() < 0
    heap.used_words = MIB // 8
    assert room.headroom_bytes() > 0


@pytest.mark.parametrize("freed_bytes", [0, 4 * MIB, 100 * MIB])
def test_a_checkpoint_uses_it_up(freed_bytes: int) -> None:
    """While it is written, the next reserve counts on what it will make free for certain, and no more."""
    disk = _Disk(100 * MIB)
    room, _ = _room(disk, 10 * MIB)
    room.acquire()
    held_bytes = disk.files[RESERVE]
    room.hand_over("checkpoint-1.new", freed_bytes)
    assert disk.files == {"checkpoint-1.new": held_bytes}
    assert room.headroom_bytes() == min(held_bytes, freed_bytes) - room.checkpoint_bytes()
    disk.remove("checkpoint-1.new")
    room.take_back()
    assert room.headroom_bytes() >= 0
    room.release()
    assert disk.files == {}


def test_removed_by_somebody() -> None:
    """It is made again a little later, and whoever deletes the directory meanwhile finds it empty."""
    disk = _Disk(100 * MIB)
    room, heap = _room(disk, 10 * MIB)
    room.acquire()
    disk.files.clear()
    heap.used_words *= 2
    room.acquire()
    assert disk.files == {}
    room.keep(1.0)
    room.keep(1.0 + REMAKE_AFTER_S / 2)
    assert disk.files == {}
    room.keep(1.0 + 2 * REMAKE_AFTER_S)
    assert disk.files[RESERVE] >= 20 * MIB


def test_what_was_enough_is_enough_for_what_does_not_grow() -> None:
    """Deletes of small values use memory at first. A full disk refuses then what grows, and nothing else."""
    disk = _Disk(12 * MIB)
    room, heap = _room(disk, 10 * MIB)
    room.acquire()
    disk.files["ballast"] = disk.space().free_bytes
    heap.used_words += MIB // 8
    room.provide(0)
    with pytest.raises(StoreFullError):
        room.provide(1)
    room.hand_over("checkpoint-1.new", 11 * MIB)
    room.provide(0)
    disk.remove("checkpoint-1.new")
    disk.files["ballast"] += 5 * MIB
    room.take_back()
    with pytest.raises(StoreFullError):
        room.provide(0)


def test_what_does_not_grow_may_use_up_the_log() -> None:
    """It gets its reserve though no quarter of a checkpoint is left for the log; what grows does not."""
    disk = _Disk(12 * MIB)
    room, _ = _room(disk, 10 * MIB)
    with pytest.raises(StoreFullError):
        room.provide(1)
    room.provide(0)
    assert room.headroom_bytes() >= 0
