"""Reads a store at rest into memory of this process, as a coordinator would, and changes no byte of its files.

Recovery itself does it, on a disk that ignores changes: it skips what recovery would cut or remove. A
shared lock on the directory keeps coordinators out until everything is read.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from shoal.coordinator.checkpoint.history import History
from shoal.coordinator.memory.check_report import check_segment
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.recovery.recover import recover
from shoal.coordinator.recovery.survey import at_rest, is_store
from shoal.shm.clock import now_us
from shoal.shm.errors import ConfigurationError, NotFoundError
from shoal.shm.files import store_files
from shoal.shm.files.epoch_file import EpochWord
from shoal.shm.files.storage import DiskStorage
from shoal.shm.files.store_files import StoreMeta
from shoal.shm.host import descriptors
from shoal.shm.host.randomness import random_bits
from shoal.shm.memory import snapshots
from shoal.shm.memory.layout import W_GENERATION, W_PUBLISHED
from shoal.shm.memory.segment import Segment
from shoal.shm.wire.handshake import Welcome
from shoal.workers.shared_memory.read_only import NoEpoch, StoreAtRest


class UnchangedDisk(DiskStorage):
    """A directory that is only read: cuts and removals are left to the coordinator that serves it next."""

    def truncate(self, name: str, size: int) -> None:
        """Leave it."""

    def write_again(self, name: str, from_byte: int) -> None:
        """Leave it."""

    def remove(self, name: str) -> None:
        """Leave it."""

    def replace(self, name: str, content: bytes) -> None:
        """Leave it."""

    def sync_directory(self) -> None:
        """Nothing was changed."""


def read_at_rest(directory: Path, durability: str | None, max_bytes: int | None) -> StoreAtRest | None:
    """The store in memory of this process, None while a coordinator holds it.

    Raises ``NotFoundError`` if there is no store, ``ConfigurationError`` if its files may not be read or it was last
    served with another durability, ``CorruptionError`` for damage, and ``StoreFullError`` if it needs more memory.
    """
    try:
        if not _is_directory(directory):
            raise _no_store(directory)
        with at_rest(directory) as rests:
            if not rests:
                return None
            if not is_store(directory):
                raise _no_store(directory)
            return _read(directory, durability, max_bytes)
    except PermissionError as error:
        raise ConfigurationError(
            f"the store at {directory} may not be read by this user ({error.strerror}: {error.filename}); "
            "have its owner give the right to read the directory and every file in it"
        ) from error


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _no_store(directory: Path) -> NotFoundError:
    return NotFoundError(f"there is no store at {directory}; open it without read_only=True to make one")


def _read(directory: Path, durability: str | None, max_bytes: int | None) -> StoreAtRest:
    meta = store_files.read_meta(directory)
    meta = meta or StoreMeta(store_files.DEFAULT_DURABILITY, store_files.default_max_bytes())
    if durability not in (None, meta.durability):
        raise ConfigurationError(
            f"the store was last served with durability {meta.durability!r}, not {durability!r}; "
            "open it without naming one, which read_only=True does not change"
        )
    try:
        epoch = EpochWord(directory, writable=False)
    except FileNotFoundError:  # a copy that was never served
        epoch = NoEpoch()
    segment = Segment.create(max_bytes or meta.max_bytes, random_bits(64))
    try:
        writer = Writer(segment)
        reclaimer, disk = Reclaimer(writer, list), UnchangedDisk(directory)
        history = History(meta.history_ms, segment, reclaimer, now_us, time.monotonic)
        history.load(disk, meta.store_id)
        recover(disk, writer, reclaimer, meta)
        history.begin(segment.words[W_PUBLISHED], None)
        segment.words[W_GENERATION] = epoch.generation
        welcome = Welcome(meta.durability, epoch.generation, meta.store_id or b"", *_descriptors(segment))
    finally:
        segment.close_descriptor()
    return StoreAtRest(
        *(welcome, epoch, lambda: check_segment(segment, segment.words[W_PUBLISHED], writer), history.answer)
    )


def _descriptors(segment: Segment) -> tuple[int, int, int, int]:
    """Descriptors as a coordinator hands them out, with pipes whose other ends are closed: nobody answers."""
    request_read, request_write = descriptors.pipe()
    os.close(request_read)
    made = descriptors.owned(request_write)
    try:
        answer_read, answer_write = descriptors.pipe()
        os.close(answer_write)
        made.append(answer_read)
        segment_fd = segment.read_only_fd()
        made.append(segment_fd)
        return segment_fd, snapshots.new_page(), request_write, answer_read
    except BaseException:  # no descriptor is left
        descriptors.close_all(made)
        raise
