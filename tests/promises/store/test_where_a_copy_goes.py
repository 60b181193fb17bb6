"""A backup, a repaired store or an export that cannot be written where it shall be: one error with a remedy."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

import shoal
from shoal.cli.main import main
from tests.support.at_rest import ended

# Nobody can make anything there, whoever asks.
IMPOSSIBLE = ["/proc/none", "/sys/none", "file/below", "n" * 300, "loop", "loop/below"]

Command = Callable[[Path], int]


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A store at rest, the last of whose commits is damaged, so that there is something to repair."""
    path = tmp_path / "damaged"
    with shoal.open(path, linger=0) as db:
        for n in range(20):
            shoal.KVStore(db).put("run", f"k{n}", n)
        pid = db.info().coordinator_pid
    ended(pid)
    (log,) = path.glob("wal-*.log")
    data = bytearray(log.read_bytes())
    at = data.rindex(b"k15")
    data[at : at + 3] = b"???"
    log.write_bytes(data)
    return path


@pytest.fixture(params=["backup", "repair", "export"])
def command(request: pytest.FixtureRequest, db: shoal.Database, damaged: Path) -> Command:
    """One of the commands that write a copy; its status."""
    source = str(damaged) if request.param == "repair" else db.path
    return lambda place: main([request.param, source, str(place)])


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A directory with what the names in ``IMPOSSIBLE`` need."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "again")
    (tmp_path / "again").symlink_to(tmp_path / "loop")
    return tmp_path


def _no_room(_: int) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.long
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_backup_to_an_impossible_place(db: shoal.Database, places: Path, name: str) -> None:
    """It is an error of the path, as for ``open``, and names another path as the remedy; nothing is made."""
    before = sorted(os.listdir(places))
    with pytest.raises(shoal.ConfigurationError, match=r"give another path|a store is a directory"):
        db.backup(places / name)
    assert sorted(os.listdir(places)) == before


@pytest.mark.long
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_command_to_an_impossible_place(
    command: Command, places: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the place the user gave and what to do, and nothing is left. It is no traceback."""
    before = sorted(os.listdir(places))
    assert command(places / name) in (1, 2)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("shoal: ")
    assert Path(name).parts[0][:100] in said
    assert "give another" in said or "a store is a directory" in said
    assert not any(word in said for word in (".shoal-export-", ".repair"))
    assert sorted(os.listdir(places)) == before


def test_a_backup_to_a_full_disk(db: shoal.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What helps is room for the copy; to delete keys of the store does not."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _no_room)
        with pytest.raises(shoal.StoreFullError, match="on another disk") as told:
            db.backup(tmp_path / "copy")
    assert "delete" not in str(told.value)
    assert str(tmp_path / "copy") in str(told.value)


@pytest.mark.long
def test_a_command_to_a_full_disk(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same in one line."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _no_room)
        assert command(tmp_path / "copy") == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "copy") in said
    assert "give a path on another" in said
    assert "delete" not in said
