"""What a coordinator does before it serves: its report, the store's directory, the locks."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from shoal.coordinator.server.process_start import AlreadyServedError, Report, enter, hold_locks
from shoal.shm import codec
from shoal.shm.errors import ConfigurationError, StoreMovedError
from shoal.shm.files import epoch_file, store_files

LOCKS = {store_files.COORDINATOR_LOCK_FILE, epoch_file.EPOCH_FILE}


def _read(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as pipe:
        return pipe.read()


def test_a_report_is_given_once() -> None:
    """The starter hears that the store is served, or why not; what comes later is not its affair."""
    read_fd, write_fd = os.pipe()
    report = Report(write_fd)
    was_due = report.is_due
    report.ready()
    assert (was_due, report.is_due) == (True, False)
    report.failed(ConfigurationError("too late"))
    assert codec.decode(_read(read_fd)) == []
    read_fd, write_fd = os.pipe()
    Report(write_fd).failed(ConfigurationError("no room"))
    assert codec.decode(_read(read_fd))[0] == "ConfigurationError"


def test_a_starter_that_was_killed() -> None:
    """Nobody reads the report: the coordinator goes on all the same."""
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    Report(write_fd).ready()


def test_entering_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It becomes the working directory; a store that is not there has been moved, if the starter knew it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreMovedError):
        enter(tmp_path / "gone", bytes(16))
    with pytest.raises(FileNotFoundError):
        enter(tmp_path / "gone", None)
    (tmp_path / "store").mkdir()
    assert not enter(tmp_path / "store", None).was_moved()
    assert Path.cwd() == tmp_path / "store"


def test_one_coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds the locks taken, whichever is left; refused, it leaves no file that was not there."""
    monkeypatch.chdir(tmp_path)
    with contextlib.ExitStack() as held, contextlib.ExitStack() as made:
        hold_locks(tmp_path, held, made)
        with contextlib.ExitStack() as others, pytest.raises(AlreadyServedError):
            hold_locks(tmp_path, others, others)
    assert not LOCKS & set(os.listdir(tmp_path))
    with contextlib.ExitStack() as held, contextlib.ExitStack() as made:
        hold_locks(tmp_path, held, made)
        made.pop_all()
    assert store_files.COORDINATOR_LOCK_FILE in os.listdir(tmp_path)
