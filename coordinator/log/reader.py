"""Reads the write-ahead log back, and decides what its end is.

Where the next record should be and is not, the log ends, unless something proves that it went on:
- a whole record or file head further on, written in the same boot (within a boot nothing is torn before it), or
- one that says the missing version had reached the disk.
Then an acknowledged commit is damaged, and that is CorruptionError, never a shorter log. Without proof it is a tail
that a power cut tore: it was never promised, and it is cut.

A file is what its name says: its head repeats the number, and names the store. Nothing is cut or removed before the
whole log is verified.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log.format import FIRST_VERSION_OFFSET, NUMBER_OFFSET, FileHead, Record
from shoal.shm import codec
from shoal.shm.errors import CorruptionError
from shoal.shm.files import store_files
from shoal.shm.files.storage import Storage
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.request import FlatWrites

_NAME_PREFIX, _NAME_SUFFIX = "wal-", ".log"


class _OneFile:
    """The content of the log file that was asked for last: one at a time is in memory."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._name = ""
        self._data = b""

    def read(self, name: str) -> bytes:
        if name != self._name:
            self._data = b""  # before the next one is read
            self._name, self._data = name, self._storage.read(name)
        return self._data


class File:
    """A log file as it was found; without a head if that is not whole."""

    def __init__(self, name: str, number: int, content: _OneFile, head: FileHead | None) -> None:
        self.name = name
        self.number = number
        self.head = head
        self._content = content

    @property
    def data(self) -> bytes:
        """All of it. Whoever needs it more than once in a row keeps it."""
        return self._content.read(self.name)

    @property
    def records_begin(self) -> int:
        """Where its first record stands, or would."""
        return self.head.size_bytes if self.head is not None else wal_format.records_begin(None, self.data)

    @property
    def is_unused(self) -> bool:
        """Whether it was reserved ahead and never written to."""
        return self.head is None and not self.data.strip(b"\0")


class Placed(NamedTuple):
    """A record and where it stands."""

    file: str
    offset: int
    record: Record


class Commit(NamedTuple):
    """What a record says was done."""

    version: int
    client_id: int
    commit_id: int
    writes: FlatWrites
    clears: list[tuple[bytes, bytes]]
    results: list[Any]
    joint: list[list[Any]]  # of joined commits the outcome of each: client id, commit id, results
    body_bytes: int


def number_of(name: str) -> int | None:
    """The number in a log file's name, None for any other name."""
    digits = name[len(_NAME_PREFIX) : -len(_NAME_SUFFIX)]
    if digits.isascii() and digits.isdecimal() and name == wal_format.file_name(int(digits)):
        return int(digits)
    return None


def read_files(storage: Storage) -> list[File]:
    """All log files, by number."""
    numbers = sorted((number, name) for name in storage.list() if (number := number_of(name)) is not None)
    content = _OneFile(storage)
    heads = [wal_format.decode_file_head(storage.read_at(name, 0, wal_format.FILE_HEAD_BYTES)) for _, name in numbers]
    return [File(name, number, content, head) for (number, name), head in zip(numbers, heads, strict=True)]


def stated_id(files: list[File]) -> bytes | None:
    """The store's id as the first file says that has one."""
    return next((file.head.store_id for file in files if file.head is not None and file.head.store_id), None)


def without_unused(files: list[File]) -> list[File]:
    """All but those at the end that were reserved ahead and never written to."""
    used = len(files)
    while used and files[used - 1].is_unused:
        used -= 1
    return files[:used]


def needed(files: list[File], after_version: int) -> list[File]:
    """All but those before the last that begins at or below the checkpoint: they hold nothing it lacks."""
    begin = (i for i, f in enumerate(files) if f.head is not None and f.head.first_version <= after_version + 1)
    return files[max(begin, default=0) :]


def misplaced(file: File, before: File | None, store_id: bytes | None) -> CorruptionError | None:
    """What is wrong with a file of another store, or not the one its name says, or older than the one before it.

    None if nothing is. Such a file would pass for the newest and have those before it taken for obsolete.
    ``store_id`` is None if it is not known.
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
        expected = f"format {wal_format.FORMAT_VERSION}, that of {before.name}"
        return CorruptionError(file.name, wal_format.FORMAT_OFFSET, expected, "format 1, which names no store")
    if before is not None and before.head is not None and before.head.first_version > head.first_version:
        expected = f"version {before.head.first_version} or later, with which {before.name} begins"
        return CorruptionError(file.name, FIRST_VERSION_OFFSET, expected, f"version {head.first_version}")
    return None


def missing(files: list[File], log_number: int) -> CorruptionError | None:
    """What is wrong if the newest file, as ``store.json`` names it, is not there; None if it is, or none is named."""
    if not log_number or any(file.number == log_number for file in files):
        return None
    expected = f"the newest log file, as {store_files.META_FILE} names it"
    return CorruptionError(wal_format.file_name(log_number), 0, expected, "no file")


def goes_on(files: Sequence[File], offset: int, next_version: int, boot_id: int) -> bool:
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
            start += 8
    return False


def read_commit(placed: Placed) -> Commit:
    """What a record says was done; CorruptionError if it says something else, its checksum notwithstanding."""
    record = placed.record
    body_bytes = len(record.mutations) + len(record.decided)
    results: list[Any] = []
    joint: list[list[Any]] = []
    try:
        writes, clears, _, _ = wire_request.decode_mutations(record.mutations)
        if record.decided:
            decided, results, *joints = codec.decode(record.decided)
            wire_request.decode_mutations(
                codec.pack([decided, None, None, None])
            )  # the same rules as for what was sent
            writes = writes + decided
            joint = [outcome for outcomes in joints for outcome in outcomes]
            if type(results) is not list or not all(_is_outcome(outcome) for outcome in joint):
                raise ValueError("outcomes are not client, commit and results")
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        expected = f"the commit set of version {record.version}"
        raise CorruptionError(placed.file, placed.offset, expected, str(error) or type(error).__name__) from error
    return Commit(record.version, record.client_id, record.commit_id, writes, clears, results, joint, body_bytes)


def _is_outcome(outcome: Any) -> bool:
    return (
        type(outcome) is list
        and [type(part) for part in outcome] == [int, int, list]
        and all(0 <= number < 1 << 64 for number in outcome[:2])
    )


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
        self._synced_version = 0  # the newest that anything in the log says was on disk
        self._unsynced: deque[tuple[int, str, int]] = deque()  # records behind it: version, file, offset
        self._files = self._load(after_version)
        self.first_versions = {f.number: f.head.first_version for f in self._files if f.head is not None}

    def records(self) -> Iterator[Commit]:
        """What every record says after the checkpoint, in order; cuts a torn tail when it comes to it."""
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
            while (found := wal_format.decode_record(data, offset)) is not None:
                record, following = found
                if record.version + record.is_close_mark != expected:
                    self._wrong(file.name, offset, expected - record.is_close_mark, record.version)
                self._note(file, offset, record)
                if not record.is_close_mark:
                    expected += 1
                    if record.version > self.last_version:
                        self.last_version = record.version
                        yield read_commit(Placed(file.name, offset, record))
                offset = following
            del data  # before the next file is read
            if i + 1 < len(self._files) and self._continues(i + 1):
                continue
            self._end(i, offset, f"the record of version {expected}")
            return
        self._remove_obsolete()

    def unsynced(self) -> list[tuple[str, int]]:
        """Files whose content no later file declares to be on disk, and from where on nothing says that it is."""
        first: dict[str, int] = {}
        for _, name, offset in self._unsynced:
            first.setdefault(name, offset)
        places = []
        for file, following in itertools.zip_longest(self._files, self._files[1:]):
            head = following.head if following is not None else None
            # What a following head says of versions says nothing of a file without any: its first record was too long.
            begins = 0 if file.head is None else file.head.first_version
            if head is None or head.synced_version + 1 < head.first_version or begins > head.synced_version:
                is_new = file.head is None or file.head.first_version > self._synced_version
                places.append((file.name, 0 if is_new else first.get(file.name, len(file.data))))
        return places

    def _note(self, file: File, offset: int, record: Record) -> None:
        self._synced_version = max(self._synced_version, record.synced_version)
        self._unsynced.append((record.version, file.name, offset))
        while self._unsynced and self._unsynced[0][0] <= self._synced_version:
            self._unsynced.popleft()

    def _load(self, after_version: int) -> list[File]:
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
                file, offset, expected = following, 0, "a log file's head"  # all of the one before it is there
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
            # What is torn goes, and so does the room reserved for what was never written.
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
