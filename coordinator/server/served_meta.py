"""``store.json`` of the store that a coordinator serves: written when it begins, and for every new file of the log.

Invariants:
- A new file of the log is on disk before ``store.json`` names it, and named before the first commit is written to it.
  So the next coordinator notices if somebody removed the file, and never looks for a file that was not there. A full
  disk delays the naming until there is room; the file named before stays meanwhile.
- Only the coordinator that serves the store writes ``store.json``, whole and durably: after SIGKILL it is the old one
  or the new one. If somebody removed it, it is made again. If it names another store, that store's files were put in
  the place of this one's: the coordinator ends at once, as by SIGKILL, and leaves them alone.
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

from shoal.coordinator.host import THIS_MACHINE, Host
from shoal.coordinator.missing_file import MissingFile
from shoal.shm.errors import StoreFullError
from shoal.shm.files import store_files
from shoal.shm.files.storage import Storage
from shoal.shm.files.store_files import StoreMeta


class ServedMeta:
    """What ``store.json`` says while the store is served."""

    def __init__(self, storage: Storage, directory: Path, meta: StoreMeta, host: Host = THIS_MACHINE) -> None:
        self._host = host
        self._storage = storage
        self._directory = directory
        self._missing = MissingFile(directory / store_files.META_FILE)
        self._meta = meta
        self._seen: tuple[int, int] | None = None  # device and inode of the file at the last look

    def begin(self, log_number: int) -> None:
        """Write how the store is served from now on, and the newest log file; ``log_number`` 0 if none was begun.

        If only the log file is new and the disk is full, the file named before stays, and the log names it later.
        """
        last = self._host.read_meta(self._directory)
        before = 0 if last is None else last.log_number
        self._meta = self._meta._replace(log_number=before)
        if log_number and self._meta == last:
            with contextlib.suppress(StoreFullError):
                self.name_log(log_number)
        elif log_number or self._meta != last:
            self.name_log(log_number or before)

    def name_log(self, number: int) -> None:
        """Write durably which log file is the newest. After StoreFullError the old content stays."""
        meta = self._meta._replace(log_number=number)
        self._storage.replace(store_files.META_FILE, store_files.encode_meta(meta))
        self._meta = meta

    @property
    def log_number(self) -> int:
        """The log file that is named as the newest."""
        return self._meta.log_number

    def keep(self, now_s: float) -> None:
        """Make the file again if it was removed; raise OSError if it is another store's."""
        found = self._host.identity(self._directory / store_files.META_FILE)
        if found is not None and found != self._seen:
            last = self._host.read_meta(self._directory)
            if last is not None and last.store_id != self._meta.store_id:
                raise OSError(errno.ESTALE, f"{store_files.META_FILE} was replaced by that of another store")
        self._seen = found
        if self._missing.is_due(now_s):
            # No descriptor or no room on the disk: the next look tries again.
            with contextlib.suppress(OSError, StoreFullError):
                self.name_log(self._meta.log_number)
