"""Which commits there are: what the log says, gathered before a checkpoint takes it away.

A log file is looked at when it is removed, before and after every recovery, and when the power is cut. From that alone
follows what a recovery must find: after a kill all of it, after a power cut at least what was promised to be on disk.
"""

from __future__ import annotations

from collections.abc import Iterator

from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log.format import FILE_HEAD_BYTES, LogRecord, file_number
from tests.simulation.world.disk import Disk

Problem = tuple[str, str]


class Truth:
    """The commits of a store, over all its coordinators and boots."""

    def __init__(self, disk: Disk, strict: bool) -> None:
        self._disk = disk
        self.strict = strict
        self._power_was_cut = False
        self._recovering = 0
        self._declared = 0  # the newest version that a record or a file's head says is on disk
        self._told = 0  # the newest version that anybody was told of
        self.records: dict[int, LogRecord] = {}
        self.cuts: list[tuple[int, dict[int, LogRecord]]] = []  # per power cut: last version kept, what was lost
        self.problems: list[Problem] = []
        disk.on_remove = self._removed

    def tell(self, version: int) -> None:
        """A client was told that ``version`` is committed, or read at it."""
        self._told = max(self._told, version)

    def begin_recovery(self) -> None:
        """A coordinator begins to recover."""
        self._recovering += 1
        self._gather()

    def end_recovery(self, version: int) -> None:
        """It has found all commits up to ``version``."""
        self._recovering -= 1
        newest = max(self.records, default=0)
        if self._power_was_cut:
            self._after_power_cut(version)
        elif version != newest:
            self.problems.append(("nothing is lost", f"recovery found {version} after a kill, logged was {newest}"))
        self._power_was_cut = False
        self._gather()

    def abandon_recovery(self) -> None:
        """It died first."""
        self._recovering -= 1

    def cut_power(self) -> None:
        """Just before the power goes."""
        self._gather()
        self._power_was_cut = True

    def finish(self) -> list[LogRecord]:
        """All commits, in order."""
        self._gather()
        return [self.records[version] for version in sorted(self.records)]

    def _after_power_cut(self, version: int) -> None:
        promised = max(self._declared, self._told) if self.strict else self._declared
        if version < promised:
            text = f"recovery found {version} after a power cut, and {promised} was promised to survive it"
            self.problems.append(("durability", text))
        lost = {number: record for number, record in self.records.items() if number > version}
        for number in lost:
            del self.records[number]
        self.cuts.append((version, lost))
        self._told = min(self._told, version)
        self._declared = min(self._declared, version)

    def _removed(self, name: str, content: bytes) -> None:
        if not self._recovering:
            self._take(name, content)

    def _gather(self) -> None:
        if self._power_was_cut:
            return  # what lies there now may be torn, or of a time that is void
        for name, inode in self._disk.names.items():
            if file_number(name) is not None:
                self._take(name, bytes(inode.content))

    def _take(self, name: str, content: bytes) -> None:
        head = wal_format.decode_file_head(content)
        if head is not None:
            self._declared = max(self._declared, head.synced_version)
        for record in records_of(content):
            self._declared = max(self._declared, record.synced_version)
            if record.is_close_mark:
                continue
            known = self.records.setdefault(record.version, record)
            if known[3:] != record[3:]:
                self.problems.append(("log", f"{name} has another commit {record.version} than was there before"))


def records_of(content: bytes) -> Iterator[LogRecord]:
    """The records of a log file, as they stand in it."""
    offset = FILE_HEAD_BYTES
    while (found := wal_format.decode_record(content, offset)) is not None:
        record, offset = found
        yield record
