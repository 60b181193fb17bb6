"""Every durable file says which store it belongs to, and one of another store is found and named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import shoal
from shoal.cli import main as cli
from shoal.coordinator.log import format as wal_format
from shoal.shm.files import checkpoint, store_files
from shoal.shm.files.storage import DiskStorage
from shoal.shm.host.child_python import python_environment
from shoal.transfer import repair
from tests.support.stores import old_formats

pytestmark = pytest.mark.long

RUN = "run"


def _make(path: Path, keys: int, value: str) -> None:
    """A store at rest, in one log file."""
    with shoal.open(path, linger=0) as db:
        kv = shoal.KVStore(db)
        for i in range(keys):
            kv.put(RUN, f"k{i:03}", value)
    _rests(path)


def _rests(path: Path) -> None:
    """Wait for the coordinator's end."""
    subprocess.run(
        ["flock", str(path / store_files.COORDINATOR_LOCK_FILE), "true"],
        check=True,
        env=python_environment(),
        timeout=20,
    )


def _logs(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.glob("wal-*.log"))


def _head(path: Path) -> wal_format.FileHead:
    head = wal_format.decode_file_head(path.read_bytes())
    assert head is not None
    return head


def _keys(path: Path) -> dict[str, object]:
    with shoal.open(path, linger=0) as db:
        found = dict(shoal.KVStore(db).list_with_values(RUN))
    _rests(path)
    return found


def _id(path: Path) -> bytes:
    meta = store_files.read_meta(path)
    assert meta is not None
    assert meta.store_id is not None
    return meta.store_id


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two stores at rest whose files fit each other in number and versions; not to be opened."""
    directory = tmp_path_factory.mktemp("templates")
    _make(directory / "a", 20, "a")
    _make(directory / "b", 20, "b")
    return directory / "a", directory / "b"


@pytest.fixture
def two(tmp_path: Path, templates: tuple[Path, Path]) -> tuple[Path, Path]:
    """A copy of each template."""
    copies = tmp_path / "a", tmp_path / "b"
    for template, copy in zip(templates, copies, strict=True):
        shutil.copytree(template, copy, ignore=lambda _, names: [name for name in names if name.endswith(".sock")])
    return copies


def test_every_file_names_its_store(tmp_path: Path, two: tuple[Path, Path]) -> None:
    """Ids differ between stores, stay over restarts, and stand in store.json, log files and checkpoints."""
    a, b = two
    assert _id(a) != _id(b)
    before = _id(a)
    assert len(_keys(a)) == 20
    assert _id(a) == before
    assert {_head(a / name).store_id for name in _logs(a)} == {before}
    with shoal.open(a, linger=0) as db:
        db.backup(tmp_path / "backup")
    (name,) = (entry.name for entry in (tmp_path / "backup").glob("*.ckpt"))
    reader = checkpoint.CheckpointReader(DiskStorage(tmp_path / "backup"), name)
    assert sum(len(entries) for entries in reader.entries()) > 0
    assert reader.store_id == _id(tmp_path / "backup") != before, "a backup is a store of its own"


def _refused(path: Path, name: str, offset: int, expected: bytes, found: bytes) -> None:
    """Recovery, check and repair name the file, the place and both ids."""
    with pytest.raises(shoal.CorruptionError) as raised:
        shoal.open(path, linger=0)
    error = raised.value
    assert (error.file, error.offset) == (name, offset)
    assert expected.hex() in error.expected
    assert found.hex() in error.found


@pytest.mark.parametrize("place", ["last", "only"])
def test_log_file_of_another_store(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str], place: str) -> None:
    """It may fit in number and versions: it is damage all the same, and nothing of it is saved."""
    a, b = two
    own, other = _id(a), _id(b)
    if place == "last":
        assert len(_keys(a)) == 20
        assert len(_keys(b)) == 20
    name = _logs(a)[-1]
    assert name in _logs(b)
    shutil.copyfile(b / name, a / name)
    _refused(a, name, wal_format.STORE_ID_OFFSET, own, other)
    assert cli.main(["check", str(a)]) == 1
    shown = capsys.readouterr().out
    assert name in shown
    assert other.hex() in shown
    for take_all in (False, True):
        new = a.parent / f"new-{take_all}"
        done = repair.Repair(a, new, take_all, None, lambda _: None)
        assert any(other.hex() in line for line in done.report)
        assert set(_keys(new).values()) <= {"a"}
        assert _id(new) not in (own, other)


def test_checkpoint_of_another_store(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint of another store would hide the log: it is damage, and repair rebuilds the store without it."""
    a, b = two
    own = _id(a)
    with shoal.open(b, linger=0) as db:
        db.backup(b.parent / "backup")
    other = _id(b.parent / "backup")
    (name,) = (entry.name for entry in (b.parent / "backup").glob("*.ckpt"))
    shutil.copyfile(b.parent / "backup" / name, a / name)
    _refused(a, name, 0, own, other)
    assert cli.main(["check", str(a)]) == 1
    assert other.hex() in capsys.readouterr().out
    for take_all in (False, True):
        new = a.parent / f"new-{take_all}"
        repair.Repair(a, new, take_all, None, lambda _: None)
        assert set(_keys(new).values()) == {"a"}
        assert len(_keys(new)) == 20


def test_store_json_of_another_store(two: tuple[Path, Path]) -> None:
    """Then none of the log files is the store's."""
    a, b = two
    own, other = _id(a), _id(b)
    shutil.copyfile(b / store_files.META_FILE, a / store_files.META_FILE)
    _refused(a, _logs(a)[0], wal_format.STORE_ID_OFFSET, other, own)


def test_store_json_lost(two: tuple[Path, Path]) -> None:
    """The id is taken from the files; files that disagree are damage still."""
    a, b = two
    own = _id(a)
    (a / store_files.META_FILE).unlink()
    assert len(_keys(a)) == 20
    assert _id(a) == own
    (a / store_files.META_FILE).unlink()
    name = f"{wal_format.file_name(99)}"
    head = wal_format.encode_file_head(wal_format.FileHead(99, 21, 20, 0, _id(b)))
    (a / name).write_bytes(head)
    _refused(a, name, wal_format.STORE_ID_OFFSET, own, _id(b))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", ["log", "backup"])
def test_old_formats_open(tmp_path: Path, kind: str, version: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A store of an old format is read whole and checked as sound; it gets an id, and its new files are of today."""
    store = tmp_path / "store"
    _make(store, 20, "a")
    if kind == "backup":
        with shoal.open(store, linger=0) as db:
            db.backup(tmp_path / "backup")
        store = tmp_path / "backup"
    old_formats.rewrite(store, version)
    assert cli.main(["check", str(store)]) == 0
    capsys.readouterr()
    old = set(_logs(store))
    with shoal.open(store, linger=0) as db:
        kv = shoal.KVStore(db)
        assert len(kv.list(RUN)) == 20
        kv.put(RUN, "new", "a")
    _rests(store)
    made = _id(store)
    heads = [_head(store / name) for name in set(_logs(store)) - old]
    assert {(head.store_id, head.format_version) for head in heads} == {(made, wal_format.FORMAT_VERSION)}
    assert len(_keys(store)) == 21
    assert _id(store) == made
    assert cli.main(["check", str(store)]) == 0


EVERYTHING = """
import os, signal, sys
import shoal

db = shoal.open(sys.argv[1], linger=0)
for space in (shoal.Namespace(), shoal.Namespace("zzzzzzz", "default", "a"), shoal.Namespace("a", "b", "default")):
    runs, kv = shoal.RunIndex(db, namespace=space), shoal.KVStore(db, namespace=space)
    for run in ("default", "gone", "r"):
        runs.create_run(run_id=run)
        kv.put(run, "key", run)
        shoal.EventLog(db, namespace=space).append(run, "default", {"of": run})
    runs.delete_run("gone")
    runs.set_retention(shoal.RetentionPolicy(events=9), "r")
shoal.TaskQueue(db).put("r", "q", 1)
if len(sys.argv) > 2:
    db.backup(sys.argv[2])
db.lease("r", "held", ttl=600.0)
os.kill(db.info().coordinator_pid, signal.SIGKILL)
os._exit(0)
"""


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", ["log", "backup"])
def test_everything_in_an_old_format(tmp_path: Path, kind: str, version: int) -> None:
    """All namespaces, what was deleted and who holds what: the store exports the same, byte for byte, and goes on."""
    store, backup = tmp_path / "store", tmp_path / "backup"
    script = [sys.executable, "-c", EVERYTHING, str(store), *([str(backup)] if kind == "backup" else [])]
    subprocess.run(script, check=True, env=python_environment(), timeout=60)
    _rests(store)
    store = backup if kind == "backup" else store
    old = tmp_path / "old"
    shutil.copytree(store, old, ignore=shutil.ignore_patterns("*.sock"))
    old_formats.rewrite(old, version)
    for path in (store, old):
        assert cli.main(["check", str(path)]) == 0
        assert cli.main(["export", str(path), str(tmp_path / f"{path.name}.jsonl")]) == 0
    assert (tmp_path / "old.jsonl").read_bytes() == (tmp_path / f"{store.name}.jsonl").read_bytes()
    with shoal.open(old, linger=0) as db:
        assert [lease.name for lease in db.leases("r")] == ([] if kind == "backup" else ["held"])
        assert shoal.RunIndex(db).get_retention("r") == shoal.RetentionPolicy(events=9)
        shoal.RunIndex(db).delete_run("r")
        assert not shoal.KVStore(db).list("r")


def test_format_1_file_behind_one_with_an_id(two: tuple[Path, Path]) -> None:
    """A file that names no store, where the store's own do, was written by another."""
    a, b = two
    assert len(_keys(b)) == 20
    old_formats.rewrite(b, 1)
    late = _logs(b)[-1]
    shutil.copyfile(b / late, a / late)
    with pytest.raises(shoal.CorruptionError, match="format 3") as raised:
        shoal.open(a, linger=0)
    assert raised.value.file == late


def test_copied_directory_is_the_same_store(two: tuple[Path, Path]) -> None:
    """``cp -r`` makes a store that opens, with the same id."""
    a, _ = two
    copy = a.parent / "copy"
    shutil.copytree(a, copy, ignore=lambda _, names: [name for name in names if name.endswith(".sock")])
    assert len(_keys(copy)) == 20
    assert _id(copy) == _id(a)


BAD_IDS: list[Callable[[dict[str, object]], object]] = [
    lambda fields: fields.pop("store_id"),
    lambda fields: fields.update(store_id=None),
    lambda fields: fields.update(store_id="0" * 31),
    lambda fields: fields.update(store_id="x" * 32),
    lambda fields: fields.update(store_id=7),
]


@pytest.mark.parametrize("spoil", BAD_IDS)
def test_bad_id_in_store_json(two: tuple[Path, Path], spoil: Callable[[dict[str, object]], object]) -> None:
    """A store.json whose id is none is damaged."""
    a, _ = two
    fields = json.loads((a / store_files.META_FILE).read_bytes())
    spoil(fields)
    (a / store_files.META_FILE).write_text(json.dumps(fields))
    with pytest.raises(shoal.CorruptionError, match="store_id"):
        shoal.open(a, linger=0)
