"""The simulated disk: a page cache over a medium, and what a power cut leaves of both.

A file has what processes see (``data``) and what is on the medium (``durable``). A write touches sectors; until they
are synced, or written back as the machine likes, a power cut keeps of each the old content, the new, or a mixture.
Names are a directory that is synced by itself: a creation, a renaming, a removal may be lost as long as it is not.
A sync that fails loses the pages that it could not write: they count as clean, and no later sync writes them.
"""

from __future__ import annotations

import errno
import random
from typing import Any

from .kernel import Description, Kernel, system_error


class Inode:
    """A file's content. ``mapped``: written through words, so that it is never known to be clean."""

    __slots__ = ("data", "dirty", "durable", "listener", "mapped")

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = bytearray()
        self.dirty: set[int] = set()
        self.mapped = False
        self.listener: Any = None  # of a socket's name


class OpenFile(Description):
    """An open file and a position."""

    __slots__ = ("appends", "inode", "name", "position")

    def __init__(self, name: str, inode: Inode, appends: bool = False) -> None:
        super().__init__()
        self.name = name
        self.inode = inode
        self.position = 0
        self.appends = appends


class OpenDirectory(Description):
    """An open directory."""

    __slots__ = ()


class Disk:
    """One directory and its files. ``sector_bytes`` is what a medium writes whole, unless ``tears``."""

    def __init__(self, rng: random.Random, kernel: Kernel, sector_bytes: int, *, in_order: bool, tears: bool) -> None:
        self._rng = rng
        self._kernel = kernel
        self._sector_bytes = sector_bytes
        self._in_order = in_order  # changes of names are lost from the last one backward only
        self._tears = tears
        self.names: dict[str, Inode] = {}
        self._durable_names: dict[str, Inode] = {}
        self._pending: list[dict[str, Inode | None]] = []  # changes of names not synced yet
        self.made = False
        self.is_full = False
        self.syncs_to_fail = 0
        self.failure_reverts = False  # whether a page that could not be written shows its old content again
        self.slowest_sync_ns = 0
        self.on_remove: Any = lambda _name, _inode: None
        self.failed_syncs = 0

    # --- names --------------------------------------------------------------------------------------------------------

    def create(self, name: str) -> Inode:
        """A new, empty file."""
        if self.is_full:
            raise system_error(errno.ENOSPC, name)
        inode = Inode()
        self._change({name: inode})
        return inode

    def remove(self, name: str) -> None:
        """Take a name away."""
        inode = self.names.get(name)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)
        self.on_remove(name, inode)
        self._change({name: None})

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, which may be one that is taken."""
        inode = self.names.get(old)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", old)
        self._change({old: None, new: inode})

    def sync_directory(self) -> None:
        """Make every change of names durable."""
        self._wait_for_medium()
        self._durable_names = dict(self.names)
        self._pending.clear()

    def _change(self, change: dict[str, Inode | None]) -> None:
        self._pending.append(change)
        _apply(self.names, change)

    # --- content ------------------------------------------------------------------------------------------------------

    def write(self, inode: Inode, offset: int, data: bytes) -> None:
        """Write into the page cache."""
        end = offset + len(data)
        if end > len(inode.data):
            inode.data.extend(bytes(end - len(inode.data)))
        inode.data[offset:end] = data
        size = self._sector_bytes
        inode.dirty.update(range(offset // size, (end + size - 1) // size))

    def resize(self, inode: Inode, size: int) -> None:
        """Cut a file, or make it longer with zeros."""
        if size > len(inode.data) and self.is_full:
            raise system_error(errno.ENOSPC)
        old = len(inode.data)
        if size < old:
            del inode.data[size:]
        else:
            inode.data.extend(bytes(size - old))
        inode.dirty.update(range(min(old, size) // self._sector_bytes, max(old, size) // self._sector_bytes + 1))

    def sync(self, inode: Inode) -> None:
        """Write everything dirty to the medium, or fail."""
        self._wait_for_medium()
        if self.syncs_to_fail and inode.dirty:
            self.syncs_to_fail -= 1
            self.failed_syncs += 1
            for sector in sorted(inode.dirty):
                if self._rng.random() < 0.5:
                    self._write_back(inode, sector)
                elif self.failure_reverts:
                    start, end = sector * self._sector_bytes, (sector + 1) * self._sector_bytes
                    old = bytes(inode.durable[start:end])
                    inode.data[start : start + len(old)] = old[: max(0, len(inode.data) - start)]
            inode.dirty.clear()
            raise system_error(errno.EIO)
        if len(inode.durable) != len(inode.data):
            _resize(inode.durable, len(inode.data))
        for sector in inode.dirty:
            self._write_back(inode, sector)
        inode.dirty.clear()
        if inode.mapped:
            inode.durable[:] = inode.data

    def write_some_back(self) -> None:
        """The machine writes some dirty sectors when it likes."""
        for inode in self.names.values():
            for sector in sorted(inode.dirty):
                if self._rng.random() < 0.3:
                    if len(inode.durable) < len(inode.data):
                        _resize(inode.durable, len(inode.data))
                    self._write_back(inode, sector)
                    inode.dirty.discard(sector)

    def _write_back(self, inode: Inode, sector: int) -> None:
        start, end = sector * self._sector_bytes, (sector + 1) * self._sector_bytes
        part = inode.data[start:end]
        if start + len(part) > len(inode.durable):
            _resize(inode.durable, start + len(part))
        inode.durable[start : start + len(part)] = part

    def _wait_for_medium(self) -> None:
        kernel = self._kernel
        if self.slowest_sync_ns:
            kernel.sleep_ns(int(self._rng.random() ** 3 * self.slowest_sync_ns))
        else:
            kernel.step()

    # --- the end ------------------------------------------------------------------------------------------------------

    def cut_power(self) -> None:
        """Leave what a power cut does."""
        rng = self._rng
        kept = list(self._pending)
        if self._in_order:
            del kept[rng.randint(0, len(kept)) :]
        else:
            kept = [change for change in kept if rng.random() < 0.5]
        names = self._durable_names
        for change in kept:
            _apply(names, change)
        self.names = names
        self._durable_names = dict(names)
        self._pending.clear()
        for inode in set(names.values()) if len(set(map(id, names.values()))) < len(names) else list(names.values()):
            self._cut_content(inode)
        self.is_full = False
        self.syncs_to_fail = 0

    def _cut_content(self, inode: Inode) -> None:
        rng, size = self._rng, self._sector_bytes
        if inode.mapped and rng.random() < 0.5:
            inode.durable[:] = inode.data
        old_length, length = len(inode.durable), len(inode.data)
        if inode.dirty and old_length != length:
            # The length is in the file's head on disk, which may have been written or not.
            _resize(inode.durable, rng.choice((old_length, length)))
        for sector in sorted(inode.dirty):
            start = sector * size
            end = min(start + size, len(inode.durable))
            new = bytes(inode.data[start:end])
            new += bytes(max(0, end - start - len(new)))
            choice = rng.random()
            if choice < 0.4:
                continue
            if choice < 0.8 or not self._tears or end <= start:
                inode.durable[start:end] = new
                continue
            old = bytes(inode.durable[start:end])
            at = rng.randrange(end - start + 1)
            mixed = bytearray(new[:at] + old[at:])
            if choice > 0.95:  # what was being written is neither; what was not stays
                for i in range(at, end - start):
                    if old[i] != new[i]:
                        mixed[i] = rng.randrange(256)
            inode.durable[start:end] = mixed
        inode.data = bytearray(inode.durable)
        inode.dirty.clear()
        inode.mapped = False


def _apply(names: dict[str, Inode], change: dict[str, Inode | None]) -> None:
    for name, inode in change.items():
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def _resize(data: bytearray, size: int) -> None:
    if size < len(data):
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))
