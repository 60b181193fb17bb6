"""What the log's writer has appended its reader finds, and nothing else; salvage reads on where the reader stops."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from shoal.coordinator.log.format import COORDINATOR, FILE_HEAD_BYTES, encode_decided, file_name
from shoal.coordinator.log.reader import WalReader, read_files
from shoal.coordinator.log.salvage import LogSurvey
from shoal.coordinator.log.writer import WalWriter
from shoal.shm.errors import CorruptionError
from shoal.shm.files.storage import DiskStorage
from shoal.shm.limits import Limits
from shoal.shm.wire.request import encode_mutations

STORE_ID = bytes(range(16))
FILE_BYTES = 1024
SMALL = Limits(log_file_bytes=FILE_BYTES)


def _log(storage: DiskStorage, number: int = 1, version: int = 0) -> WalWriter:
    return WalWriter(storage, number, version, STORE_ID, limits=SMALL)


def _append(log: WalWriter, count: int) -> None:
    for _ in range(count):
        version = log.last_version + 1
        mutations = encode_mutations([b"key", b"%d" % version * 20, 0])
        log.reserve(len(mutations), len(mutations))
        log.append(version, 7, version, mutations, b"")


def _versions(storage: DiskStorage) -> list[int]:
    return [commit.version for commit in WalReader(storage, 0).records()]


@pytest.fixture
def storage(tmp_path: Path) -> DiskStorage:
    return DiskStorage(tmp_path)


def test_over_several_files(storage: DiskStorage) -> None:
    """Versions follow each other over files; every record is whole in one of them."""
    log = _log(storage)
    _append(log, 40)
    assert len(log.first_versions) > 3
    assert log.synced_version == 0
    log.sync()
    assert log.synced_version == log.last_version == 40
    commits = list(WalReader(storage, 0).records())
    assert [(commit.version, commit.outcomes) for commit in commits] == [(n, [(7, n, [])]) for n in range(1, 41)]
    assert [commit.writes for commit in commits] == [[b"key", b"%d" % n * 20, 0] for n in range(1, 41)]


def test_what_operations_decided(storage: DiskStorage) -> None:
    """Writes that were decided come behind those that were sent, results go to the client."""
    log, decided = _log(storage), encode_decided([b"two", b"2", 0], ["result"])
    mutations = encode_mutations([b"one", b"1", 0], [b"a", b"b"])
    log.reserve(len(mutations) + len(decided), len(mutations))
    log.append(1, 7, 5, mutations, decided)
    (commit,) = WalReader(storage, 0).records()
    assert (commit.writes, commit.clears) == ([b"one", b"1", 0, b"two", b"2", 0], [(b"a", b"b")])
    assert commit.outcomes == [(7, 5, ["result"])]


def test_a_clean_close(storage: DiskStorage) -> None:
    """The mark behind the last record is no commit; the next log goes on in another file, with the next version."""
    log = _log(storage)
    _append(log, 3)
    log.close()
    reader = WalReader(storage, 0)
    assert [commit.version for commit in reader.records()] == [1, 2, 3]
    after = _log(storage, reader.next_number, reader.last_version)
    _append(after, 2)
    assert _versions(storage) == [1, 2, 3, 4, 5]


def test_files_before_a_checkpoint_go(storage: DiskStorage) -> None:
    """Only files of which the checkpoint has everything."""
    log = _log(storage)
    _append(log, 40)
    second = sorted(log.first_versions.values())[1]
    assert log.obsolete_bytes(second - 2) == 0
    assert log.obsolete_bytes(second - 1) > 0
    log.remove_before(second - 1)
    assert min(log.first_versions.values()) == second
    assert [commit.version for commit in WalReader(storage, second - 1).records()] == list(range(second, 41))
    with pytest.raises(CorruptionError, match=f"version {second}"):
        list(WalReader(storage, 0).records())


def test_a_failed_sync_is_final(storage: DiskStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later sync must not report success for pages that the kernel has dropped."""
    log = _log(storage)
    _append(log, 1)
    with monkeypatch.context() as patch:
        patch.setattr("shoal.shm.files.storage.sync_data", _fails)
        with pytest.raises(OSError, match="Input/output"):
            log.sync()
    with pytest.raises(OSError, match="Input/output"):
        log.sync()
    assert log.synced_version == 0


def _fails(*_arguments: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def _damage(path: Path, version: int, size: int = 4) -> int:
    """Overwrite bytes of the record of ``version``; where that is in its file."""
    data = bytearray(path.read_bytes())
    at = data.index(b"%d" % version * 20)
    data[at : at + size] = b"?" * size
    path.write_bytes(data)
    return at


def test_a_torn_tail_is_cut(storage: DiskStorage, tmp_path: Path) -> None:
    """The last record, half written and never synced, is no commit; what is before it stays."""
    log = _log(storage)
    _append(log, 3)
    path = tmp_path / file_name(1)
    _damage(path, 3)
    assert _versions(storage) == [1, 2]
    assert _versions(storage) == [1, 2]
    assert b"3" * 20 not in path.read_bytes()


def test_damage_before_a_whole_record(storage: DiskStorage, tmp_path: Path) -> None:
    """It was acknowledged: CorruptionError, with nothing changed; salvage has the commits on both sides of it."""
    log = _log(storage)
    _append(log, 4)
    path = tmp_path / file_name(1)
    at = _damage(path, 2)
    before = path.read_bytes()
    with pytest.raises(CorruptionError, match="the record of version 2") as told:
        _versions(storage)
    assert FILE_HEAD_BYTES < told.value.offset < at
    assert path.read_bytes() == before
    survey = LogSurvey(read_files(storage), 0, 0, STORE_ID, lambda _bytes: None)
    assert survey.versions() == [1, 3, 4]
    assert [finding.offset for finding in survey.findings] == [told.value.offset]
    assert survey.commit(3).writes == [b"key", b"3" * 20, 0]


def test_damage_to_the_head_of_a_record(storage: DiskStorage, tmp_path: Path) -> None:
    """Not even its length is known: salvage looks for the next whole record."""
    log = _log(storage)
    _append(log, 4)
    path = tmp_path / file_name(1)
    _damage(path, 2)
    with pytest.raises(CorruptionError) as told:
        _versions(storage)
    data = bytearray(path.read_bytes())
    data[told.value.offset : told.value.offset + 8] = bytes(8)
    path.write_bytes(data)
    survey = LogSurvey(read_files(storage), 0, 0, STORE_ID, lambda _bytes: None)
    assert survey.versions() == [1, 3, 4]


def test_files_that_are_not_what_their_names_say(storage: DiskStorage, tmp_path: Path) -> None:
    """A copy under another number, and a file of another store, stop the reader; salvage leaves the latter out."""
    log = _log(storage)
    _append(log, 2)
    (tmp_path / file_name(9)).write_bytes((tmp_path / file_name(1)).read_bytes())
    with pytest.raises(CorruptionError, match="log file 1"):
        WalReader(storage, 0, STORE_ID)
    os.remove(tmp_path / file_name(9))
    with pytest.raises(CorruptionError, match="store"):
        WalReader(storage, 0, bytes(16))
    survey = LogSurvey(read_files(storage), 0, 0, bytes(16), lambda _bytes: None)
    assert (survey.versions(), len(survey.findings)) == ([], len(log.first_versions))


def test_commits_of_the_coordinator_tell_nobody(storage: DiskStorage) -> None:
    """An empty commit of the coordinator is a version like any other."""
    log = _log(storage)
    nothing = encode_mutations([])
    log.reserve(len(nothing), None)
    log.append(1, COORDINATOR, 1, nothing, b"")
    (commit,) = WalReader(storage, 0).records()
    assert (commit.version, commit.writes, commit.outcomes) == (1, [], [])
