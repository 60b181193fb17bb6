"""Reads the write-ahead log back, and decides where it ends.

Invariants:
- Nothing is cut or removed before the whole log is verified. SIGKILL at any point leaves files from which the next
  reader finds the same commits.
- The log ends where the next record is missing, unless something proves that it went on: a whole record or file head
  further on that was written in the same boot (within a boot nothing is torn before it), or one that says that the
  missing version had reached the disk. With a proof, an acknowledged commit is damaged: CorruptionError, never a
  shorter log. Without a proof, it is a tail that a power cut tore. It was never promised, and is cut.
- A file is what its name says: its head repeats the number, and names the store.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple, NoReturn

from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log.format import (
    ALIGNMENT_BYTES,
    FIRST_VERSION_OFFSET,
    NUMBER_OFFSET,
    FileHead,
    LoggedCommit,
    LogRecord,
    decode_commit,
    decode_record,
)
from shoal.shm.errors import CorruptionError
from shoal.shm.files import store_files
from shoal.shm.files.storage import Storage

# What is read at a time beside a user's program: every thread's allocator keeps larger blocks.
_PIECE_BYTES = 256 * 1024


class _OneFile:
    """The content of the log file that was read last: only one at a time is in memory."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._name = ""
        self._data = b""

    def read(self, name: str) -> bytes:
        if name != self._name:
            self._data = b""  # before the next one is read
            self._name, self._data = name, self.storage.read(name)
        return self._data


class FoundLogFile:
    """A log file as it was found; without a head if that is not whole."""

    def __init__(self, name: str, number: int, content: _OneFile, head: FileHead | None) -> None:
        self.name = name
        self.number = number
        self.head = head
        self._content = content

    @property
    def data(self) -> bytes:
        """Its whole content. A caller that needs it more than once in a row keeps it in a variable."""
        return self._content.read(self.name)

    @property
    def records_begin(self) -> int:
        """Where its first record stands, or would stand."""
        return self.head.size_bytes if self.head is not None else wal_format.records_begin(None, self.data)

    @property
    def format_version(self) -> int:
        """The format of its records; without a head the oldest: to rename keys of today changes nothing."""
        return self.head.format_version if self.head is not None else wal_format.FORMAT_WITHOUT_ID

    def placed(self, offset: int, record: LogRecord) -> PlacedRecord:
        """A record of this file, with its place."""
        return PlacedRecord(self.name, offset, record, self.format_version)

    @property
    def is_unused(self) -> bool:
        """Whether it was reserved ahead and never written to."""
        return self.head is None and not self.data.strip(b"\0")

    def records(self) -> Iterator[PlacedRecord]:
        """Its whole records up to the first place without one, if its head is whole.

        A piece of the file is in memory at a time, or one larger record. A coordinator may append meanwhile.
        """
        if self.head is None:
            return
        storage, offset, begin = self._content.storage, self.head.size_bytes, 0
        size = storage.size(self.name)  # a length that leads past it is damage
        while begin < offset:
            begin, data = offset, storage.read_at(self.name, offset, _PIECE_BYTES)
            end = begin + (wal_format.stated_end(data, 0) or 0)
            if begin + len(data) < end < size + ALIGNMENT_BYTES:
                data = storage.read_at(self.name, begin, end - begin)
            while (found := decode_record(data, offset - begin)) is not None:
                record, following = found
                yield self.placed(offset, record)
                offset = begin + following


class PlacedRecord(NamedTuple):
    """A record, the name of its file, its offset there, and the file's format."""

    file: str
    offset: int
    record: LogRecord
    format_version: int


def read_files(storage: Storage) -> list[FoundLogFile]:
    """All log files, by number."""
    numbers = sorted((number, name) for name in storage.list() if (number := wal_format.file_number(name)) is not None)
    content = _OneFile(storage)
    heads = [wal_format.decode_file_head(storage.read_at(name, 0, wal_format.FILE_HEAD_BYTES)) for _, name in numbers]
    return [FoundLogFile(name, number, content, head) for (number, name), head in zip(numbers, heads, strict=True)]


def stated_id(files: list[FoundLogFile]) -> bytes | None:
    """The id of the store in the first head that has one."""
    return next((file.head.store_id for file in files if file.head is not None and file.head.store_id), None)


def without_unused(files: list[FoundLogFile]) -> list[FoundLogFile]:
    """All files but those at the end that were reserved ahead and never written to."""
    used = len(files)
    while used and files[used - 1].is_unused:
        used -= 1
    return files[:used]


def needed(files: list[FoundLogFile], after_version: int) -> list[FoundLogFile]:
    """The last file that begins at or below the checkpoint, and all after it; earlier ones hold nothing it lacks."""
    begin = (i for i, f in enumerate(files) if f.head is not None and f.head.first_version <= after_version + 1)
    return files[max(begin, default=0) :]


def has_commits(storage: Storage, after_version: int, version: int) -> bool:
    """Whether the log files have every commit after ``after_version`` up to ``version``, as far as their records go."""
    due = 0  # the version of the next record
    for file in needed(without_unused(read_files(storage)), after_version):
        head = file.head
        if head is None or (head.first_version != due if due else head.first_version > after_version + 1):
            break
        due = head.first_version
        for _, _, record, _ in file.records():
            if due > version:
                break
            if record.version + record.is_close_mark != due:
                return False
            due = record.version + 1
        if due > version:
            return True
    return False


def misplaced(file: FoundLogFile, before: FoundLogFile | None, store_id: bytes | None) -> CorruptionError | None:
    """The error of a file that does not belong where it stands, None if it does.

    It may be of another store, not the one that its name says, or older than the file ``before`` it. Such a file could
    pass for the newest, and files before it for obsolete. ``store_id`` is None if it is not known.
    """
    head = file.head
    if head is None:
        return None
    if head.store_id is not None and store_id not in (None, head.store_id):
        return store_files.of_another_store(file.name, wal_format.STORE_ID_OFFSET, store_id, head.store_id)
    if head.number != file.number:
        expected = f"the number {file.number} of its name"
        return CorruptionError(file.name, NUMBER_OFFSET, expected, f"the head of log file {head.number}")
    if head.store_id is None and before is not None and before.head is not None and before.head.store_id is not None:
        expected = f"format {before.head.format_version}, that of {before.name}"
        return CorruptionError(file.name, wal_format.FORMAT_OFFSET, expected, "format 1, which names no store")
    if before is not None and before.head is not None and before.head.first_version > head.first_version:
        expected = f"version {before.head.first_version} or later, with which {before.name} begins"
        return CorruptionError(file.name, FIRST_VERSION_OFFSET, expected, f"version {head.first_version}")
    return None


def missing(files: list[FoundLogFile], log_number: int) -> CorruptionError | None:
    """The error if the newest file that ``store.json`` names is not there; None if it is, or if none is named (0)."""
    if not log_number or any(file.number == log_number for file in files):
        return None
    expected = f"the newest log file, as {store_files.META_FILE} names it"
    return CorruptionError(wal_format.file_name(log_number), 0, expected, "no file")


def goes_on(files: Sequence[FoundLogFile], offset: int, next_version: int, boot_id: int) -> bool:
    """Whether anything after ``offset`` of the first file proves that ``next_version`` was whole once."""
    for i, file in enumerate(files):
        if i and file.head is not None and file.head.proves(next_version, boot_id):
            return True
        start = file.records_begin if i or file.head is None else offset + 1
        data = file.data
        while (found := wal_format.find_record(data, start)) is not None:
            record, start = found
            if record.version >= next_version and record.proves(next_version, boot_id):
                return True
            start += ALIGNMENT_BYTES
    return False


def read_commit(
    file: str, offset: int, record: LogRecord, format_version: int = wal_format.FORMAT_VERSION
) -> LoggedCommit:
    """The commit in a record of ``file``; CorruptionError if its checksum is right and its content is not a commit."""
    try:
        return decode_commit(record, format_version)
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        expected = f"the commit set of version {record.version}"
        raise CorruptionError(file, offset, expected, str(error) or type(error).__name__) from error


class WalReader:
    """The log of a store at rest, from the first version a checkpoint lacks."""

    def __init__(
        self, storage: Storage, after_version: int, store_id: bytes | None = None, log_number: int = 0
    ) -> None:
        self._storage = storage
        self.store_id = store_id
        self._log_number = log_number  # of the newest file, as store.json says
        self._boot_id = wal_format.boot_id()
        self._obsolete: list[str] = []
        self.last_version = after_version
        self.next_number = 1
        self._synced_version = 0  # the newest version that the log says was on disk
        # By name of a file that has commits after that version: where each of its commits stands, in their order.
        self._offsets: dict[str, array[int]] = {}
        self._files = self._load(after_version)
        self.first_versions = {f.number: f.head.first_version for f in self._files if f.head is not None}

    def records(self) -> Iterator[LoggedCommit]:
        """The commits after the checkpoint, in order. When it comes to a torn tail, it cuts that."""
        expected = 0  # the version of the next record in the files
        for i, file in enumerate(self._files):
            if file.head is None:
                self._end(i, 0, "a log file's head")
                return
            if file.head.first_version > self.last_version + 1:
                self._wrong(file.name, FIRST_VERSION_OFFSET, self.last_version + 1, file.head.first_version)
            if i and file.head.first_version != expected:
                self._wrong(file.name, FIRST_VERSION_OFFSET, expected, file.head.first_version)
            expected = file.head.first_version
            offset, data = file.records_begin, file.data
            offsets = self._offsets[file.name] = array("Q")
            while (found := decode_record(data, offset)) is not None:
                record, following = found
                version, synced_version, is_close_mark = record.version, record.synced_version, record.is_close_mark
                if version + is_close_mark != expected:
                    self._wrong(file.name, offset, expected - is_close_mark, version)
                if synced_version > self._synced_version:
                    self._synced_version = synced_version
                if not is_close_mark:
                    expected += 1
                    offsets.append(offset)
                    if version > self.last_version:
                        self.last_version = version
                        yield read_commit(file.name, offset, record, file.format_version)
                offset = following
            del data  # before the next file is read
            if self._synced_version + 1 >= expected:
                self._offsets.clear()
            if i + 1 < len(self._files) and self._continues(i + 1):
                continue
            self._end(i, offset, f"the record of version {expected}")
            return
        self._remove_obsolete()

    def unsynced(self) -> list[tuple[str, int]]:
        """Files of which no later file says that they are on disk, and from which offset on nothing says so."""
        places = []
        for file, following in itertools.zip_longest(self._files, self._files[1:]):
            head = following.head if following is not None else None
            # The versions in the next head say nothing of a file that has none: its first record was too long for it.
            begins = 0 if file.head is None else file.head.first_version
            if head is None or head.synced_version + 1 < head.first_version or begins > head.synced_version:
                places.append((file.name, self._unsynced_from(file)))
        return places

    def _unsynced_from(self, file: FoundLogFile) -> int:
        if file.head is None or file.head.first_version > self._synced_version:
            return 0
        offsets = self._offsets.get(file.name, ())
        synced = self._synced_version + 1 - file.head.first_version  # so many commits of the file
        return offsets[synced] if synced < len(offsets) else len(file.data)

    def _load(self, after_version: int) -> list[FoundLogFile]:
        files = read_files(self._storage)
        self.next_number = files[-1].number + 1 if files else 1
        self.store_id = self.store_id or stated_id(files)
        for before, file in zip([None, *files], files, strict=False):
            error = misplaced(file, before, self.store_id)
            if error is not None:
                raise error
        error = missing(files, self._log_number)
        if error is not None:
            raise error
        used = without_unused(files)
        kept = needed(used, after_version)
        # What store.json names stays, though a checkpoint has it all: a full disk has kept it from naming a newer one.
        stays = {file.name for file in used if file in kept or file.number == self._log_number}
        self._obsolete = [file.name for file in files if file.name not in stays]
        self._stays = {file.number for file in used if file.name in stays}
        return kept

    def _continues(self, i: int) -> bool:
        head = self._files[i].head
        return head is not None and head.first_version <= self.last_version + 1

    def _end(self, i: int, offset: int, expected: str) -> None:
        """End the log at ``offset`` of file ``i``, or raise CorruptionError if it went on."""
        file = self._files[i]
        if goes_on(self._files[i:], offset, self.last_version + 1, self._boot_id):
            following = self._files[i + 1] if i + 1 < len(self._files) else None
            if following is not None and following.head is None and not file.data[offset:].strip(b"\0"):
                file, offset, expected = following, 0, "a log file's head"  # the file before it is whole
            found = file.data[offset : offset + 16].hex() or "the end of the file"
            raise CorruptionError(file.name, offset, expected, f"{found}, and acknowledged commits after it")
        kept = self._files[: i + 1] if file.head is not None else self._files[:i]
        self._stays -= {later.number for later in self._files if later not in kept}
        self._remove_obsolete()
        for later in reversed(self._files[i + 1 :]):
            self._storage.remove(later.name)
        if file.head is None:
            self._storage.remove(file.name)
        elif offset < len(file.data):
            # What is torn goes, and so does the unused room behind it.
            self._storage.truncate(file.name, offset)
        self._storage.sync_directory()
        self._files = kept
        self.first_versions = {f.number: f.head.first_version for f in self._files if f.head is not None}

    def _remove_obsolete(self) -> None:
        """Before that, ``store.json`` no longer names a file that goes: a kill in between is no missing file."""
        if self._log_number and self._log_number not in self._stays:
            self._log_number = max(self._stays, default=0)
            store_files.state_log(self._storage, self._log_number)
        for name in self._obsolete:
            self._storage.remove(name)
        self._obsolete.clear()

    def _wrong(self, name: str, offset: int, expected: int, found: int) -> NoReturn:
        raise CorruptionError(name, offset, f"version {expected}", f"version {found}")
