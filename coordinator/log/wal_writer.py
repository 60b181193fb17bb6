"""Appends to the write-ahead log. One writer, the coordinator.

- A record is whole in one file. It is written through a mapping: from then on it survives every process.
- ``reserve`` comes before anything is applied. It keeps one empty file ready, so that a full disk is noticed while
  there is still room for deletes, which may use that file.
- ``sync`` may run in another thread: it takes note of what was written when it began, and only when the disk has
  confirmed that does ``synced_version`` move. An error is final: the kernel may have dropped the pages it could not
  write, and a second sync would report success for them.
"""

from __future__ import annotations

import contextlib
import itertools
import threading

from shoal.coordinator.log import wal_format
from shoal.coordinator.log.wal_format import FILE_HEAD_BYTES, FileHead
from shoal.shm.errors import StoreFullError
from shoal.shm.limits import LOG_FILE_BYTES
from shoal.shm.storage import LogFile, Storage

_RECORD_OVERHEAD = wal_format.RECORD_HEAD_BYTES + 16


class WalWriter:
    """The tail of the log."""

    def __init__(self, storage: Storage, next_number: int, last_version: int, store_id: bytes) -> None:
        self._storage = storage
        self._store_id = store_id
        self._next_number = next_number
        self.boot_id = wal_format.boot_id()
        self._spare: tuple[int, LogFile] | None = None
        self._lock = threading.Lock()  # guards _unsynced and the closing of files against sync()
        self._unsynced: list[LogFile] = []
        self._sync_turn = threading.Lock()  # one sync at a time
        self.last_version = last_version
        self.synced_version = last_version
        self.failed: OSError | None = None
        self.bytes_written = 0
        self.first_versions: dict[int, int] = {}  # number of a file -> first version in it
        self._file: LogFile
        self._position = 0
        self._new_spare(LOG_FILE_BYTES)
        self._rotate()

    def has_room(self, body_bytes: int) -> bool:
        """Whether a record of that size can be appended as things are, and another file is ready after it."""
        return self._position + body_bytes + _RECORD_OVERHEAD <= self._file.size and self._spare is not None

    def reserve(self, body_bytes: int, only_deletes: bool) -> None:
        """Make sure a record of that size can be appended, or raise StoreFullError."""
        needed = body_bytes + _RECORD_OVERHEAD
        fits = self._position + needed <= self._file.size
        if fits and (self._spare is not None or only_deletes):
            return
        size = max(LOG_FILE_BYTES, needed + FILE_HEAD_BYTES)
        if self._spare is not None and self._spare[1].size < size:
            self._drop_spare()
        if self._spare is None:
            self._new_spare(size)
        if not fits and not only_deletes:
            # This record takes the spare; a commit that adds data leaves another one behind it.
            self._rotate()
            self._new_spare(LOG_FILE_BYTES)

    def append(self, version: int, client_id: int, commit_id: int, effects: bytes, decided: bytes) -> None:
        """Write a record that ``reserve`` made room for."""
        raw = wal_format.encode_record(
            version, self.synced_version, self.boot_id, client_id, commit_id, effects, decided
        )
        position = self._position
        if position + len(raw) > self._file.size:
            self._rotate()
            position = self._position
        self._file.write(position, raw)
        self._position = position + len(raw)
        self.bytes_written += len(raw)
        self.last_version = version

    def prepare(self) -> None:
        """Make the next file ready ahead of need; a full disk shows when a commit needs it."""
        if self._spare is None:
            try:
                self._new_spare(LOG_FILE_BYTES)
            except StoreFullError:
                return

    def sync(self) -> None:
        """Return when everything appended before the call is on disk. Raises OSError, once and for all."""
        with self._sync_turn:
            if self.failed is not None:
                raise self.failed
            with self._lock:
                files, version = list(self._unsynced), self.last_version
                finished = files[:-1]
            try:
                for file in files:
                    file.sync()
            except OSError as error:
                self.failed = error
                raise
            with self._lock:
                for file in finished:
                    self._unsynced.remove(file)
                    file.close()
            self.synced_version = version

    def close(self) -> None:
        """Put everything on disk, with a mark that says so."""
        self.sync()
        self.append(self.last_version, 0, 0, b"", b"")
        self.sync()
        self._drop_spare()
        for file in self._unsynced:
            file.close()

    def discard(self) -> None:
        """Remove the files of a log that nothing was appended to: the store is not served after all."""
        self._drop_spare()
        self._file.close()
        self._unsynced.clear()
        self._storage.remove(wal_format.file_name(max(self.first_versions)))

    def remove_before(self, version: int) -> None:
        """Delete files that hold nothing after ``version``: a checkpoint has it all."""
        numbers = sorted(self.first_versions)
        for number, following in itertools.pairwise(numbers):
            if self.first_versions[following] > version + 1:
                break
            self._storage.remove(wal_format.file_name(number))
            del self.first_versions[number]
        self._storage.sync_directory()

    def _new_spare(self, size: int) -> None:
        name = wal_format.file_name(self._next_number)
        self._spare = (self._next_number, self._storage.create_log_file(name, size))
        self._next_number += 1

    def _drop_spare(self) -> None:
        if self._spare is not None:
            number, file = self._spare
            file.close()
            with contextlib.suppress(FileNotFoundError):  # the store's directory was deleted
                self._storage.remove(wal_format.file_name(number))
            self._spare = None

    def _rotate(self) -> None:
        assert self._spare is not None, "append without reserve"
        number, file = self._spare
        self._spare = None
        first_version = self.last_version + 1
        head = FileHead(number, first_version, self.synced_version, self.boot_id, self._store_id)
        file.write(0, wal_format.encode_file_head(head))
        self.first_versions[number] = first_version
        with self._lock:
            self._unsynced.append(file)
        self._file = file
        self._position = FILE_HEAD_BYTES
