"""``shoal repair``: a damaged store becomes a new one that is a state that was, and what was lost is said."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import shoal
from shoal.cli.main import main
from shoal.coordinator.log.format import FileHead, encode_file_head, file_name
from shoal.coordinator.recovery import survey
from shoal.shm.errors import AlreadyExistsError, CorruptionError, InvalidOperationError, NotFoundError, StoreFullError
from shoal.shm.files import checkpoint, store_files
from shoal.shm.files.storage import DiskStorage
from shoal.transfer import repair as repair_module
from shoal.transfer.repair import REPORT_FILE, Repair
from tests.support.stores.damaged import MemoryStorage, Opened, flipped, from_disk, whole

RUN = "run"
COMMITS = 60
Contents = dict[str, object]


class Sound(NamedTuple):
    """The files of a store, what it held at each version, and the versions of its commits."""

    files: dict[str, bytes]
    states: dict[int, Contents]
    commits: list[int]


def _contents(db: shoal.Database) -> Contents:
    return dict(shoal.KVStore(db).list_with_values(RUN)) | {
        "events": [event.payload for event in shoal.EventLog(db).iter(RUN)]
    }


def _keys(path: Path) -> Contents:
    """What a store at rest has in its KVStore, recovered in this process."""
    return {key: value for key, value in Opened(MemoryStorage(from_disk(path))).state.items() if key[0] == "k"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """A store that was closed in order."""
    path = tmp_path_factory.mktemp("sound") / "store"
    states: dict[int, Contents] = {}
    state: Contents = {}
    with shoal.open(path, max_bytes=8 << 20, linger=0.0, timeout=60) as db:
        for i in range(COMMITS):
            with db.transaction(RUN) as txn:
                txn.kv.put(f"k{i % 7}", f"{i}:" + "x" * i)
                txn.kv.delete(f"k{(i + 3) % 7}")
                txn.events.append("step", i)
            state = {key: value for key, value in state.items() if key != f"k{(i + 3) % 7}"}
            state |= {f"k{i % 7}": f"{i}:" + "x" * i, "events": list(range(i + 1))}
            states[txn.version] = state
        assert _contents(db) == state
        pid = db.info().coordinator_pid
    _wait_for(lambda: not Path(f"/proc/{pid}").exists())
    files = {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.is_file()}
    commits = sorted(states)
    for record, _, _ in whole(files[file_name(1)]):  # some are empty versions the coordinator made
        states.setdefault(record.version, states.get(record.version - 1, {}))
    return Sound(files, states, commits)


def _wait_for(done: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 60
    while not done():
        assert time.monotonic() < until_s
        time.sleep(0.005)


def _write(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(mode=0o700)
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def _looks(path: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        entry.name: (entry.read_bytes(), entry.stat().st_mtime_ns, entry.stat().st_mode) for entry in path.iterdir()
    }


def _damaged_at(files: dict[str, bytes], *versions: int) -> dict[str, bytes]:
    """The records of some versions with a bit turned over."""
    name = file_name(1)
    data = files[name]
    for record, start, end in whole(files[name]):
        if record.version in versions and not record.is_close_mark:
            data = flipped(data, (start + end) // 2, 8)
    return {**files, name: data}


def _repair(old: Path, new: Path, take_all: bool = False, max_bytes: int | None = None) -> Repair:
    return Repair(old, new, take_all, max_bytes, lambda _: None)


@pytest.mark.long
def test_longest_prefix_is_saved(tmp_path: Path, sound: Sound) -> None:
    """The new store opens as the old one was at the newest version before the damage: check, chain and versions hold.

    Its next commit has a version the old store never gave. The old store is not touched, the new one is private.
    """
    files, states, commits = sound
    first, second = commits[20], commits[40]
    old, new = _write(tmp_path / "old", _damaged_at(files, first, second)), tmp_path / "new"
    before = _looks(old)
    repair = _repair(old, new)
    assert _looks(old) == before
    assert new.stat().st_mode & 0o777 == 0o700
    assert {entry.stat().st_mode & 0o777 for entry in new.iterdir()} == {0o600}
    newest = max(states)
    text = (new / REPORT_FILE).read_text()
    assert text == "".join(f"{line}\n" for line in repair.report)
    assert f"{old} is damaged in 2 places:" in text
    assert f"expected the record of version {first}, found 7377616c" in text
    assert f"is the store as it was at version {first - 1}\n" in text
    assert f"lost: everything after it, versions {first} to {newest} ({newest - first + 1} commits)" in text
    assert f"lost: version {first} cannot be read\nlost: version {second} cannot be read\n" in text
    assert f"of these {newest - first - 1} commits can be read" in text
    assert "    run 'run' key 'k3'\n" in text
    with shoal.open(new, linger=0.0, timeout=60) as db:
        assert db.check() == []
        assert _contents(db) == states[first - 1]
        chain = shoal.EventLog(db).verify_chain(RUN)
        assert (chain.is_valid, chain.length) == (True, 20)
        with db.transaction(RUN) as txn:
            txn.kv.put("new", 1)
        assert txn.version > newest  # the coordinator may make versions of its own


def test_all_that_can_be_read(tmp_path: Path, sound: Sound, capsys: pytest.CaptureFixture[str]) -> None:
    """With --all also the commits behind the damage; the report says it never was. The path need not be UTF-8."""
    files, states, commits = sound
    lost = commits[20]
    old, new = _write(tmp_path / "old\udcff", _damaged_at(files, lost)), tmp_path / "new"
    assert main(["repair", str(old), str(new), "--all"]) == 0
    out = capsys.readouterr().out
    assert "NO STATE THAT EVER WAS" in out
    assert f"last written before version {lost}" in out
    assert f"lost: version {lost} cannot be read" in out
    assert main(["check", str(new)]) == 0
    assert "old\\udcff is damaged" in (new / REPORT_FILE).read_text()
    assert _keys(new) == {key: value for key, value in states[max(states)].items() if key != "events"}


def test_nothing_to_repair(tmp_path: Path, sound: Sound, capsys: pytest.CaptureFixture[str]) -> None:
    """A sound store is said to be sound, exit 0, and no new one is made."""
    old = _write(tmp_path / "old", sound.files)
    before = _looks(old)
    assert main(["repair", str(old), str(tmp_path / "new")]) == 0
    assert f"is sound at version {max(sound.states)}: nothing to repair" in capsys.readouterr().out
    assert [entry.name for entry in tmp_path.iterdir()] == ["old"]
    assert _looks(old) == before


def test_refusals(tmp_path: Path, sound: Sound, capsys: pytest.CaptureFixture[str]) -> None:
    """A new store that is there or lies in the old one, and an old one that is none, are refused with nothing made."""
    old = _write(tmp_path / "old", _damaged_at(sound.files, 5))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for new in ("full", "file", "old"):
        with pytest.raises(AlreadyExistsError, match="give a new one"):
            _repair(old, tmp_path / new)
    with pytest.raises(InvalidOperationError, match="only read"):
        _repair(old, old / "new")
    for none in ("empty", "nowhere", "file"):
        with pytest.raises(NotFoundError, match="no store"):
            _repair(tmp_path / none, tmp_path / "new")
    assert main(["repair", str(tmp_path / "nowhere"), str(tmp_path / "new")]) == 1
    assert capsys.readouterr().err.startswith("shoal: there is no store at ")
    assert main(["repair", str(old), str(tmp_path / "new"), "--max-bytes", "100"]) == 2
    assert sorted(tmp_path.rglob("*")) == before
    _repair(old, tmp_path / "empty")
    assert (tmp_path / "empty" / store_files.META_FILE).exists()


def test_served_store_is_refused(tmp_path: Path, memory_db: shoal.Database) -> None:
    """A store being served is refused: its memory is whole, and its files change."""
    with pytest.raises(InvalidOperationError, match="is being served; shoal backup copies it"):
        _repair(Path(memory_db.path), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_too_small_a_store_leaves_nothing(tmp_path: Path, sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room in the new store, or with any other failure, nothing of it is left."""
    old = _write(tmp_path / "old", _damaged_at(sound.files, 50))

    def full(*_: object) -> None:
        raise StoreFullError("no room")

    monkeypatch.setattr(repair_module, "apply_entries", full)
    monkeypatch.setattr(repair_module, "replayed", full)
    with pytest.raises(StoreFullError, match="larger --max-bytes"):
        _repair(old, tmp_path / "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["old"]


MOMENTS = {
    "nothing written": (checkpoint, "write_checkpoint"),
    "keys written": (repair_module, "_write_report"),
    "before store.json": (store_files, "write_meta"),
    "all written": (repair_module, "_read_back"),
    "before the rename": (os, "rename"),
}


FASTER = ("keys written", "before the rename")


@pytest.mark.parametrize("moment", [pytest.param(m, marks=() if m in FASTER else pytest.mark.slow) for m in MOMENTS])
def test_killed_in_the_midst(tmp_path: Path, sound: Sound, moment: str) -> None:
    """A kill at any moment leaves the old store as it was and no new one; the next repair is whole."""
    old, new = _write(tmp_path / "old", _damaged_at(sound.files, 50)), tmp_path / "new"
    before = _looks(old)
    child = os.fork()
    if not child:
        setattr(*MOMENTS[moment], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        try:
            _repair(old, new)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not new.exists()
    assert _looks(old) == before
    keys = _repair(old, new).keys
    assert keys is not None
    assert keys > 50
    assert main(["check", str(new)]) == 0


def _with_checkpoints(tmp_path: Path, files: dict[str, bytes], *versions: int) -> dict[str, bytes]:
    """The same store with checkpoints, as if each had been written at its version."""
    for version in versions:
        made = tmp_path / f"checkpoint-{version}"
        old = _write(tmp_path / f"old-{version}", _damaged_at(files, version + 1))
        _repair(old, made)
        (name,) = [entry.name for entry in made.iterdir() if entry.name.startswith("checkpoint-")]
        newest = checkpoint.version_of(name)
        assert newest is not None
        reader = checkpoint.CheckpointReader(DiskStorage(made), name)
        blocks = [entry for entries in reader.entries() for entry in entries]
        flat = [part for entry in blocks for part in entry]
        content = checkpoint._block(checkpoint.HEAD, [version, 0])
        for i in range(0, len(flat), 40):  # ten keys a block
            content += checkpoint._block(checkpoint.KEYS, flat[i : i + 40])
        content += checkpoint._block(checkpoint.END, [len(blocks), []])
        files = {**files, checkpoint.file_name(version): content}
    return files


@pytest.mark.long
def test_damaged_checkpoint(tmp_path: Path, sound: Sound) -> None:
    """Without its checkpoint a store is rebuilt from the log if that is whole, or from an older checkpoint and the log.

    With neither, no state that was can be had: that is said, and only --all saves what can be read of it.
    """
    files, states, commits = sound
    early, late = commits[20], commits[40]
    files = _with_checkpoints(tmp_path, files, early, late)
    name = checkpoint.file_name(late)
    files[name] = flipped(files[name], len(files[name]) // 2, 1)
    repair = _repair(_write(tmp_path / "a", files), tmp_path / "from-older")
    assert f"lost: the checkpoint of version {late} is not whole; that of version {early} was used" in repair.report
    assert "nothing that was committed is lost" in repair.report
    del files[checkpoint.file_name(early)]
    repair = _repair(_write(tmp_path / "b", files), tmp_path / "from-log")
    assert "nothing that was committed is lost" in repair.report
    _, start, _ = whole(files[file_name(1)])[late]
    log = files[file_name(1)]
    head = encode_file_head(FileHead(2, late + 1, late, 0))
    del files[file_name(1)]
    files[file_name(2)] = head + log[start:]
    old = _write(tmp_path / "c", files)
    with pytest.raises(CorruptionError, match="no state that ever was can be read, but --all saves what can"):
        _repair(old, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    repair = _repair(old, tmp_path / "some", take_all=True)
    text = "\n".join(repair.report)
    assert f"lost: versions 1 to {late} ({late} commits) cannot be read but for what that checkpoint has" in text
    assert "NO STATE THAT EVER WAS" in text
    newest = states[max(states)]
    found = _keys(tmp_path / "some")
    assert {key: newest[key] for key in found} == found
    assert len(found) > 3


def test_unreadable_sectors(tmp_path: Path, sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk does not give back is a finding and passed over; the rest is read."""
    files = sound.files
    old = _write(tmp_path / "old", files)
    bad = range(8192, 12288)

    class FailingOs:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def pread(self, fd: int, size: int, start: int) -> bytes:
            if start in bad:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return os.pread(fd, size, start)

    def read(self: DiskStorage, name: str) -> bytes:
        if name.startswith("wal-"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return (self.directory / name).read_bytes()

    monkeypatch.setattr(survey, "os", FailingOs())
    monkeypatch.setattr(DiskStorage, "read", read)
    seen = survey.survey_store(old)
    assert str(seen.findings[0]) == (
        f"{file_name(1)} at byte {bad.start}: expected bytes that can be read, found Input/output error"
    )
    records = whole(files[file_name(1)])
    damaged = [record.version for record, start, end in records if start < bad.stop and end > bad.start]
    assert seen.prefix_version() == damaged[0] - 1
    assert seen.missing() == [range(damaged[0], damaged[-1] + 1)]


def test_other_files(tmp_path: Path, sound: Sound) -> None:
    """store.json gone or broken is said and made anew; a format this shoal does not know is refused."""
    files = sound.files
    for i, meta in enumerate((None, b"{", b'{"format": 1, "durability": "weak", "max_bytes": 1}')):
        changed = {**files, store_files.META_FILE: meta or b""}
        if meta is None:
            del changed[store_files.META_FILE]
        repair = _repair(_write(tmp_path / f"old-{i}", changed), tmp_path / f"new-{i}", max_bytes=9 << 20)
        assert repair.report[1].startswith(f"  {store_files.META_FILE} at byte 0: expected ")
        assert "nothing that was committed is lost" in repair.report
        made = store_files.read_meta(tmp_path / f"new-{i}")
        assert made is not None
        assert made[:2] == ("buffered", 9 << 20)
    old = _write(tmp_path / "old", {**files, store_files.META_FILE: b'{"format": 4}'})
    with pytest.raises(shoal.ConfigurationError, match="has format 4"):
        _repair(old, tmp_path / "new")
