"""A copy of a store is put in the place of its files while it is served: nobody goes on as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

import shoal
from tests.support.at_rest import ended

RUN = "run"


def _copy(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for entry in source.iterdir():
        if not entry.is_socket():
            shutil.copy2(entry, target)


def _restore(copy: Path, store: Path) -> None:
    for entry in store.iterdir():
        entry.unlink()
    _copy(copy, store)


@pytest.mark.long
@pytest.mark.parametrize("what", ["an earlier state", "a backup"])
def test_coordinator_leaves_restored_files_alone(store: Path, tmp_path: Path, what: str) -> None:
    """It ends, commits of its clients are refused, and the store that was put there is as it was."""
    with shoal.open(store, linger=0) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "before", 1)
        if what == "a backup":
            db.backup(tmp_path / "copy")
        else:
            _copy(store, tmp_path / "copy")
        kv.put(RUN, "after", 2)
        pid = db.info().coordinator_pid
        _restore(tmp_path / "copy", store)
        ended(pid)
        for _ in range(2):
            with pytest.raises(shoal.StoreMovedError):
                kv.put(RUN, "later", 3)
        assert kv.list(RUN) == ["after", "before"]
    with shoal.open(store, linger=0) as db:
        assert shoal.KVStore(db).list(RUN) == ["before"]
        assert db.check() == []


@pytest.mark.long
def test_nobody_goes_back_in_time(store: Path, tmp_path: Path) -> None:
    """After its coordinator was killed, too: a process that has seen more than the store has now is told."""
    with shoal.open(store, linger=0) as db, shoal.open(store, linger=0) as other:
        kv = shoal.KVStore(db)
        kv.put(RUN, "before", 1)
        _copy(store, tmp_path / "copy")
        kv.put(RUN, "after", 2)
        assert shoal.KVStore(other).list(RUN) == ["after", "before"]
        pid = db.info().coordinator_pid
        os.kill(pid, signal.SIGKILL)
        ended(pid)
        _restore(tmp_path / "copy", store)
        for each in (db, other):
            with pytest.raises(shoal.StoreMovedError):
                shoal.KVStore(each).put(RUN, "later", 3)


def test_link_that_leads_in_a_circle_now(store: Path, tmp_path: Path) -> None:
    """Whoever has the store open through it is told that it is not there any more."""
    link = tmp_path / "link"
    store.mkdir()
    link.symlink_to(store)
    with shoal.open(link, linger=0) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "k", 1)
        pid = db.info().coordinator_pid
        link.unlink()
        link.symlink_to(link)
        ended(pid)
        with pytest.raises(shoal.StoreMovedError):
            kv.put(RUN, "k", 2)
