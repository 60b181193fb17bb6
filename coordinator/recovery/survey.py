"""Finds all that is wrong with a store's files, without changing or starting anything.

``Survey`` reads what recovery would read, by the rules of recovery, and goes on where recovery would stop. A store
without ``findings`` opens. Everything that keeps a store from being opened, or would be lost unnoticed, is a finding.

``at_rest`` keeps coordinators out meanwhile, by a shared lock, which the kernel releases with the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log import reader as wal_reader
from shoal.coordinator.log.salvage import Finding, LogSurvey, finding_of
from shoal.coordinator.recovery.recover import missing_checkpoint
from shoal.shm.errors import CorruptionError
from shoal.shm.files import checkpoint, store_files
from shoal.shm.files.checkpoint import CheckpointReader, Entry
from shoal.shm.files.epoch_file import EpochWord
from shoal.shm.files.regular_file import EXPECTED, existing_file, stands_instead
from shoal.shm.files.storage import DiskStorage, Storage
from shoal.shm.files.store_files import StoreMeta
from shoal.shm.files.store_place import NO_LOCKS, lock_directory

_PAGE_BYTES = 4096


def is_store(directory: Path) -> bool:
    """Whether a directory has a file that a coordinator would recover from, or one that says how to serve it."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return any(name == store_files.META_FILE or _is_data(name) for name in names)


def _is_data(name: str) -> bool:
    """Whether a name is that of a log file or a checkpoint."""
    return wal_format.file_number(name) is not None or checkpoint.version_of(name) is not None


@contextmanager
def at_rest(directory: Path) -> Iterator[bool]:
    """Keep coordinators out of a store while its files are read; False if one serves it. Makes no file."""
    with contextlib.ExitStack() as held:
        fd = lock_directory(directory, shared=True)
        if fd is not None:
            held.callback(os.close, fd)
        yield fd is not None and _lock_file_is_free(directory, held)


def _lock_file_is_free(directory: Path, held: contextlib.ExitStack) -> bool:
    """Share the lock file, too: a coordinator that writes format 1 holds no other lock."""
    try:
        fd = existing_file(directory / store_files.COORDINATOR_LOCK_FILE)
    except (FileNotFoundError, PermissionError, CorruptionError):  # never opened, another user's, or no lock file
        return True
    held.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:  # where there are none, no coordinator serves the store
            raise
    return True


class DamagedDisk(DiskStorage):
    """A directory on a disk that fails in places: pages that cannot be read are zeros, and a finding.

    What stands in the place of a data file and is no regular file is a finding, too, and not listed.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.unreadable: list[Finding] = []

    def list(self) -> list[str]:
        """Names of all files, data files that are no regular files left out."""
        names = []
        for name in super().list():
            found = stands_instead(self.directory / name) if _is_data(name) else None
            if found is None:
                names.append(name)
            else:
                self._note(Finding(name, 0, EXPECTED, found))
        return names

    def read(self, name: str) -> bytes:
        """A file's whole content."""
        try:
            return super().read(name)
        except FileNotFoundError:
            raise
        except OSError as error:
            return self._read_around(name, 0, self.size(name), error)

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        """A piece of a file, shorter only at its end."""
        try:
            return super().read_at(name, offset, size)
        except FileNotFoundError:
            raise
        except OSError as error:
            return self._read_around(name, offset, min(offset + size, self.size(name)), error)

    def _read_around(self, name: str, offset: int, end: int, error: OSError) -> bytes:
        try:
            fd = existing_file(self.directory / name)
        except OSError:
            self._note(Finding(name, 0, "a file that can be read", str(error.strerror)))
            return b""
        try:
            first = offset - offset % _PAGE_BYTES
            pages = [
                self._read_page(fd, name, start, min(_PAGE_BYTES, end - start))
                for start in range(first, end, _PAGE_BYTES)
            ]
            return b"".join(pages)[offset - first :]
        finally:
            os.close(fd)

    def _note(self, finding: Finding) -> None:
        if finding not in self.unreadable:
            self.unreadable.append(finding)

    def _read_page(self, fd: int, name: str, start: int, size: int) -> bytes:
        try:
            return os.pread(fd, size, start).ljust(size, b"\0")
        except OSError as error:
            self._note(Finding(name, start, "bytes that can be read", str(error.strerror), size))
            return bytes(size)


class Survey:
    """What the files of a store hold, and what is wrong with them.

    ``acknowledged`` is a version that is known to have been committed, as the published one of a store being served.
    ``progress`` is told how many bytes have been read.
    """

    def __init__(
        self, storage: Storage, acknowledged: int, progress: Callable[[int], object], store_id: bytes | None = None
    ) -> None:
        self.findings: list[Finding] = []
        self.meta: StoreMeta | None = None
        self.missing_log = ""  # the newest log file, if it is not there: nobody knows how many commits are in it
        # The store's id: that in store.json, or else in the newest whole checkpoint, or in the first file of the log.
        self._store_id = store_id
        # The newest checkpoint that is whole, and the newest of all if that one is not whole.
        self.base, self.damaged = self._read_checkpoints(storage, progress)
        self.base_version = 0 if self.base is None else self.base.version
        files = wal_reader.read_files(storage)
        newest = self.damaged or self.base
        after = 0 if newest is None else newest.version
        log = LogSurvey(files, after, acknowledged, self._store_id, progress)
        self.findings += log.findings
        self.unfinished = log.unfinished
        self.newest = max(self.base_version, log.newest, acknowledged)
        if self.damaged is not None and any(self.damaged_entries()):
            self.newest = max(self.newest, self.damaged.version)
        # Without its newest checkpoint, a store needs more of the log.
        self.log = (
            log if self.damaged is None else LogSurvey(files, self.base_version, acknowledged, self._store_id, _ignore)
        )

    def look_for_missing(self, storage: Storage, directory: Path, meta: StoreMeta) -> None:
        """Note the files that ``store.json`` says must be there and are not."""
        newest = self.damaged or self.base
        if meta.checkpoint_version > (0 if newest is None else newest.version):
            self.newest = max(self.newest, meta.checkpoint_version)
            self.findings.append(finding_of(missing_checkpoint(meta.checkpoint_version)))
        error = wal_reader.missing(wal_reader.read_files(storage), meta.log_number)
        if error is not None and store_files.read_meta(directory) == meta:  # else a coordinator has just removed it
            self.missing_log = error.file
            self.findings.append(finding_of(error))

    def prefix_version(self) -> int:
        """The newest version up to which no commit is missing or doubtful."""
        version = self.base_version
        while version + 1 in self.log and version + 1 not in self.log.doubtful:
            version += 1
        return version

    def missing(self) -> list[range]:
        """The versions that nothing readable has; the damaged checkpoint does not count."""
        ranges = []
        due = self.base_version + 1
        for version in [*self.log.versions(), self.newest + 1]:
            if version > due:
                ranges.append(range(due, version))
            due = version + 1
        return ranges

    def damaged_entries(self) -> Iterator[Entry]:
        """Keys of the readable blocks of the damaged checkpoint."""
        for part in self.damaged.past_damage() if self.damaged is not None else ():
            if not isinstance(part, CorruptionError):
                yield from part

    def _read_checkpoints(
        self, storage: Storage, progress: Callable[[int], object]
    ) -> tuple[CheckpointReader | None, CheckpointReader | None]:
        damaged = None
        versions = [version for version in map(checkpoint.version_of, storage.list()) if version is not None]
        for version in sorted(versions, reverse=True):
            name = checkpoint.file_name(version)
            reader = CheckpointReader(storage, name, self._store_id)
            errors = [part for part in reader.past_damage() if isinstance(part, CorruptionError)]
            progress(reader.size_bytes)
            if not errors:
                self._store_id = self._store_id or reader.store_id
                return reader, damaged
            self.findings += map(finding_of, errors)
            if not reader.is_of_another_store:
                damaged = damaged or reader
        return None, damaged


def survey_store(directory: Path, acknowledged: int = 0, progress: Callable[[int], object] | None = None) -> Survey:
    """Survey a store on disk; ``ConfigurationError`` if it is of another format."""
    storage = DamagedDisk(directory)
    findings = []
    meta = None
    try:
        meta = store_files.read_meta(directory)
        if meta is None:
            findings.append(Finding(store_files.META_FILE, 0, "a JSON object that shoal wrote", "no file"))
    except CorruptionError as error:
        findings.append(finding_of(error))
    survey = Survey(storage, acknowledged, progress or _ignore, meta.store_id if meta is not None else None)
    survey.meta = meta
    if meta is not None:
        survey.look_for_missing(storage, directory, meta)
    findings = storage.unreadable + findings
    try:
        EpochWord(directory, writable=False)
    except FileNotFoundError:
        pass
    except CorruptionError as error:
        findings.append(finding_of(error))
    survey.findings = findings + survey.findings
    return survey


def bytes_to_read(directory: Path) -> int:
    """About how many bytes a survey will report to ``progress``."""
    read = [directory / name for name in os.listdir(directory) if _is_data(name)]
    return sum(path.stat().st_size for path in read if stands_instead(path) is None)


def _ignore(_: int) -> None:
    pass
