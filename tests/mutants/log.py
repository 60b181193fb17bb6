"""Faults in what is written to the log, when it reaches the disk, and what is believed when it is read back."""

from __future__ import annotations

from typing import Any

from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log import reader
from shoal.coordinator.log.format import FileHead, LogRecord
from shoal.coordinator.log.reader import WalReader
from shoal.coordinator.log.writer import WalWriter
from tests.mutants.registry import Patch, mutant

_LATE_RECORDS = 40


@mutant("log", "acknowledged_after_kill", "transactions_after_deaths")
def answer_before_log(patch: Patch) -> None:
    """Commits are answered while their records wait in the coordinator's memory."""
    waiting = "records_not_written"

    def append(self: WalWriter, *record: Any) -> None:
        late = vars(self).setdefault(waiting, [])
        late.append(record)
        if len(late) >= _LATE_RECORDS:
            for each in late:
                sound(self, *each)
            late.clear()

    sound = patch.set(WalWriter, "append", append)


@mutant("log", "failed_sync")
def skip_sync_in_strict(patch: Patch) -> None:
    """A strict store answers without waiting for the disk."""

    def begin(self: CommitEngine, *arguments: Any, **options: Any) -> None:
        sound(self, *arguments, **options)
        self._sync_each_group = False

    sound = patch.set(CommitEngine, "__init__", begin)


@mutant("log", "failed_sync")
def ignore_failed_sync(patch: Patch) -> None:
    """A sync that failed is taken for one that succeeded."""

    def sync(self: WalWriter) -> None:
        version = self.last_version
        try:
            sound(self)
        except OSError:
            self.failed = None
            self.synced_version = version

    sound = patch.set(WalWriter, "sync", sync)


@mutant("log", "acknowledged_after_power_cut")
def sync_forgets_the_file_before(patch: Patch) -> None:
    """After a rotation only the new file is synced; what the old one had last is declared to be on disk."""

    def rotate(self: WalWriter, *needed: int) -> None:
        sound(self, *needed)
        del self._unsynced[:-1]

    sound = patch.set(WalWriter, "_rotate", rotate)


@mutant("log", "acknowledged_after_kill")
def rotation_loses_a_record(patch: Patch) -> None:
    """The second record of a new log file is written over the first."""
    rewound = "file_written_over"

    def append(self: WalWriter, *record: Any) -> None:
        sound(self, *record)
        if len(self.first_versions) > 1 and vars(self).get(rewound) is not self._file:
            setattr(self, rewound, self._file)
            self._position = wal_format.FILE_HEAD_BYTES

    sound = patch.set(WalWriter, "append", append)


@mutant("log", "torn_tail")
def believe_torn_records(patch: Patch) -> None:
    """A record's checksum is not looked at: half of one is taken for a whole one."""
    intdigest = wal_format.xxh3_64_intdigest

    def decode_record(data: bytes, offset: int) -> tuple[LogRecord, int] | None:
        if offset + wal_format.RECORD_HEAD_BYTES > len(data):
            return None
        magic, length, checksum = wal_format._RECORD_HEAD.unpack_from(data, offset)[:3]
        digest = checksum ^ (magic | length << 32)

        def believed(_checked: bytes) -> int:
            return int(digest)

        wal_format.xxh3_64_intdigest = believed
        try:
            found: tuple[LogRecord, int] | None = sound(data, offset)
            return found
        finally:
            wal_format.xxh3_64_intdigest = intdigest

    sound = patch.set(wal_format, "decode_record", decode_record)
    patch.set(reader, "decode_record", decode_record)


@mutant("log", "damage_before_acknowledged")
def damage_taken_for_a_tail(patch: Patch) -> None:
    """Whatever is unreadable is the end of the log, though acknowledged commits stand behind it."""
    patch.set(LogRecord, "proves", lambda _self, _version, _boot_id: False)
    patch.set(FileHead, "proves", lambda _self, _version, _boot_id: False)


@mutant("log", "torn_tail")
def ignore_boot_id(patch: Patch) -> None:
    """What a power cut tore is taken for damage: every record counts as written in this boot."""

    def proves(self: LogRecord, version: int, _boot_id: int) -> bool:
        return self.synced_version >= version or self.version >= version

    patch.set(LogRecord, "proves", proves)


@mutant("recovery", "acknowledged_after_kill")
def drop_last_record(patch: Patch) -> None:
    """Recovery leaves out the last record of the log."""

    def records(self: WalReader) -> Any:
        before = None
        for record in sound(self):
            if before is not None:
                yield before
            before = record
        if before is not None:
            self.last_version -= 1

    sound = patch.set(WalReader, "records", records)
