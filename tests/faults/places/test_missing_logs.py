"""Log files and checkpoints that somebody removed are missed: no store opens that lacks what was acknowledged."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import shoal
from shoal.cli import main as cli
from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log.reader import WalReader
from shoal.coordinator.log.writer import WalWriter
from shoal.shm import limits
from shoal.shm.errors import StoreFullError
from shoal.shm.files import store_files
from shoal.shm.files.store_files import StoreMeta
from shoal.transfer import repair
from tests.support.slow import slow
from tests.support.stores.damaged import STORE_ID, MemoryStorage, Model, whole
from tests.support.stores.served_stores import RUN, keys_of, logs_of, rests, serve_often


def _refused(path: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever opens or checks the store names the file, and changes nothing."""
    before = {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.is_file()}
    for options in ({}, {"durability": "buffered"}, {"read_only": True}):
        with pytest.raises(shoal.CorruptionError) as raised:
            shoal.open(path, linger=0, **options)
        assert raised.value.file == file
        assert "shoal repair" in str(raised.value)
    for command in (["info"], ["export"], ["check"]):
        arguments = [str(path.parent / "out.jsonl")] if command == ["export"] else []
        assert cli.main([*command, str(path), *arguments]) != 0
        shown = capsys.readouterr()
        assert file in shown.out + shown.err
    after = {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.is_file()}
    assert {name: data for name, data in after.items() if not name.endswith(".lock")} == {
        name: data for name, data in before.items() if not name.endswith(".lock")
    }


@pytest.mark.long
@pytest.mark.parametrize("durability", ["buffered", *slow("strict")])
@pytest.mark.parametrize("which", ["all", "newest", *slow("oldest", "middle")])
def test_logs_removed_at_rest(store: Path, capsys: pytest.CaptureFixture[str], durability: str, which: str) -> None:
    """No checkpoint has what was in them: the store does not open, and repair saves what was before the gap."""
    serve_often(store, 3, durability)
    logs = logs_of(store)
    assert len(logs) == 3
    chosen = {"all": logs, "newest": logs[2:], "oldest": logs[:1], "middle": logs[1:2]}[which]
    for log in chosen:
        log.unlink()
    named = {"all": logs[2], "newest": logs[2], "oldest": logs[1], "middle": logs[0]}[which]
    _refused(store, named.name, capsys)
    new = store.parent / "new"
    if which in ("all", "oldest"):
        with pytest.raises(shoal.CorruptionError, match=r"can be read|--all"):
            repair.Repair(store, new, False, None, lambda _: None)
    else:
        done = repair.Repair(store, new, False, None, lambda _: None)
        assert "nothing that was committed is lost" not in done.report
        assert any(line.startswith("lost: ") for line in done.report)
        assert keys_of(new) == {"newest": ["k0", "k1"], "middle": ["k0"]}[which]


@pytest.mark.long
@pytest.mark.parametrize("which", ["checkpoint", "logs", *slow("all")])
def test_files_of_a_store_with_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str], which: str) -> None:
    """Each of its two files, and both."""
    serve_often(tmp_path / "original", 2)
    store = tmp_path / "store"
    with shoal.open(tmp_path / "original", linger=0) as db:
        db.backup(store)
    serve_often(store, 1, first=2)
    (log,), (kept,) = logs_of(store), store.glob("*.ckpt")
    if which != "checkpoint":
        log.unlink()
    if which != "logs":
        kept.unlink()
    _refused(store, log.name if which == "logs" else kept.name, capsys)


@pytest.mark.long
@pytest.mark.parametrize("made_by", ["backup", "repair"])
def test_only_file_of_a_store_never_served(tmp_path: Path, capsys: pytest.CaptureFixture[str], made_by: str) -> None:
    """A backup, or what repair made, is one checkpoint; without it, it is no empty store."""
    store = tmp_path / "store"
    serve_often(tmp_path / "original", 3)
    if made_by == "backup":
        with shoal.open(tmp_path / "original", linger=0) as db:
            db.backup(store)
    else:
        logs_of(tmp_path / "original")[2].unlink()
        repair.Repair(tmp_path / "original", store, False, None, lambda _: None)
    (kept,) = store.glob("*.ckpt")
    shutil.copytree(store, tmp_path / "copy")
    assert keys_of(tmp_path / "copy") == [f"k{i}" for i in range(3 if made_by == "backup" else 2)]
    kept.unlink()
    _refused(store, kept.name, capsys)


def _without_fields(path: Path, format_1: bool) -> None:
    fields = json.loads((path / store_files.META_FILE).read_bytes())
    del fields["log_number"]
    if format_1:
        del fields["store_id"]
        fields["format"] = 1
    (path / store_files.META_FILE).write_text(json.dumps(fields))


@pytest.mark.long
@pytest.mark.parametrize("format_1", [False, True], ids=["with an id", "format 1"])
@pytest.mark.parametrize("has_logs", [True, *slow(False)])
def test_store_json_that_names_no_log(store: Path, format_1: bool, has_logs: bool) -> None:
    """As an older shoal wrote it, or one first served on a full disk: there need be no log. Then one is named."""
    serve_often(store, 2)
    _without_fields(store, format_1)
    if not has_logs:
        for log in logs_of(store):
            log.unlink()
    assert keys_of(store) == (["k0", "k1"] if has_logs else [])
    meta = store_files.read_meta(store)
    assert meta is not None
    assert wal_format.file_name(meta.log_number) == logs_of(store)[-1].name


@pytest.mark.long
def test_memory_stores_have_no_log(store: Path) -> None:
    """Nor do they miss one, unless the store was served with another durability before."""
    serve_often(store, 2, "memory")
    assert logs_of(store) == []
    assert keys_of(store) == []
    serve_often(store, 1, "buffered")
    serve_often(store, 1, "memory", first=1)
    assert keys_of(store) == ["k0"]
    logs_of(store)[0].unlink()
    with pytest.raises(shoal.CorruptionError, match="newest log file"):
        shoal.open(store, linger=0)


@pytest.mark.parametrize("bad", [-1, *slow(1 << 63, "1", 1.5, None, True)])
@pytest.mark.parametrize("name", ["log_number", "checkpoint_version"])
def test_bad_numbers_in_store_json(store: Path, name: str, bad: object) -> None:
    """A number that shoal did not write is damage."""
    serve_often(store, 1)
    fields = json.loads((store / store_files.META_FILE).read_bytes())
    (store / store_files.META_FILE).write_text(json.dumps(fields | {name: bad}))
    with pytest.raises(shoal.CorruptionError, match=name):
        shoal.open(store, linger=0)


@pytest.mark.long
def test_killed_before_the_head_of_the_named_file_is_on_disk(store: Path) -> None:
    """A power cut leaves the file that store.json names, and zeros in it: nothing is missing, now or after a kill."""
    serve_often(store, 2)
    meta = store_files.read_meta(store)
    assert meta is not None
    number = meta.log_number + 1
    (store / wal_format.file_name(number)).write_bytes(bytes(1 << 16))
    store_files.write_meta(store, meta._replace(log_number=number))
    with shoal.open(store, read_only=True) as db:
        assert shoal.KVStore(db).list(RUN) == ["k0", "k1"]
    for _ in range(3):
        with shoal.open(store, linger=0) as db:
            assert shoal.KVStore(db).list(RUN) == ["k0", "k1"]
            os.kill(db.info().coordinator_pid, signal.SIGKILL)
        rests(store)


class _Killed(BaseException):
    pass


class _KilledAt(MemoryStorage):
    """A disk whose user is killed before its n-th change."""

    def __init__(self, files: dict[str, bytes], left: int) -> None:
        super().__init__(files)
        self._left = left

    def _change(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _Killed

    def truncate(self, name: str, size: int) -> None:
        self._change()
        super().truncate(name, size)

    def remove(self, name: str) -> None:
        self._change()
        super().remove(name)

    def replace(self, name: str, content: bytes) -> None:
        self._change()
        super().replace(name, content)


def _meta(log_number: int) -> StoreMeta:
    return StoreMeta("buffered", limits.MIN_STORE_BYTES, STORE_ID, log_number)


def _torn() -> tuple[dict[str, bytes], int]:
    """Two files of another boot: the first lacks its last record, which was never synced, and the second is whole."""
    storage, model = MemoryStorage(), Model()
    log = WalWriter(storage, 1, 0, STORE_ID)
    log.boot_id = 1
    model.append(log, 5)
    log._rotate()
    model.append(log, 5)
    first, second = sorted(log.first_versions)
    files = storage.frozen()
    data = files[wal_format.file_name(first)]
    _, start, _ = whole(data)[-1]
    return files | {wal_format.file_name(first): data[:start] + bytes(len(data) - start)}, second


def _headless() -> tuple[dict[str, bytes], int]:
    """The second file has been named, and its head is not on the disk."""
    storage, model = MemoryStorage(), Model()
    log = WalWriter(storage, 1, 0, STORE_ID)
    model.append(log, 4)
    return storage.frozen() | {wal_format.file_name(7): bytes(4096)}, 7


@pytest.mark.parametrize("make", [_torn, _headless])
def test_recovery_is_killed_when_it_removes_the_named_file(make: Callable[[], tuple[dict[str, bytes], int]]) -> None:
    """Rightly: no promise is in it. Before that another file is named, so a kill at any moment is no missing file."""
    files, named = make()
    files[store_files.META_FILE] = store_files.encode_meta(_meta(named))
    for kills_at in range(20):
        storage = _KilledAt(files, kills_at)
        with contextlib.suppress(_Killed):
            for _ in WalReader(storage, 0, STORE_ID, named).records():
                pass
        left = storage.frozen()
        meta = store_files.decode_meta(left[store_files.META_FILE], Path())
        following = MemoryStorage(left)
        assert [c.version for c in WalReader(following, 0, STORE_ID, meta.log_number).records()] == [1, 2, 3, 4]
        if storage._left > 0:  # it was not killed any more
            assert wal_format.file_name(named) not in left
            assert meta.log_number == 1
            return
    pytest.fail("it never comes to an end")


def test_a_full_disk_puts_the_naming_off() -> None:
    """The log goes on, and the file named before stays, whatever a checkpoint has, until the newest can be named."""
    storage, model = MemoryStorage(), Model()
    log = WalWriter(storage, 1, 0, STORE_ID)
    named = [1]

    def name(number: int) -> None:
        if not named:
            raise StoreFullError("full")
        named[0] = number

    log.name_newest, log.named_number = name, 1
    named.clear()
    model.append(log, 5)
    for _ in range(2):
        log._rotate()
        log.prepare()
        model.append(log, 5)
    log.remove_before(14)
    assert log.named_number == 1
    files = storage.frozen()
    assert wal_format.file_name(1) in files
    assert wal_format.file_name(2) not in files
    recovered = MemoryStorage(files)
    reader = WalReader(recovered, 14, STORE_ID, 1)
    assert [commit.version for commit in reader.records()] == [15]
    assert wal_format.file_name(1) in recovered.files
    named.append(1)
    log.prepare()
    assert named == [3]
    log.remove_before(14)
    assert wal_format.file_name(1) not in storage.files
