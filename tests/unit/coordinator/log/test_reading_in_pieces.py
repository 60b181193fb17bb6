"""A log file is read a piece at a time beside a user's program: the same records, and little memory."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from shoal.coordinator.log import reader
from shoal.coordinator.log.format import FileHead, LogRecord, encode_file_head, encode_record, file_name, find_record
from shoal.coordinator.log.reader import read_files
from shoal.past_changes import past_changes
from shoal.shm.errors import SnapshotExpiredError
from shoal.shm.files.storage import DiskStorage
from shoal.shm.limits import KIB, MIB
from shoal.shm.wire.request import encode_mutations
from shoal.workers.presence.watching import Position

_FILE_BYTES = 8 * MIB
_LOWEST, _HIGHEST = b"", b"\xff"


class _Counting(DiskStorage):
    """A directory that notes how much of it is read at a time."""

    sizes: list[int]

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.sizes = []

    def read(self, name: str) -> bytes:
        data = super().read(name)
        self.sizes.append(len(data))
        return data

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        data = super().read_at(name, offset, size)
        self.sizes.append(size)
        return data


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Counting:
    """The directory that ``past_changes`` reads."""
    storage = _Counting(tmp_path)
    monkeypatch.setattr("shoal.past_changes.DiskStorage", lambda _directory: storage)
    return storage


def _record(version: int, value: bytes) -> bytes:
    return encode_record(version, 0, 1, 7, version, encode_mutations([b"key", value, 0]), b"")


def _write(directory: Path, records: list[bytes], size: int = _FILE_BYTES) -> bytes:
    content = encode_file_head(FileHead(1, 1, 0, 1, bytes(16))) + b"".join(records)
    content += bytes(size - len(content))
    (directory / file_name(1)).write_bytes(content)
    return content


def _versions(directory: Path, through: int) -> list[int]:
    return [version for version, _, _ in past_changes(directory, _LOWEST, _HIGHEST, Position(0), through)]


def test_a_piece_at_a_time(counting: _Counting, tmp_path: Path) -> None:
    """A watch that catches up never has a whole file in memory; unwritten room behind the last record is not read."""
    _write(tmp_path, [_record(version, bytes(900)) for version in range(1, 2001)])
    assert _versions(tmp_path, 2000) == list(range(1, 2001))
    assert max(counting.sizes) <= 256 * KIB
    assert sum(counting.sizes) < _FILE_BYTES // 2


def test_a_record_larger_than_a_piece(counting: _Counting, tmp_path: Path) -> None:
    """It is read at once, alone; what is beside it is read in pieces as ever."""
    large = _record(2, bytes(3 * MIB))
    _write(tmp_path, [_record(1, b"before"), large, _record(3, b"behind")])
    assert _versions(tmp_path, 3) == [1, 2, 3]
    assert [size for size in counting.sizes if size > 256 * KIB] == [len(large)]


def test_a_damaged_length(counting: _Counting, tmp_path: Path) -> None:
    """A length that leads past the end of the file lets nothing be read, and the commit is not there."""
    damaged = bytearray(_record(2, b"2"))
    damaged[4:8] = b"\xff" * 4
    _write(tmp_path, [_record(1, b"1"), bytes(damaged)])
    with pytest.raises(SnapshotExpiredError):
        _versions(tmp_path, 2)
    assert max(counting.sizes) <= 256 * KIB


def test_a_file_that_is_removed_meanwhile(tmp_path: Path) -> None:
    """What a checkpoint has removed while it was read is not kept any more: an error, never a gap."""
    _write(tmp_path, [_record(version, bytes(900)) for version in range(1, 2001)])
    changes = past_changes(tmp_path, _LOWEST, _HIGHEST, Position(0), 2000)
    assert next(changes)[0] == 1
    (tmp_path / file_name(1)).unlink()
    with pytest.raises(SnapshotExpiredError):
        list(changes)


def test_wherever_a_piece_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the head of a record, in its body, between two records, at the end of the file: all records are found."""
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    for _ in range(50):
        records = [_record(version, bytes(rng.choice((0, 9, 100, 1000)))) for version in range(1, rng.randint(2, 20))]
        content = _write(tmp_path, records, len(b"".join(records)) + 72 + rng.choice((0, 8, 100, 2000)))
        monkeypatch.setattr(reader, "_PIECE_BYTES", rng.randint(64, 600))
        (file,) = read_files(DiskStorage(tmp_path))
        assert [(offset, record) for _, offset, record, _ in file.records()] == _all(content), f"seed {seed}"


def _all(content: bytes) -> list[tuple[int, LogRecord]]:
    found, offset = [], 0
    while (placed := find_record(content, offset)) is not None:
        record, at = placed
        found.append((at, record))
        offset = at + 1
    return found
