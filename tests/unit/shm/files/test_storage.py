"""``DiskStorage``: whole replacements, reserved room, cuts and pieces."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from shoal.shm.errors import StoreFullError
from shoal.shm.files import storage
from shoal.shm.files.storage import DiskStorage


@pytest.fixture
def disk(tmp_path: Path) -> DiskStorage:
    return DiskStorage(tmp_path)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_replace(disk: DiskStorage, tmp_path: Path) -> None:
    """The file is there whole with mode 0600, and no temporary file is left."""
    disk.replace("name", b"first")
    disk.replace("name", b"second")
    assert disk.list() == ["name"]
    assert disk.read("name") == b"second"
    assert stat.S_IMODE((tmp_path / "name").stat().st_mode) == 0o600


def test_replace_on_a_full_disk(disk: DiskStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is StoreFullError, and the old file is still there."""
    disk.replace("name", b"first")
    monkeypatch.setattr(storage, "_write_all", full)
    with pytest.raises(StoreFullError, match="the disk has no room for 6 bytes for name"):
        disk.replace("name", b"second")
    assert disk.list() == ["name"]
    assert disk.read("name") == b"first"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP])
def test_directories_that_cannot_be_synced(disk: DiskStorage, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where the file system does not know the sync of a directory, files are made all the same; EIO is still raised."""
    fsync = os.fsync

    def refuse(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", refuse)
    disk.replace("name", b"content")
    disk.create_log_file("wal", 8192).close()
    assert disk.list() == ["name", "wal"]
    number = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        disk.sync_directory()


def test_pieces(disk: DiskStorage) -> None:
    """``read_at`` gives the bytes asked for, fewer only at the end, none behind it."""
    disk.replace("name", b"0123456789")
    assert [disk.read_at("name", offset, 4) for offset in (0, 8, 10, 99)] == [b"0123", b"89", b"", b""]
    assert disk.size("name") == 10


def test_reserve(disk: DiskStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file grows and never shrinks; it is made on demand only; on a full disk it keeps the room it had."""
    with pytest.raises(FileNotFoundError):
        disk.reserve("name", 100, create=False)
    disk.reserve("name", 100, create=True)
    disk.reserve("name", 50, create=False)
    assert disk.size("name") == 100
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreFullError):
        disk.reserve("name", 200, create=False)
    assert disk.size("name") == 100


def test_a_log_file(disk: DiskStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is of the given size and zero; what is written is in the file at once. On a full disk there is none."""
    file = disk.create_log_file("wal", 8192)
    assert file.size == disk.size("wal") == 8192
    file.write(4, b"data")
    file.sync()
    assert disk.read_at("wal", 0, 12) == b"\0\0\0\0data\0\0\0\0"
    file.close()
    with pytest.raises(FileExistsError):
        disk.create_log_file("wal", 8192)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreFullError):
        disk.create_log_file("other", 8192)
    assert disk.list() == ["wal"]


def test_cut_rename_and_remove(disk: DiskStorage) -> None:
    """Each does that to the file, and to no other."""
    disk.replace("name", b"0123456789")
    disk.truncate("name", 4)
    disk.rename("name", "other")
    assert (disk.list(), disk.read("other")) == (["other"], b"0123")
    disk.remove("other")
    assert disk.list() == []
    assert disk.space().free_bytes <= disk.space().total_bytes
