"""A disk that is out of inodes while it has bytes: commits are refused at most. Needs root to mount."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

import shoal
from tests.faults.disk.filling import RUN, delete_all, soon
from tests.faults.disk.test_full_disk import end, opened, small_disk
from tests.support.slow import slow
from tests.support.workers.crash_workers import kill

pytestmark = pytest.mark.long


@pytest.mark.parametrize("inodes", [12, *slow(13, 14, 20)])
@pytest.mark.parametrize("durability", ["buffered", *slow("strict")])
def test_a_disk_out_of_inodes(tmp_path: Path, inodes: int, durability: str) -> None:
    """There is room for bytes and for no further file: commits are refused at most, and the coordinator lives on."""
    with small_disk(tmp_path / "disk", 32, inodes) as disk:
        db = opened(disk, durability)
        kv = shoal.KVStore(db)
        pid = db.info().coordinator_pid
        for i in range(400):
            with contextlib.suppress(shoal.StoreFullError):
                kv.put(RUN, f"k{i % 50}", os.urandom(50_000))
        assert db.info().coordinator_pid == pid
        keys = kv.list(RUN)
        kill(pid)
        assert kv.list(RUN) == keys
        delete_all(kv, keys, 1_000)
        kill(db.info().coordinator_pid)
        soon(lambda: kv.put(RUN, "small", 1))
        assert kv.list(RUN) == ["small"]
        assert db.check() == []
        end(db)


@pytest.mark.parametrize("inodes", [2, *slow(1, 3, 4)])
def test_a_backup_finds_no_inode(tmp_path: Path, inodes: int) -> None:
    """A backup onto such a disk is refused as on any full one, whichever of its files there is no room for."""
    with small_disk(tmp_path / "disk", 8, inodes) as disk, opened(tmp_path) as db:
        shoal.KVStore(db).put(RUN, "k", 1)
        with pytest.raises(shoal.StoreFullError):
            db.backup(disk / "copy")
        end(db)
