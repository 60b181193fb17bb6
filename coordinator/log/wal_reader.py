"""Reads the write-ahead log back, and decides what its end is.

Where the next record should be and is not, the log ends, unless something proves that it went on:
- a whole record or file head further on, written in the same boot (within a boot nothing is torn before it), or
- one that says the missing version had reached the disk.
Then an acknowledged commit is damaged, and that is CorruptionError, never a shorter log. Without proof it is a tail
that a power cut tore: it was never promised, and it is cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from shoal.coordinator.log import wal_format
from shoal.coordinator.log.wal_format import FILE_HEAD_BYTES, FileHead, Record
from shoal.shm.errors import CorruptionError
from shoal.shm.storage import Storage

_NAME_PREFIX, _NAME_SUFFIX = "wal-", ".log"


class _File(NamedTuple):
    name: str
    number: int
    head: FileHead | None
    data: bytes


class WalReader:
    """The log of a store at rest, from the first version a checkpoint lacks."""

    def __init__(self, storage: Storage, after_version: int) -> None:
        self._storage = storage
        self._boot_id = wal_format.boot_id()
        self.last_version = after_version
        self.next_number = 1
        self._files = self._load(after_version)
        self.first_versions = {f.number: f.head.first_version for f in self._files if f.head is not None}

    def records(self) -> Iterator[Record]:
        """Every record after the checkpoint, in order; cuts a torn tail when it comes to it."""
        for i, file in enumerate(self._files):
            if file.head is None:
                self._end(i, 0, "a log file's head")
                return
            if file.head.first_version > self.last_version + 1:
                self._missing(file.name, FILE_HEAD_BYTES, file.head.first_version)
            offset = FILE_HEAD_BYTES
            while (found := wal_format.decode_record(file.data, offset)) is not None:
                record, following = found
                if record.version > self.last_version + 1:
                    self._missing(file.name, offset, record.version)
                if record.version == self.last_version + 1 and not record.is_close_mark:
                    self.last_version = record.version
                    yield record
                offset = following
            if i + 1 < len(self._files) and self._continues(i + 1):
                continue
            self._end(i, offset, f"the record of version {self.last_version + 1}")
            return

    def unsynced(self) -> list[str]:
        """Files whose content no later file declares to be on disk."""
        names = []
        for file, following in itertools.zip_longest(self._files, self._files[1:]):
            head = following.head if following is not None else None
            if head is None or head.synced_version + 1 < head.first_version:
                names.append(file.name)
        return names

    def _load(self, after_version: int) -> list[_File]:
        files = []
        for name in self._storage.list():
            if name.startswith(_NAME_PREFIX) and name.endswith(_NAME_SUFFIX):
                data = self._storage.read(name)
                number = int(name[len(_NAME_PREFIX) : -len(_NAME_SUFFIX)])
                self.next_number = max(self.next_number, number + 1)
                files.append(_File(name, number, wal_format.decode_file_head(data), data))
        files.sort(key=lambda file: file.number)
        while files and not files[-1].data.strip(b"\0"):  # reserved ahead and never used
            self._storage.remove(files.pop().name)
        # Files before the last that begins at or below the checkpoint hold nothing it lacks.
        first = max(
            (i for i, f in enumerate(files) if f.head is not None and f.head.first_version <= after_version + 1),
            default=0,
        )
        for file in files[:first]:
            self._storage.remove(file.name)
        return files[first:]

    def _continues(self, i: int) -> bool:
        head = self._files[i].head
        return head is not None and head.first_version <= self.last_version + 1

    def _end(self, i: int, offset: int, expected: str) -> None:
        """End the log at ``offset`` of file ``i``, or raise CorruptionError if it went on."""
        file = self._files[i]
        next_version = self.last_version + 1
        rest = [(file, offset + 1 if file.head is not None else FILE_HEAD_BYTES)]
        rest += [(later, FILE_HEAD_BYTES) for later in self._files[i + 1 :]]
        for later, start in rest:
            head = later.head
            if later is not file and head is not None and head.proves(next_version, self._boot_id):
                self._damaged(file, offset, expected)
            while (found := wal_format.find_record(later.data, start)) is not None:
                record, place = found
                if record.version >= next_version and record.proves(next_version, self._boot_id):
                    self._damaged(file, offset, expected)
                start = place + 8
        for later in reversed(self._files[i + 1 :]):
            self._storage.remove(later.name)
        if file.head is None:
            self._storage.remove(file.name)
        elif offset < len(file.data):
            # What is torn goes, and so does the room reserved for what was never written.
            self._storage.truncate(file.name, offset)
        self._storage.sync_directory()
        self._files = self._files[: i + 1] if file.head is not None else self._files[:i]
        self.first_versions = {f.number: f.head.first_version for f in self._files if f.head is not None}

    def _missing(self, name: str, offset: int, found: int) -> None:
        raise CorruptionError(name, offset, f"version {self.last_version + 1}", f"version {found}")

    def _damaged(self, file: _File, offset: int, expected: str) -> None:
        found = file.data[offset : offset + 16].hex() or "the end of the file"
        raise CorruptionError(file.name, offset, expected, f"{found}, and acknowledged commits after it")
