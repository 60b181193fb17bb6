"""What is no regular file under the name of a store's file: it is told, and nobody waits for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import shoal
from shoal.cli.main import main as command
from shoal.shm.files.control_address import SOCKET_FILE
from shoal.shm.files.epoch_file import EPOCH_FILE
from shoal.shm.files.store_files import COORDINATOR_LOCK_FILE, META_FILE, START_LOCK_FILE
from tests.support.at_rest import ended, looks
from tests.support.coordinators import coordinators_below

RUN = "run"
LOG = "wal-000000000001.log"
DATA = (META_FILE, EPOCH_FILE, LOG, "checkpoint")
MADE = (START_LOCK_FILE, COORDINATOR_LOCK_FILE, SOCKET_FILE, f"{META_FILE}.new")


def _socket(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)  # the path may be too long for an address
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


THINGS: dict[str, Callable[[Path], object]] = {
    "a directory": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a socket": _socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a symbolic link that leads to no file": lambda path: path.symlink_to(path),
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store at rest with a checkpoint and a log."""
    with shoal.open(tmp_path / "first", linger=0) as db:
        shoal.KVStore(db).put(RUN, "a", 1)
        db.backup(tmp_path / "store")
    with shoal.open(tmp_path / "store", linger=0) as db:
        shoal.KVStore(db).put(RUN, "b", 2)
        pid = db.info().coordinator_pid
    ended(pid)
    return tmp_path / "store"


def _replace(store: Path, name: str, thing: str) -> str:
    if name == "checkpoint":
        (name,) = (entry.name for entry in store.iterdir() if entry.suffix == ".ckpt")
    (store / name).unlink(missing_ok=True)
    THINGS[thing](store / name)
    return name


@pytest.mark.long
@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("name", DATA)
def test_in_the_place_of_data(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, thing: str
) -> None:
    """It is damage, whoever looks: opening names it and leaves no process, a check lists it, repair saves the rest."""
    name = _replace(store, name, thing)
    before = looks(store)
    for read_only in (False, True):
        with pytest.raises(shoal.CorruptionError, match=f"{name} .* found {thing}"):
            shoal.open(store, linger=0, read_only=read_only)
    assert command(["check", str(store)]) == 1
    assert f"{name} at byte 0: expected a regular file, found {thing}" in capsys.readouterr().out
    assert looks(store) == before
    kept = {LOG: ["a"], META_FILE: ["a", "b"], EPOCH_FILE: ["a", "b"]}.get(name)
    assert command(["repair", str(store), str(tmp_path / "new"), *([] if kept else ["--all"])]) == 0
    with shoal.open(tmp_path / "new", read_only=True) as db:
        assert shoal.KVStore(db).list(RUN) == (kept or ["b"])
    for pid in coordinators_below(store.parent):
        ended(pid)


@pytest.mark.long
@pytest.mark.parametrize("name", MADE)
def test_directory_where_shoal_makes_a_file(store: Path, name: str) -> None:
    """It is named, with what to do; the store can be read meanwhile, and opens when it is gone."""
    _replace(store, name, "a directory")
    before = sorted(os.listdir(store))
    with pytest.raises(shoal.ConfigurationError, match=f"{name} is a directory.*move it away"):
        shoal.open(store, linger=0)
    assert sorted(os.listdir(store)) == before
    with shoal.open(store, read_only=True) as db:
        assert shoal.KVStore(db).list(RUN) == ["a", "b"]
    (store / name).rmdir()
    with shoal.open(store, linger=0) as db:
        assert shoal.KVStore(db).list(RUN) == ["a", "b"]


@pytest.mark.parametrize("name", [START_LOCK_FILE, COORDINATOR_LOCK_FILE])
def test_fifo_where_shoal_makes_a_file(store: Path, name: str) -> None:
    """Nobody waits for its other end."""
    _replace(store, name, "a FIFO")
    with pytest.raises(shoal.ConfigurationError, match=f"{name} is a FIFO.*move it away"):
        shoal.open(store, linger=0)
    assert command(["check", str(store)]) == 0
    for pid in coordinators_below(store.parent):
        ended(pid)


@pytest.mark.parametrize("name", [START_LOCK_FILE, COORDINATOR_LOCK_FILE])
def test_link_where_shoal_makes_a_file(store: Path, tmp_path: Path, name: str) -> None:
    """No file is made where it leads."""
    (store / name).unlink()
    (store / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(shoal.ConfigurationError, match=f"{name} is a symbolic link that leads to no file.*move it"):
        shoal.open(store, linger=0)
    assert not (tmp_path / "elsewhere").exists()
    for pid in coordinators_below(store.parent):
        ended(pid)


@pytest.mark.parametrize("thing", ["a FIFO", "a symbolic link that leads to no file"])
def test_in_the_place_of_the_socket(store: Path, thing: str) -> None:
    """A coordinator puts its socket there: nothing of a dead one is kept."""
    _replace(store, SOCKET_FILE, thing)
    with shoal.open(store, linger=0) as db:
        assert shoal.KVStore(db).list(RUN) == ["a", "b"]


def test_epoch_that_is_being_made(store: Path) -> None:
    """SIGKILL can come between the making of the file and its first byte: then it counts as not there."""
    (store / EPOCH_FILE).write_bytes(b"")
    with shoal.open(store, read_only=True) as db:
        assert shoal.KVStore(db).list(RUN) == ["a", "b"]
        assert shoal.KVStore(db).list(RUN) == ["a", "b"]
        with shoal.open(store, linger=0) as writing:
            shoal.KVStore(writing).put(RUN, "c", 3)
            assert shoal.KVStore(db).list(RUN) == ["a", "b", "c"]
    assert command(["check", str(store)]) == 0
