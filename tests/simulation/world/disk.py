"""A disk behind a page cache. What a process wrote outlives it; what was not synced, a power cut keeps, loses or tears.

- Content is durable by sectors of 512 bytes: of each that was not synced the old or the new is there after a power cut,
  or a part of either. The kernel writes some back on its own. Names are durable one by one, whatever their order.
- After a sync that failed the kernel takes pages for clean that it never wrote: they are gone at the power cut, though
  they can be read till then and a further sync succeeds. Only who writes them again has them synced.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from typing import Any

from shoal.shm.errors import StoreFullError
from shoal.shm.files.storage import Space
from tests.simulation.world.scheduler import Killed, Scheduler

SECTOR_BYTES = 512
_SYNC_S = (0.0, 0.004)
_LONG_SYNC_S = 0.03
_TORN = 0.15
_WRITTEN_BACK = 0.05
_WRITTEN_IN_TWO = 0.1


class Inode:
    """One file: what processes read, and what is on the disk."""

    __slots__ = ("content", "durable", "lost", "reserved_bytes")

    def __init__(self, size: int = 0) -> None:
        self.content = bytearray(size)
        self.durable = b""
        self.reserved_bytes = 0  # room it has on the disk beyond its content, however full that is
        self.lost: dict[int, bytes] = {}  # sector -> what the kernel took for clean and never wrote

    def sync(self, content: bytes) -> None:
        """``content``, as it was when the sync began, is on the disk: all but what the kernel takes for clean."""
        if not self.lost:
            self.durable = content
            return
        old = self.durable.ljust(len(content), b"\0")
        pieces = []
        for start in range(0, len(content), SECTOR_BYTES):
            fresh = content[start : start + SECTOR_BYTES]
            stale = self.lost.get(start) == fresh
            pieces.append(old[start : start + SECTOR_BYTES] if stale else fresh)
        self.durable = b"".join(pieces)

    def fail(self, rng: random.Random) -> None:
        """A sync fails: of what was to be written some is on the disk, and all of it counts as clean."""
        content, old = bytes(self.content), self.durable.ljust(len(self.content), b"\0")
        for start in range(0, len(content), SECTOR_BYTES):
            fresh = content[start : start + SECTOR_BYTES]
            if old[start : start + SECTOR_BYTES] != fresh and rng.random() < 0.5:
                self.lost[start] = fresh
        self.sync(content)

    def after_power_cut(self, rng: random.Random) -> bytes:
        """What the next boot finds."""
        content, old = bytes(self.content), self.durable
        if content == old:
            return content
        survives = rng.random()
        size = len(content) if len(old) < len(content) and rng.random() < survives else len(old)
        old = old.ljust(len(content), b"\0")[: max(size, len(old))]
        pieces = []
        for start in range(0, size, SECTOR_BYTES):
            before, after = old[start : start + SECTOR_BYTES], content[start : start + SECTOR_BYTES]
            if before != after and self.lost.get(start) != after:
                if rng.random() < _TORN:
                    cut = rng.randrange(SECTOR_BYTES)
                    before = after[:cut] + before[cut:] if rng.random() < 0.5 else before[:cut] + after[cut:]
                elif rng.random() < survives:
                    before = after
            pieces.append(before)
        return b"".join(pieces)


class Disk:
    """A flat directory on it: names as processes see them, and as they are on the disk."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.names: dict[str, Inode] = {}
        self._durable: dict[str, Inode] = {}
        self.on_remove: Callable[[str, bytes], None] = lambda _name, _content: None
        self.is_full = False
        self.failing_syncs = 0
        self.cut_in_sync: Callable[[], None] | None = None  # what happens at the end of a long last one
        self.on_record: Callable[[bytes], None] = lambda _data: None

    def sync_names(self) -> None:
        """Creations, renames and removals so far are on the disk."""
        self._durable = dict(self.names)

    def sync(self, inode: Inode, immediate: bool = False) -> None:
        """fsync: takes its time, in which others go on; may fail, if that was planned."""
        scheduler = self.scheduler
        content = bytes(inode.content)
        if immediate:
            scheduler.step()
        else:
            scheduler.sleep(scheduler.rng.uniform(*_SYNC_S))
        if self.cut_in_sync is not None:
            last, self.cut_in_sync = self.cut_in_sync, None
            scheduler.sleep(_LONG_SYNC_S)
            last()
        if self.failing_syncs > 0:
            self.failing_syncs -= 1
            scheduler.say("a sync fails")
            inode.fail(scheduler.rng)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        inode.sync(content)

    def cut_power(self) -> None:
        """Everybody has been killed; what is found at the next boot."""
        rng = self.scheduler.rng
        names: dict[str, Inode] = {}
        found: dict[int, Inode] = {}
        for name in sorted(self.names.keys() | self._durable.keys()):
            before, after = self._durable.get(name), self.names.get(name)
            kept = after if before is after or rng.random() < 0.5 else before
            if kept is None:
                continue
            if id(kept) not in found:
                inode = found[id(kept)] = Inode()
                inode.durable = kept.after_power_cut(rng)
                inode.content = bytearray(inode.durable)
            names[name] = found[id(kept)]
        self.names, self._durable = names, dict(names)
        self.failing_syncs, self.is_full, self.cut_in_sync = 0, False, None

    def open(self, name: str) -> Inode:
        """A file, made if it is not there."""
        return self.names.get(name) or self.create(name)

    def create(self, name: str) -> Inode:
        """A new, empty file."""
        inode = self.names[name] = Inode()
        return inode


class LogFile:
    """A log file that is written in place."""

    def __init__(self, disk: Disk, inode: Inode) -> None:
        self._disk = disk
        self._inode = inode
        self.size = len(inode.content)

    def write(self, offset: int, data: bytes) -> None:
        """A copy to mapped memory: the process may be killed in the middle of it."""
        scheduler, inode = self._disk.scheduler, self._inode
        if scheduler.current is not None and not scheduler.current.process.alive:
            raise Killed
        self._disk.on_record(data)  # before it is whole, as who is killed in the middle may have lacked but its padding
        rng = scheduler.rng
        done = 0
        if rng.random() < _WRITTEN_IN_TWO:
            done = rng.randrange(len(data))
            inode.content[offset : offset + done] = data[:done]
            scheduler.step()
        inode.content[offset + done : offset + len(data)] = data[done:]
        if rng.random() < _WRITTEN_BACK:
            start = rng.randrange(0, self.size, SECTOR_BYTES)
            fresh = bytes(inode.content[start : start + SECTOR_BYTES])
            if inode.lost.get(start) != fresh:
                old = inode.durable.ljust(self.size, b"\0")
                inode.durable = old[:start] + fresh + old[start + SECTOR_BYTES :]
        scheduler.step()

    def sync(self) -> None:
        """See ``Disk.sync``."""
        self._disk.sync(self._inode)

    def close(self) -> None:
        """Nothing depends on it."""


class SimulatedStorage:
    """``shm.storage.Storage`` over the disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def list(self) -> list[str]:
        self._disk.scheduler.step()
        return sorted(self._disk.names)

    def read(self, name: str) -> bytes:
        self._disk.scheduler.step()
        return bytes(self._inode(name).content)

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        self._disk.scheduler.step()
        return bytes(self._inode(name).content[offset : offset + size])

    def _inode(self, name: str) -> Inode:
        inode = self._disk.names.get(name)
        if inode is None:  # removed by a checkpoint, while another process reads the log
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return inode

    def create_log_file(self, name: str, size: int) -> Any:
        disk = self._disk
        disk.scheduler.step()
        assert name not in disk.names, f"{name} exists"
        if disk.is_full:
            raise StoreFullError(f"no room for {name}")
        inode = disk.create(name)
        disk.scheduler.step()
        inode.content = bytearray(size)
        try:
            disk.sync(inode, immediate=True)
        except OSError:
            del disk.names[name]
            raise
        self.sync_directory()
        return LogFile(disk, inode)

    def reserve(self, name: str, size: int, create: bool) -> None:
        disk = self._disk
        disk.scheduler.step()
        if disk.is_full:
            raise StoreFullError(f"no room for {name}")
        inode = disk.open(name)
        inode.reserved_bytes = max(inode.reserved_bytes, size)

    def rename(self, name: str, new_name: str) -> None:
        self._disk.scheduler.step()
        self._disk.names[new_name] = self._disk.names.pop(name)

    def size(self, name: str) -> int:
        inode = self._inode(name)
        return max(len(inode.content), inode.reserved_bytes)

    def space(self) -> Space:
        return Space(1 << 40, 0 if self._disk.is_full else 1 << 40)

    def overwrites_in_place(self) -> bool:
        return True

    def truncate(self, name: str, size: int) -> None:
        inode = self._inode(name)
        self._disk.scheduler.step()
        del inode.content[size:]
        self._disk.sync(inode, immediate=True)

    def write_again(self, name: str, from_byte: int) -> None:
        inode = self._inode(name)
        self._disk.scheduler.step()
        first = from_byte // SECTOR_BYTES * SECTOR_BYTES
        inode.lost = {start: data for start, data in inode.lost.items() if start < first}
        self._disk.sync(inode, immediate=True)

    def replace(self, name: str, content: bytes) -> None:
        disk = self._disk
        disk.scheduler.step()
        if disk.is_full:
            raise StoreFullError(f"no room for {name}")
        inode = Inode()
        inode.content = bytearray(content)
        disk.sync(inode, immediate=True)
        disk.scheduler.step()
        disk.names[name] = inode
        self.sync_directory()

    def sync_file(self, name: str) -> None:
        self._disk.sync(self._inode(name), immediate=True)

    def remove(self, name: str) -> None:
        self._disk.scheduler.step()
        inode = self._inode(name)
        del self._disk.names[name]
        if name.startswith("wal-"):
            self._disk.on_remove(name, bytes(inode.content))

    def sync_directory(self) -> None:
        self._disk.scheduler.step()
        self._disk.sync_names()
