"""Log files and checkpoints that somebody removed are missed: no store opens that lacks what was acknowledged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from crash_workers import kill, processes_of, wait_for
from slow import slow

import shoal
from shoal import cli, repair
from shoal.coordinator.log import wal_format
from shoal.coordinator.log.wal_reader import number_of
from shoal.shm import checkpoint, store_files
from shoal.shm.limits import REMAKE_AFTER_S

RUN = "run"


def _sessions(path: Path, count: int, durability: str | None = None, first: int = 0) -> None:
    """Serve a store so many times, one key each; every time begins a log file."""
    for i in range(first, first + count):
        with shoal.open(path, durability=durability, linger=0) as db:
            shoal.KVStore(db).put(RUN, f"k{i}", i)
        _rests(path)


def _rests(path: Path) -> None:
    wait_for(lambda: not processes_of(path), "the coordinator to end", pause_s=0.02)


def _logs(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if number_of(entry.name) is not None)


def _keys(path: Path) -> list[str]:
    with shoal.open(path, linger=0) as db:
        assert db.check() == []
        found = shoal.KVStore(db).list(RUN)
    _rests(path)
    return found


def _refused(path: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever opens or checks the store names the file, and changes nothing."""
    before = {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.is_file()}
    for options in ({}, {"durability": "buffered"}, {"read_only": True}):
        with pytest.raises(shoal.CorruptionError) as raised:
            shoal.open(path, linger=0, **options)  # type: ignore[arg-type]
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


@pytest.mark.parametrize("durability", ["buffered", *slow("strict")])
@pytest.mark.parametrize("which", ["all", "newest", "oldest", "middle"])
def test_logs_removed_at_rest(store: Path, capsys: pytest.CaptureFixture[str], durability: str, which: str) -> None:
    """No checkpoint has what was in them: the store does not open, and repair saves what was before the gap."""
    _sessions(store, 3, durability)
    logs = _logs(store)
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
        assert _keys(new) == {"newest": ["k0", "k1"], "middle": ["k0"]}[which]


@pytest.mark.parametrize("which", ["checkpoint", "logs", "all"])
def test_files_of_a_store_with_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str], which: str) -> None:
    """Each of its two files, and both."""
    _sessions(tmp_path / "original", 2)
    store = tmp_path / "store"
    with shoal.open(tmp_path / "original", linger=0) as db:
        db.backup(store)
    _sessions(store, 1, first=2)
    (log,), (kept,) = _logs(store), store.glob("*.ckpt")
    if which != "checkpoint":
        log.unlink()
    if which != "logs":
        kept.unlink()
    _refused(store, log.name if which == "logs" else kept.name, capsys)


@pytest.mark.parametrize("made_by", ["backup", "repair"])
def test_only_file_of_a_store_never_served(tmp_path: Path, capsys: pytest.CaptureFixture[str], made_by: str) -> None:
    """A backup, or what repair made, is one checkpoint; without it, it is no empty store."""
    store = tmp_path / "store"
    _sessions(tmp_path / "original", 3)
    if made_by == "backup":
        with shoal.open(tmp_path / "original", linger=0) as db:
            db.backup(store)
    else:
        _logs(tmp_path / "original")[2].unlink()
        repair.Repair(tmp_path / "original", store, False, None, lambda _: None)
    (kept,) = store.glob("*.ckpt")
    shutil.copytree(store, tmp_path / "copy")
    assert _keys(tmp_path / "copy") == [f"k{i}" for i in range(3 if made_by == "backup" else 2)]
    kept.unlink()
    _refused(store, kept.name, capsys)


def _without_fields(path: Path, format_1: bool) -> None:
    fields = json.loads((path / store_files.META_FILE).read_bytes())
    del fields["log_number"]
    if format_1:
        del fields["store_id"]
        fields["format"] = 1
    (path / store_files.META_FILE).write_text(json.dumps(fields))


@pytest.mark.parametrize("format_1", [False, True], ids=["format 2", "format 1"])
@pytest.mark.parametrize("has_logs", [True, False], ids=["logs", "no log"])
def test_store_json_that_names_no_log(store: Path, format_1: bool, has_logs: bool) -> None:
    """As an older shoal wrote it, or one first served on a full disk: there need be no log. Then one is named."""
    _sessions(store, 2)
    _without_fields(store, format_1)
    if not has_logs:
        for log in _logs(store):
            log.unlink()
    assert _keys(store) == (["k0", "k1"] if has_logs else [])
    meta = store_files.read_meta(store)
    assert meta is not None
    assert wal_format.file_name(meta.log_number) == _logs(store)[-1].name


def test_memory_stores_have_no_log(store: Path) -> None:
    """Nor do they miss one, unless the store was served with another durability before."""
    _sessions(store, 2, "memory")
    assert _logs(store) == []
    assert _keys(store) == []
    _sessions(store, 1, "buffered")
    _sessions(store, 1, "memory", first=1)
    assert _keys(store) == ["k0"]
    _logs(store)[0].unlink()
    with pytest.raises(shoal.CorruptionError, match="newest log file"):
        shoal.open(store, linger=0)


@pytest.mark.parametrize("bad", [-1, 1 << 63, "1", 1.5, None, True])
@pytest.mark.parametrize("name", ["log_number", "checkpoint_version"])
def test_bad_numbers_in_store_json(store: Path, name: str, bad: object) -> None:
    """A number that shoal did not write is damage."""
    _sessions(store, 1)
    fields = json.loads((store / store_files.META_FILE).read_bytes())
    (store / store_files.META_FILE).write_text(json.dumps(fields | {name: bad}))
    with pytest.raises(shoal.CorruptionError, match=name):
        shoal.open(store, linger=0)


def test_killed_before_the_head_of_the_named_file_is_on_disk(store: Path) -> None:
    """A power cut leaves the file that store.json names, and zeros in it: nothing is missing, now or after a kill."""
    _sessions(store, 2)
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
        _rests(store)


def _remove(store: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in store.glob(pattern):
            path.unlink(missing_ok=True)


def test_logs_removed_and_all_killed_at_once(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While it is served, before its coordinator could notice."""
    with shoal.open(store, linger=0) as db:
        shoal.KVStore(db).put(RUN, "k0", 0)
        _remove(store, "wal-*.log", "*.new", "epoch", "*.sock", "*.lock")
        kill(db.info().coordinator_pid)
    _rests(store)
    with pytest.raises(shoal.CorruptionError, match="newest log file"):
        shoal.open(store, linger=0)


def _named(store: Path) -> str:
    meta = store_files.read_meta(store)
    return "" if meta is None else wal_format.file_name(meta.log_number)


def test_the_named_file_is_the_newest_at_every_moment(store: Path) -> None:
    """Also when the log goes on in another file: what is acknowledged is never in one that nobody would miss."""
    seen = set()
    with shoal.open(store, linger=0) as db:
        kv = shoal.KVStore(db)
        for i in range(40):
            kv.put(RUN, f"k{i}", "v" * 300_000)
            written = [log.name for log in _logs(store) if log.read_bytes()[:8].strip(b"\0")]
            assert _named(store) == written[-1]
            seen.add(_named(store))
        assert len(seen) > 2
        kill(db.info().coordinator_pid)
    _rests(store)
    (store / _named(store)).unlink()
    with pytest.raises(shoal.CorruptionError, match="newest log file"):
        shoal.open(store, linger=0)


def _is_whole(store: Path, version: int) -> bool:
    versions = [checkpoint.version_of(path.name) or 0 for path in store.glob("*.ckpt")]
    return max(versions, default=0) >= version and (store / _named(store)).is_file()


CASES: list[tuple[str, ...]] = [
    ("wal-*.log",),
    ("wal-*.log", "*.ckpt"),
    ("*.ckpt",),
    ("wal-*.log", "*.ckpt", "*.new", "epoch", "*.sock", "*.lock", "store.json"),
]


@pytest.mark.parametrize("end", ["kill", "close", "close at once"])
@pytest.mark.parametrize("patterns", CASES, ids=["logs", "logs and checkpoint", "checkpoint", "all"])
def test_removed_while_served(tmp_path: Path, patterns: tuple[str, ...], end: str) -> None:
    """The coordinator has it all in memory: it writes a checkpoint and goes on in a new log, or does so at its end."""
    _sessions(tmp_path / "original", 2)
    store = tmp_path / "store"
    with shoal.open(tmp_path / "original", linger=0) as db:
        db.backup(store)
    with shoal.open(store, linger=0) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "k2", 2)
        _remove(store, *patterns)
        kv.put(RUN, "k3", 3)
        if end != "close at once":
            wait_for(lambda: _is_whole(store, 3 if patterns != ("*.ckpt",) else 2), "the files", pause_s=0.02)
            kv.put(RUN, "k4", 4)
        if end == "kill":
            kill(db.info().coordinator_pid)
    _rests(store)
    assert _keys(store) == ["k0", "k1", "k2", "k3"] + (["k4"] if end != "close at once" else [])


def test_a_log_removed_before_a_checkpoint_removes_it(store: Path) -> None:
    """The coordinator goes on, whatever of its old files is there when a checkpoint makes them obsolete."""
    with shoal.open(store, linger=0, max_bytes=256 << 20) as db:
        kv = shoal.KVStore(db)
        pid = db.info().coordinator_pid
        for i in range(60):
            kv.put(RUN, f"k{i % 4}", bytes(1 << 20))
            if i % 10 == 5:
                _logs(store)[0].unlink()
        time.sleep(2 * REMAKE_AFTER_S)
        kv.put(RUN, "last", 1)
        assert db.info().coordinator_pid == pid
        wait_for(lambda: any(store.glob("*.ckpt")), "a checkpoint")
    _rests(store)
    assert _keys(store) == ["k0", "k1", "k2", "k3", "last"]


OPENERS: list[Callable[[Path], shoal.Database]] = [
    lambda path: shoal.open(path, linger=0, timeout=20),
    lambda path: shoal.open(path, read_only=True, timeout=20),
]


@pytest.mark.parametrize("opener", OPENERS, ids=["open", "read only"])
@pytest.mark.parametrize("durability", ["buffered", "memory"])
def test_store_json_removed_while_served(
    store: Path, durability: str, opener: Callable[[Path], shoal.Database]
) -> None:
    """It is made again as it was, and meanwhile who opens the store attaches to the same coordinator."""
    with shoal.open(store, durability=durability, linger=0) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "k", 1)
        before = (store / store_files.META_FILE).read_bytes()
        pid = db.info().coordinator_pid
        (store / store_files.META_FILE).unlink()
        with opener(store) as other:
            assert other.info().coordinator_pid == pid
            assert shoal.KVStore(other).get(RUN, "k") == 1
        wait_for((store / store_files.META_FILE).exists, "store.json")
        assert (store / store_files.META_FILE).read_bytes() == before
        with opener(store) as other:
            assert other.info().coordinator_pid == pid
        kv.put(RUN, "k", 2)
        assert db.info().coordinator_pid == pid
