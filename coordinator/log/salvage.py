"""Reads a log past its damage and changes nothing: what ``shoal check`` lists and ``shoal repair`` saves.

``format`` and ``reader`` decide, as for recovery, what a whole record is, what must follow what, and what may be a torn
tail. Where recovery stops with CorruptionError, this notes a finding and reads on behind the damage.

For each version the first whole record counts, in the order of the files. Files that are not what their names say come
last, and commits that only they have are ``doubtful``. Files that name another store are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log import reader as wal_reader
from shoal.coordinator.log.format import ALIGNMENT_BYTES, FIRST_VERSION_OFFSET, LoggedCommit
from shoal.coordinator.log.reader import FoundLogFile, PlacedRecord
from shoal.shm.errors import CorruptionError

_SHOWN_BYTES = 16
_A_HEAD = "a log file's head"


class Finding(NamedTuple):
    """A place with other bytes than shoal wrote, and how many bytes were passed over because of it."""

    file: str
    offset: int
    expected: str
    found: str
    passed_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.file} at byte {self.offset}: expected {self.expected}, found {self.found}"


def finding_of(error: CorruptionError, passed_bytes: int = 0) -> Finding:
    """An error as a finding."""
    return Finding(error.file, error.offset, error.expected, error.found, passed_bytes)


class LogSurvey:
    """All of a log after ``after_version``, which a checkpoint holds.

    ``acknowledged`` is a version that is known to have been committed, 0 if none is; ``store_id`` is None if unknown.
    ``progress`` is told how many bytes have been read.
    """

    def __init__(
        self,
        files: list[FoundLogFile],
        after_version: int,
        acknowledged: int,
        store_id: bytes | None,
        progress: Callable[[int], object],
    ) -> None:
        self.findings: list[Finding] = []
        # The torn tail that a kill or a power cut left. It is no finding: the next open cuts it.
        self.unfinished: Finding | None = None
        self.newest = 0  # the newest version in any record or head
        self.doubtful: set[int] = set()
        self._places: dict[int, tuple[FoundLogFile, int]] = {}
        self._after = after_version
        self._acknowledged = acknowledged
        self._boot_id = wal_format.boot_id()
        self._due = 0  # the version of the next record, as far as known
        self._end: tuple[int, int] | None = None  # the file and the offset where the last whole record ended
        own, strangers = self._sort_out(files, store_id or wal_reader.stated_id(files))
        self._files = wal_reader.needed(wal_reader.without_unused(own), after_version)
        for i, file in enumerate(self._files):
            if not self._read_file(i):
                break
            progress(len(file.data))
        if self.unfinished is None and self._version_due() <= acknowledged:
            self._note(*self._end_place(), self._record_due(), "the end of the log")
        for file in strangers:
            self._read_stranger(file)
            progress(len(file.data))

    def __contains__(self, version: int) -> bool:
        return version in self._places

    def versions(self) -> list[int]:
        """The commits after the checkpoint that can be read, in order."""
        return sorted(self._places)

    def commit(self, version: int) -> LoggedCommit:
        """The commit at ``version``, which must be one of ``versions``."""
        file, offset = self._places[version]
        found = wal_format.decode_record(file.data, offset)
        assert found is not None
        return wal_reader.read_commit(file.name, offset, found[0], file.format_version)

    def _sort_out(
        self, files: list[FoundLogFile], store_id: bytes | None
    ) -> tuple[list[FoundLogFile], list[FoundLogFile]]:
        """The files that belong where they stand, and the other files of this store."""
        own: list[FoundLogFile] = []
        strangers = []
        for file in files:
            error = wal_reader.misplaced(file, own[-1] if own else None, store_id)
            if error is None:
                own.append(file)
                continue
            self.findings.append(finding_of(error))
            if error.offset != wal_format.STORE_ID_OFFSET:
                strangers.append(file)
        return own, strangers

    def _read_file(self, i: int) -> bool:
        """Read one file; False if the log ends in it."""
        file = self._files[i]
        if file.head is None:
            found = _shown(file.data, 0)
            if not self._is_proven(i, 0):
                self.unfinished = Finding(file.name, 0, _A_HEAD, found, len(file.data.rstrip(b"\0")))
                return False
            self._note(file.name, 0, _A_HEAD, found, min(len(file.data), file.records_begin))
        else:
            first_version = file.head.first_version
            self.newest = max(self.newest, first_version - 1, file.head.synced_version)
            if first_version != self._due and not self._begins_elsewhere(i, first_version):
                return False
            self._due = first_version
        offset = file.records_begin
        closed = False
        while True:
            found_record = wal_format.decode_record(file.data, offset)
            if found_record is not None:
                record, following = found_record
                closed = record.is_close_mark
                self._read_record(file, file.placed(offset, record), following)
                offset = following
                continue
            self._end = i, offset
            if not file.data[offset:].strip(b"\0"):
                return True
            next_offset = self._pass_over(i, offset, closed)
            if next_offset is None:
                return self.unfinished is None
            offset = next_offset

    def _begins_elsewhere(self, i: int, first_version: int) -> bool:
        """Note that a file does not begin with the version that is due; False if the log has ended before it."""
        due = self._version_due()
        if first_version > due:
            place, found = self._end_place(i), f"version {first_version} next, in {self._files[i].name}"
            if self._end is not None and not self._is_proven(*self._end):
                self.unfinished = Finding(*place, self._record_due(), found)
                return False
            self._note(*place, self._record_due(), found)
        elif self._due:
            self._note(self._files[i].name, FIRST_VERSION_OFFSET, f"version {self._due}", f"version {first_version}")
        return True

    def _read_record(self, file: FoundLogFile, placed: PlacedRecord, following: int) -> None:
        record = placed.record
        marks = int(record.is_close_mark)
        if self._due and record.version + marks != self._due:
            self._note(file.name, placed.offset, f"version {self._due - marks}", f"version {record.version}")
        self._due = record.version + 1
        self.newest = max(self.newest, record.version, record.synced_version)
        if not marks:
            self._take(file, placed)
        end = placed.offset + wal_format.record_bytes(record)
        if file.data[end:following].strip(b"\0"):
            self._note_no_zeros(file, end, following, "the next record")

    def _take(self, file: FoundLogFile, placed: PlacedRecord) -> bool:
        version = placed.record.version
        if version <= self._after or version in self._places:
            return False
        try:
            wal_reader.read_commit(*placed)
        except CorruptionError as error:
            self.findings.append(finding_of(error, wal_format.record_bytes(placed.record)))
            return False
        self._places[version] = file, placed.offset
        return True

    def _pass_over(self, i: int, offset: int, closed: bool) -> int | None:
        """Note bytes that are no record; where the next whole record of the file stands, None if there is none."""
        file = self._files[i]
        following = _next_record(file.data, offset)
        expected, found = self._record_due(), _shown(file.data, offset)
        end = len(file.data.rstrip(b"\0"))
        if closed or self._begins_with_due(i + 1):  # the file ends here, whatever else is in it
            self._note_no_zeros(file, offset, end, "the end of the file")
            return None
        if not self._is_proven(i, offset):
            self.unfinished = Finding(file.name, offset, expected, found, end - offset)
            return None
        self._note(file.name, offset, expected, found, (end if following is None else following) - offset)
        if following is not None:
            self._due = 0  # the gap is noted already
        return following

    def _begins_with_due(self, i: int) -> bool:
        head = self._files[i].head if i < len(self._files) else None
        return head is not None and head.first_version == self._due

    def _is_proven(self, i: int, offset: int) -> bool:
        """Whether the version that is due at ``offset`` of file ``i`` was committed."""
        due = self._version_due()
        return due <= self._acknowledged or wal_reader.goes_on(self._files[i:], offset, due, self._boot_id)

    def _version_due(self) -> int:
        """The next version that is needed; versions that the checkpoint has are not."""
        return max(self._due, self._after + 1)

    def _record_due(self) -> str:
        return f"the record of version {self._due or self._after + 1}"

    def _end_place(self, before: int = 0) -> tuple[str, int]:
        if self._end is not None:
            i, offset = self._end
            return self._files[i].name, offset
        name = self._files[before].name if self._files else wal_format.file_name(1)
        return name, FIRST_VERSION_OFFSET

    def _read_stranger(self, file: FoundLogFile) -> None:
        """Take the commits that no other file has from a file that is not what its name says."""
        place = file.records_begin
        while (found := wal_format.find_record(file.data, place)) is not None:
            record, place = found
            if not record.is_close_mark and self._take(file, file.placed(place, record)):
                self.doubtful.add(record.version)
                self.newest = max(self.newest, record.version)
            place += wal_format.record_bytes(record)

    def _note_no_zeros(self, file: FoundLogFile, offset: int, end: int, until: str) -> None:
        offset = end - len(file.data[offset:end].lstrip(b"\0"))
        self._note(file.name, offset, f"zeros up to {until}", _shown(file.data[:end], offset), end - offset)

    def _note(self, file: str, offset: int, expected: str, found: str, passed_bytes: int = 0) -> None:
        self.findings.append(Finding(file, offset, expected, found, passed_bytes))


def _next_record(data: bytes, offset: int) -> int | None:
    """Where the next whole record stands behind ``offset``, at which there is none.

    First it looks where the broken record says that it ends: a user's value may contain a log file of shoal.
    """
    end = wal_format.stated_end(data, offset)
    if end is not None and wal_format.decode_record(data, end) is not None:
        return end
    found = wal_format.find_record(data, offset + ALIGNMENT_BYTES)
    return None if found is None else found[1]


def _shown(data: bytes, offset: int) -> str:
    return data[offset : offset + _SHOWN_BYTES].hex() or "the end of the file"
