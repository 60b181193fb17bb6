"""How large the files of the log are, and what fits into one."""

from __future__ import annotations

from shoal.coordinator.log.format import CLOSE_MARK_BYTES, FILE_HEAD_BYTES
from shoal.shm.files.storage import Storage
from shoal.shm.limits import LEAST_LOG_FILE_BYTES, LOG_FILES_PER_DISK


def usual_file_bytes(storage: Storage, size: int) -> int:
    """The size of log files on this disk: ``size``, or less so that even a small disk takes many."""
    total_bytes = storage.space().total_bytes
    while size > LEAST_LOG_FILE_BYTES and size * LOG_FILES_PER_DISK > total_bytes:
        size //= 2
    return size


def holds(file_bytes: int, needed: int) -> bool:
    """Whether an empty file of ``file_bytes`` takes a record of ``needed`` bytes."""
    return FILE_HEAD_BYTES + needed + CLOSE_MARK_BYTES <= file_bytes
