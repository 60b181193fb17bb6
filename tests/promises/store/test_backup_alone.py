"""A directory that a backup is written to is a store only when the copy is whole: other processes are kept out."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.shm.files import checkpoint, store_files

_ATTEMPT = """
import sys, shoal
path, dest, what = sys.argv[1:]
try:
    if what == "backup":
        shoal.open(path).backup(dest)
    else:
        shoal.open(dest, timeout=1.0, read_only=what == "read")
except shoal.ShoalError as error:
    print(type(error).__name__)
else:
    print("done")
"""


def attempt(path: str, dest: Path, what: str) -> str:
    """What comes of it in another process: the name of an error, or ``done``."""
    command = [sys.executable, "-c", _ATTEMPT, path, str(dest), what]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@pytest.mark.long
def test_no_other_process_uses_the_directory_meanwhile(
    db: shoal.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is written nobody opens, reads or backs up to it; then it opens with all keys."""
    dest = tmp_path / "copy"
    seen: list[str] = []
    write = checkpoint.write_checkpoint

    def write_later(*arguments: Any) -> int:
        seen.extend(attempt(db.path, dest, what) for what in ("open", "read", "backup"))
        return write(*arguments)

    monkeypatch.setattr(checkpoint, "write_checkpoint", write_later)
    shoal.KVStore(db).put("run", "k", "v")
    db.backup(dest)
    assert seen == ["CoordinatorLostError", "CoordinatorLostError", "AlreadyExistsError"]
    assert (dest / store_files.COORDINATOR_LOCK_FILE).stat().st_mode & 0o777 == 0o600
    with shoal.open(dest) as copy:
        assert shoal.KVStore(copy).get("run", "k") == "v"
        assert attempt(db.path, dest, "backup") == "AlreadyExistsError"


@pytest.mark.long
@pytest.mark.parametrize("at", ["write_checkpoint", "write_meta"])
def test_a_backup_that_failed_can_be_made_again(
    db: shoal.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """An exception leaves nothing, and a directory that was there as it was; so the same backup succeeds later."""
    made, there = tmp_path / "new" / "copy", tmp_path / "there"
    there.mkdir()

    def fail(*_: Any) -> int:
        raise shoal.StoreFullError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint if at == "write_checkpoint" else store_files, at, fail)
        for dest in (made, there):
            with pytest.raises(shoal.StoreFullError):
                db.backup(dest)
    assert not made.parent.exists()
    assert os.listdir(there) == []
    for dest in (made, there):
        db.backup(dest)
        shoal.open(dest).close()


def test_a_backup_without_a_descriptor(db: shoal.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says which limit to raise."""

    def fail(*_: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_checkpoint", fail)
        with pytest.raises(shoal.ConfigurationError, match="ulimit -n"):
            db.backup(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
