"""Damaged files: opening shows a committed prefix or raises CorruptionError, and never less than was acknowledged."""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import shoal
from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log import writer as wal_writer
from shoal.coordinator.log.format import COORDINATOR
from shoal.shm.files import checkpoint
from shoal.shm.limits import Limits
from tests.support.histories.history_workers import seed_from
from tests.support.stores.damaged import STORE_ID, MemoryStorage, Model, Opened, flipped, from_disk, open_or_corrupt

RUN = "run"
COMMITS = 60
SAMPLE = 40
LAST_BYTES = 4096
THIS_BOOT, OTHER_BOOT = 0x1111, 0x2222

Files = dict[str, bytes]
States = list[dict[str, object]]
AtRest = Callable[[bool], tuple[Path, Files, States]]


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The boot id shoal sees, to be changed at will."""
    current = {"id": THIS_BOOT}
    monkeypatch.setattr(wal_format, "boot_id", lambda: current["id"])
    return current


def _build(path: Path, clean: bool) -> tuple[Files, list[dict[str, object]]]:
    """A store made through the public API, closed or killed; its files and its state at every version."""
    states: list[dict[str, object]] = [{}]
    with shoal.open(path, max_bytes=8 << 20, linger=0.05, timeout=60) as db:
        kv = shoal.KVStore(db)
        rng = random.Random(1)
        while len(states) <= COMMITS:
            with db.transaction(RUN) as txn:
                for key in rng.sample(["a", "b", "c", "d", "e"], rng.randint(1, 3)):
                    txn.kv.put(key, rng.randbytes(rng.randint(0, 40)))
                if "e" in states[-1]:
                    txn.kv.delete("e")
            states.append(dict(kv.list_with_values(RUN)))
            kv.increment(RUN, "n")
            states.append(dict(kv.list_with_values(RUN)))
        pid = db.info().coordinator_pid
        if not clean:
            os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 60
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < until, "the coordinator did not end"
        time.sleep(0.01)
    files = from_disk(path)
    return files, _by_version(files[_only(files, "wal-")], states)


def _by_version(data: bytes, states: list[dict[str, object]]) -> list[dict[str, object]]:
    """The state at every version: the coordinator makes empty versions between the commits that led to ``states``."""
    following = iter(states)
    found, offset = [next(following)], wal_format.FILE_HEAD_BYTES
    while (decoded := wal_format.decode_record(data, offset)) is not None:
        record, offset = decoded
        if not record.is_close_mark:
            found.append(found[-1] if record.client_id == COORDINATOR else next(following))
    return found


@pytest.fixture(scope="module")
def at_rest(tmp_path_factory: pytest.TempPathFactory) -> AtRest:
    """Call it with whether the store shall have been closed in order: its path, files and states, made once."""

    @functools.cache
    def made(clean: bool) -> tuple[Path, Files, States]:
        path = tmp_path_factory.mktemp("built") / "db"
        return path, *_build(path, clean)

    return made


@pytest.fixture(params=[True, False], ids=["closed", "killed"])
def built(request: pytest.FixtureRequest, at_rest: AtRest) -> tuple[Files, States, bool]:
    """Files and states of one store, and whether it was closed in order."""
    _, files, states = at_rest(request.param)
    return files, states, request.param


def _only(files: Files, kind: str) -> str:
    (name,) = [name for name in files if name.startswith(kind)]
    return name


def _records(data: bytes) -> list[tuple[int, int, int]]:
    """(version, start, end) of every commit in a log file, without padding; the mark of a clean close has version 0."""
    records, offset = [], wal_format.FILE_HEAD_BYTES
    while (found := wal_format.decode_record(data, offset)) is not None:
        record, following = found
        end = offset + wal_format.record_bytes(record)
        records.append((0 if record.is_close_mark else record.version, offset, end))
        offset = following
    return records


def _check_prefix(files: Files, states: list[dict[str, object]]) -> int:
    """Recover: -1 for CorruptionError, else the version, whose state must be the one it was."""
    opened = open_or_corrupt(files)
    if opened is None:
        return -1
    assert opened.state == states[opened.version]
    again = Opened(opened.storage)
    assert (again.version, again.state) == (opened.version, opened.state), "a second recovery saw something else"
    return opened.version


def _cuts(built: tuple[Files, States, bool], places: list[int]) -> None:
    files, states, _ = built
    name = _only(files, "wal-")
    records = _records(files[name])
    for place in places:
        whole = max((version for version, _, end in records if end <= place), default=0)
        version = _check_prefix({**files, name: files[name][:place]}, states)
        assert version == whole, f"cut at {place}"


def _flips(built: tuple[Files, States, bool], places: list[int]) -> None:
    files, states, clean = built
    name = _only(files, "wal-")
    data = files[name]
    records = _records(data)
    last = len(states) - 1
    rng = random.Random(seed_from(31))
    for place in places:
        version = _check_prefix({**files, name: flipped(data, place, rng.randint(1, 255))}, states)
        hit = next((v for v, start, end in records if start <= place < end), None)
        tail = hit == 0 or hit is None or (hit == last and not clean)
        if not tail:
            assert version == -1, f"byte {place} of version {hit}: acknowledged commits were cut silently"
        elif hit == last:
            assert version == last - 1, f"byte {place}"
        elif place >= wal_format.FILE_HEAD_BYTES:
            assert version == last, f"byte {place} is in no commit"
        else:
            assert version == -1, f"byte {place} of the file's head"


def _places(count: int, from_: int = 0) -> list[int]:
    return sorted(random.Random(seed_from(32)).sample(range(from_, count), min(SAMPLE, count - from_)))


@pytest.mark.long
def test_log_cut_anywhere(built: tuple[Files, States, bool]) -> None:
    """A log cut at any byte opens as the commits before the cut, or not at all (a sample of all places)."""
    _cuts(built, _places(len(built[0][_only(built[0], "wal-")]) + 1))


@pytest.mark.long
def test_log_flipped_anywhere(built: tuple[Files, States, bool]) -> None:
    """A byte flipped in a commit that others follow is CorruptionError; elsewhere nothing is lost (a sample)."""
    size = len(built[0][_only(built[0], "wal-")])
    most, last = _places(size), _places(size, max(0, size - LAST_BYTES))
    _flips(built, [*range(0, wal_format.FILE_HEAD_BYTES, 5), *most[::4], *last[::2]])


@pytest.mark.slow
def test_log_cut_at_every_byte(built: tuple[Files, States, bool]) -> None:
    """The same at every byte of the log."""
    _cuts(built, list(range(len(built[0][_only(built[0], "wal-")]) + 1)))


@pytest.mark.slow
def test_log_flipped_at_every_byte(built: tuple[Files, States, bool]) -> None:
    """The same at every byte of the log."""
    _flips(built, list(range(len(built[0][_only(built[0], "wal-")]))))


def _trimmed(storage: MemoryStorage) -> Files:
    """The files of a storage without most of their unused end."""
    return {name: data.rstrip(b"\0") + bytes(64) for name, data in storage.frozen().items() if data.strip(b"\0")}


def _checkpointed(tmp_path: Path, boot: dict[str, int]) -> tuple[Files, Model]:
    """A checkpoint of 100 commits with another 10 in the log after it."""
    storage, model = MemoryStorage(), Model()
    log = wal_writer.WalWriter(storage, 1, 0, STORE_ID)
    model.append(log, 100)
    opened = Opened(storage)
    checkpoint.write_checkpoint(tmp_path, opened.reader, 100, [[7, 100, 100, []]])
    rest = MemoryStorage()
    model.append(wal_writer.WalWriter(rest, 2, 100, STORE_ID), 10)
    files = {
        **from_disk(tmp_path),
        **{n: d.rstrip(b"\0") + bytes(64) for n, d in rest.frozen().items() if d.strip(b"\0")},
    }
    assert Opened(MemoryStorage(files)).state == model.states[110]
    return files, model


def _damage_checkpoint(tmp_path: Path, boot: dict[str, int], sample: bool) -> None:
    files, _ = _checkpointed(tmp_path, boot)
    name = _only(files, "checkpoint-")
    data = files[name]
    places = _places(len(data)) if sample else list(range(len(data)))
    rng = random.Random(seed_from(33))
    for place in places:
        assert open_or_corrupt({**files, name: data[:place]}) is None, f"cut at {place}"
        assert open_or_corrupt({**files, name: flipped(data, place, rng.randint(1, 255))}) is None, f"flip at {place}"
    assert open_or_corrupt({**files, name: data + b"\0"}) is None


@pytest.mark.long
def test_damaged_checkpoint_is_always_noticed(tmp_path: Path, boot: dict[str, int]) -> None:
    """A checkpoint cut or flipped anywhere is CorruptionError (a sample of all places)."""
    _damage_checkpoint(tmp_path, boot, sample=True)


@pytest.mark.slow
def test_checkpoint_damaged_at_every_byte_is_noticed(tmp_path: Path, boot: dict[str, int]) -> None:
    """The same at every byte."""
    _damage_checkpoint(tmp_path, boot, sample=False)


def test_missing_checkpoint_is_noticed(tmp_path: Path, boot: dict[str, int]) -> None:
    """A log that begins after version 1 with no checkpoint before it is CorruptionError, not a store of ten commits."""
    files, _ = _checkpointed(tmp_path, boot)
    assert open_or_corrupt({name: data for name, data in files.items() if name.startswith("wal-")}) is None


def _synced_log(synced: int, after: int, file_bytes: int) -> tuple[Files, Model]:
    """A log of which ``synced`` commits are known to be on disk, then ``after`` more, one of them knowing of that."""
    storage, model = MemoryStorage(), Model()
    log = wal_writer.WalWriter(storage, 1, 0, STORE_ID, limits=Limits(log_file_bytes=file_bytes))
    model.append(log, synced)
    log.sync()
    model.append(log, after)
    return _trimmed(storage), model


def _all_records(files: Files) -> list[tuple[str, int, int, int]]:
    return [(name, *record) for name in sorted(files) for record in _records(files[name])]


@pytest.mark.long
@pytest.mark.parametrize("file_bytes", [1 << 16, 1024], ids=["one file", "many files"])
@pytest.mark.parametrize("boot_now", [THIS_BOOT, OTHER_BOOT], ids=["same boot", "other boot"])
def test_damage_before_acknowledged_commits_is_never_cut(
    boot: dict[str, int], monkeypatch: pytest.MonkeyPatch, boot_now: int, file_bytes: int
) -> None:
    """Damage is CorruptionError if something after it proves that it was whole.

    Within a boot any commit after it does; after a power cut a commit that knew it to be on disk. What no one knew to
    be on disk is a torn tail then: it is cut, with what stands behind it.
    """
    synced, after = 20, 10
    files, model = _synced_log(synced, after, file_bytes)
    assert len(files) == 1 or file_bytes == 1024
    boot["id"] = boot_now
    last = synced + after
    for name, version, start, end in _all_records(files):
        for place in (start, (start + end) // 2):
            found = _check_prefix({**files, name: flipped(files[name], place, 0x40)}, model.states)
            if version <= synced or (boot_now == THIS_BOOT and version < last):
                assert found == -1, f"version {version} was cut silently to {found}"
            else:
                assert found == version - 1, f"version {version}: {found}"


@pytest.mark.long
def test_torn_tail_stays_cut(boot: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What stood behind a torn record does not come back when new commits are logged and the store is opened again."""
    files, model = _synced_log(20, 10, 1 << 16)
    boot["id"] = OTHER_BOOT
    for name, version, start, _ in _all_records(files):
        if version <= 20:
            continue
        opened = open_or_corrupt({**files, name: flipped(files[name], start, 1)})
        assert opened is not None
        assert opened.version == version - 1
        again = Model()
        again.states = model.states[:version]
        again.append(opened.log(), 5)
        reopened = Opened(opened.storage)
        assert reopened.version == again.version
        assert reopened.state == again.states[-1]
        assert reopened.recovered.sessions[7][0] == again.version


def test_missing_log_file_is_noticed(boot: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A log file gone from the middle is CorruptionError, in this boot and, if it had been synced, in any other."""
    files, _ = _synced_log(30, 1, 1024)
    assert len(files) > 3
    for boot["id"] in (THIS_BOOT, OTHER_BOOT):
        for name in sorted(files)[:-1]:
            assert open_or_corrupt({n: data for n, data in files.items() if n != name}) is None, name


@pytest.mark.long
@pytest.mark.parametrize("what", ["log", "checkpoint"])
def test_open_reports_damage(tmp_path: Path, what: str, at_rest: AtRest) -> None:
    """``shoal.open`` of a damaged store raises CorruptionError with file, offset, expected and found.

    A second attempt says the same: nothing was repaired behind the user's back.
    """
    path, source = tmp_path / "db", tmp_path / "source"
    if what == "log":
        shutil.copytree(at_rest(True)[0], path)
    else:
        with shoal.open(source, linger=0.05, timeout=60) as db:
            shoal.KVStore(db).put(RUN, "a", "value")
            db.backup(path)
    kind = {"log": "wal-", "checkpoint": "checkpoint-"}[what]
    name = _only(from_disk(path), kind)
    data = (path / name).read_bytes()
    (path / name).write_bytes(flipped(data, 100, 1))
    for _ in range(2):
        with pytest.raises(shoal.CorruptionError) as caught:
            shoal.open(path, timeout=60)
        error = caught.value
        assert Path(error.file).name == name
        assert 0 <= error.offset <= 100
        assert error.expected
        assert error.found
        assert str(error.offset) in str(error)
    (path / name).write_bytes(data)
    with shoal.open(path, linger=0.05, timeout=60) as db:
        assert db.check() == []
