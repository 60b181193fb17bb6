"""A directory that a backup is written to is a store only when the copy is whole: other processes are kept out."""

from __future__ import annotations

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
def test_a_backup_that_failed_can_be_made_again(
    db: shoal.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception leaves the directory empty, so the same backup succeeds later."""
    dest = tmp_path / "copy"

    def fail(*_: Any) -> int:
        raise shoal.StoreFullError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_checkpoint", fail)
        with pytest.raises(shoal.StoreFullError):
            db.backup(dest)
    assert os.listdir(dest) == []
    db.backup(dest)
    shoal.open(dest).close()
