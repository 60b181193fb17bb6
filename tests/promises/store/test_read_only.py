"""``open(path, read_only=True)``: a store at rest or being served can be read whole, and nothing is written or made."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.cli.main import main as command
from shoal.coordinator.recovery.survey import at_rest
from shoal.shm.files import store_files
from shoal.shm.host.child_python import python_environment
from tests.promises.store.test_refused_open import ended, looks
from tests.support.slow import slow

RUN = "run"
as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: only root can mount")


def _fill(db: shoal.Database) -> None:
    """Something of every primitive, some of it deleted again."""
    kv, events, state, traces, runs = _facades(db)
    runs.create_run(run_id=RUN, tags=["t"])
    for i in range(20):
        kv.put(RUN, f"k{i:02}", i)
    kv.delete(RUN, "k00")
    kv.put(RUN, "gone", 1, ttl=0.05)
    kv.put(RUN, "stays", 1, ttl=3600)
    for i in range(5):
        events.append(RUN, "step", {"i": i})
    state.init(RUN, "cell", "a")
    state.set(RUN, "cell", "b")
    root = traces.record(RUN, shoal.TraceType.Thought("root"))
    traces.record_child(RUN, root, shoal.TraceType.Thought("child"))
    kv.put("deleted", "k", 1)
    runs.delete_run("deleted")
    time.sleep(0.06)


def _facades(
    db: shoal.Database,
) -> tuple[shoal.KVStore, shoal.EventLog, shoal.StateCell, shoal.TraceStore, shoal.RunIndex]:
    return shoal.KVStore(db), shoal.EventLog(db), shoal.StateCell(db), shoal.TraceStore(db), shoal.RunIndex(db)


def _contents(db: shoal.Database) -> dict[str, Any]:
    """All of it, as every kind of read finds it."""
    kv, events, state, traces, runs = _facades(db)
    with db.snapshot(RUN) as view:
        in_snapshot = view.kv.list_with_values()
    with db.transaction(RUN) as txn:
        in_transaction = {"keys": txn.kv.list_with_values(), "events": list(txn.events.iter())}
    return {
        "keys": kv.list_with_values(RUN),
        "get": [kv.get(RUN, f"k{i:02}") for i in range(20)],
        "expired": kv.exists(RUN, "gone"),
        "ttl": (kv.ttl(RUN, "stays") or 0) > 3000,
        "snapshot": in_snapshot,
        "transaction": in_transaction,
        "events": list(events.iter(RUN)),
        "by type": events.read_by_type(RUN, "step"),
        "head": events.head(RUN),
        "verified": events.verify_chain(RUN),
        "cells": [state.read(RUN, name) for name in state.list(RUN)],
        "traces": [traces.get(RUN, trace_id) for trace_id in traces.list(RUN)],
        "runs": runs.query_runs(shoal.RunQuery()),
        "stats": runs.get_stats(),
        "deleted": kv.list("deleted"),
    }


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """A store with something of everything, closed or killed, and what was read of it; made once, not to be opened."""

    @functools.cache
    def make(how: str) -> tuple[Path, dict[str, Any]]:
        path = tmp_path_factory.mktemp(how) / "store"
        with shoal.open(path, linger=0) as db:
            _fill(db)
            contents = _contents(db)
            pid = db.info().coordinator_pid
            if how == "killed":
                os.kill(pid, signal.SIGKILL)
        ended(pid)
        return path, contents

    return make


@pytest.fixture(params=["closed", "killed"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, templates: Callable[[str], tuple[Path, dict[str, Any]]]
) -> Path:
    """A copy of such a store; ``_found`` has what was read of it while it was served."""
    template, contents = templates(request.param)
    path = tmp_path / "store"
    shutil.copytree(template, path, ignore=lambda _, names: [name for name in names if name.endswith(".sock")])
    _found[path] = contents
    return path


_found: dict[Path, dict[str, Any]] = {}


def _coordinators(path: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if entry.name.isdecimal() and "shoal.coordinator_main" in line and str(path) in line:
                found.append(entry.name)
    return found


def test_reads_all_of_a_store_at_rest(store: Path) -> None:
    """Every primitive, by every kind of read; no coordinator is started and no byte changes."""
    before = looks(store)
    with shoal.open(store, read_only=True) as db:
        assert _contents(db) == _found[store]
        assert db.check() == []
        info = db.info()
        assert (info.coordinator_pid, info.clients, info.durability) == (0, 0, "buffered")
        assert info.keys > 20
        assert _coordinators(store) == []
    assert looks(store) == before


def test_files_that_recovery_would_change(store: Path) -> None:
    """A torn tail, what a checkpoint left half written, and older checkpoints stay where they are."""
    log = max(store.glob("wal-*.log"), key=lambda path: len(path.read_bytes().strip(b"\0")))
    data = log.read_bytes()
    with log.open("r+b") as file:
        file.seek(len(data.rstrip(b"\0")) + 8 & ~7)
        file.write(b"torn")
    (store / "checkpoint-1.ckpt.77.new").write_bytes(b"half of one")
    (store / "wal-000000000099.log").write_bytes(bytes(1000))
    before = looks(store)
    with shoal.open(store, read_only=True) as db:
        assert _contents(db) == _found[store]
    assert looks(store) == before


WRITES: dict[str, Callable[[shoal.Database], object]] = {
    "put": lambda db: shoal.KVStore(db).put(RUN, "k01", 1),
    "put with ttl": lambda db: shoal.KVStore(db).put_with_ttl(RUN, "k01", 1, 5),
    "delete": lambda db: shoal.KVStore(db).delete(RUN, "k01"),
    "increment": lambda db: shoal.KVStore(db).increment(RUN, "k01"),
    "append": lambda db: shoal.EventLog(db).append(RUN, "step", {}),
    "append_many": lambda db: shoal.EventLog(db).append_many(RUN, [("step", {}), ("step", {})]),
    "init": lambda db: shoal.StateCell(db).init(RUN, "new", 1),
    "set": lambda db: shoal.StateCell(db).set(RUN, "cell", 1),
    "cas": lambda db: shoal.StateCell(db).cas(RUN, "cell", 2, 1),
    "delete cell": lambda db: shoal.StateCell(db).delete(RUN, "cell"),
    "transition": lambda db: shoal.StateCell(db).transition(RUN, "cell", lambda state: ("c", None)),
    "record": lambda db: shoal.TraceStore(db).record(RUN, shoal.TraceType.Thought("x")),
    "create_run": lambda db: shoal.RunIndex(db).create_run(),
    "complete_run": lambda db: shoal.RunIndex(db).complete_run(RUN),
    "add_tags": lambda db: shoal.RunIndex(db).add_tags(RUN, ["new"]),
    "delete_run": lambda db: shoal.RunIndex(db).delete_run(RUN),
    "fork_run": lambda db: shoal.RunIndex(db).fork_run(RUN),
    "transact": lambda db: db.transact(RUN, lambda txn: txn.kv.put("a", 1)),
    "snapshot": lambda db: db.snapshot(RUN).kv.put("a", 1),
    "facade's transaction": lambda db: _in(shoal.KVStore(db).transaction(RUN)),
    "transaction": lambda db: _in(db.transaction(RUN)),
}


def _in(transaction: shoal.Transaction) -> None:
    with transaction as txn:
        assert txn.kv.get("k01") == 1
        txn.kv.put("k01", 2)


@pytest.mark.parametrize("served", [False, True], ids=["at rest", "served"])
def test_every_write_is_refused(store: Path, served: bool) -> None:
    """Before anything is sent, with a remedy; what the database reads goes on."""
    with contextlib.ExitStack() as stack:
        if served:
            writer = stack.enter_context(shoal.open(store, linger=0))
        db = stack.enter_context(shoal.open(store, read_only=True))
        version = db.info().commit_version
        for name, write in WRITES.items():
            with pytest.raises(shoal.InvalidOperationError, match="read_only=True; open it without"):
                print(name, write(db))
        assert db.info().commit_version == version
        if served:
            assert writer.info().commit_version == version
        assert shoal.KVStore(db).get(RUN, "k01") == 1


def test_served_store_is_read_as_it_changes(store: Path) -> None:
    """It attaches to a coordinator as any client does, and starts none when that has ended."""
    with shoal.open(store, linger=0) as writer, shoal.open(store, read_only=True) as db:
        pid = writer.info().coordinator_pid
        assert db.info().coordinator_pid == pid
        assert db.info().clients == 2
        shoal.KVStore(writer).put(RUN, "new", 1)
        assert shoal.KVStore(db).get(RUN, "new") == 1
        assert db.check() == []
        os.kill(pid, signal.SIGKILL)
        ended(pid)
        assert shoal.KVStore(db).get(RUN, "new") == 1
        assert _contents(db)["events"] == _found[store]["events"]
        assert db.check() == []
        assert _coordinators(store) == []
        shoal.KVStore(writer).put(RUN, "newer", 2)
        assert shoal.KVStore(db).get(RUN, "newer") == 2
        assert db.info().coordinator_pid == writer.info().coordinator_pid != pid


def test_two_readers_and_a_writer_that_comes(store: Path) -> None:
    """Open readers keep no writer out and see what it commits; snapshots stay as they are."""
    with shoal.open(store, read_only=True) as one, shoal.open(store, read_only=True) as two:
        snapshot = one.snapshot(RUN)
        with shoal.open(store, linger=0) as writer:
            shoal.KVStore(writer).put(RUN, "new", 1)
            assert shoal.KVStore(one).get(RUN, "new") == 1
            assert "new" in shoal.KVStore(two).list(RUN)
            assert not snapshot.kv.exists("new")
            pid = writer.info().coordinator_pid
        assert [name for name, _ in _found[store]["keys"]] == snapshot.kv.list()
        ended_soon(pid, [one, two])
        assert shoal.KVStore(one).get(RUN, "new") == 1


def ended_soon(pid: int, readers: list[shoal.Database]) -> None:
    """Readers are clients: the coordinator stays as long as they do."""
    assert Path(f"/proc/{pid}").exists()
    assert {db.info().coordinator_pid for db in readers} == {pid}


def test_reader_that_comes_while_a_writer_starts(store: Path) -> None:
    """Whoever is first, both find everything."""
    failures: list[BaseException] = []

    def open_and_look(read_only: bool) -> None:
        try:
            with shoal.open(store, read_only=read_only, timeout=30, linger=0) as db:
                assert len(shoal.KVStore(db).list(RUN)) == 20
        except BaseException as error:
            failures.append(error)

    for _ in range(3):
        threads = [threading.Thread(target=open_and_look, args=(kind,)) for kind in (True, False, True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []


def test_while_its_files_are_read_no_coordinator_begins(store: Path) -> None:
    """Nor does a reader begin while a coordinator holds the store that does not answer: it waits, as told."""
    with at_rest(store) as rests:
        assert rests
        with pytest.raises(shoal.CoordinatorLostError):
            shoal.open(store, timeout=0.5, linger=0)
        with shoal.open(store, read_only=True) as db:
            assert len(shoal.KVStore(db).list(RUN)) == 20
    with shoal.open(store, linger=0) as db:
        pid = db.info().coordinator_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(shoal.CoordinatorLostError):
                shoal.open(store, read_only=True, timeout=0.5)
        finally:
            os.kill(pid, signal.SIGCONT)


def test_pickle_and_fork(store: Path) -> None:
    """It is read-only where it arrives, too."""
    before = looks(store)
    with shoal.open(store, read_only=True) as db:
        with pickle.loads(pickle.dumps(db)) as copy:
            assert _contents(copy) == _found[store]
            with pytest.raises(shoal.InvalidOperationError, match="read_only"):
                shoal.KVStore(copy).put(RUN, "k", 1)
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                status = int(_contents(db) != _found[store])
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(shoal.InvalidOperationError, match="closed"):
        shoal.KVStore(db).get(RUN, "k01")
    assert looks(store) == before


def test_options(store: Path) -> None:
    """``max_bytes`` bounds the memory of the reading process; another durability cannot be chosen; True or False."""
    with shoal.open(store, read_only=True, max_bytes=9 << 20, durability="buffered") as db:
        assert len(shoal.KVStore(db).list(RUN)) == 20
    with pytest.raises(shoal.ConfigurationError, match=r"'buffered', not 'strict'"):
        shoal.open(store, read_only=True, durability="strict")
    with pytest.raises(TypeError, match="read_only"):
        shoal.open(store, read_only=1)  # type: ignore[arg-type]


def test_memory_store_at_rest(tmp_path: Path) -> None:
    """It holds nothing, and can be read like that."""
    with shoal.open(tmp_path / "store", durability="memory", linger=0) as db:
        shoal.KVStore(db).put(RUN, "k", 1)
        pid = db.info().coordinator_pid
    ended(pid)
    with shoal.open(tmp_path / "store", read_only=True) as db:
        assert shoal.KVStore(db).list(RUN) == []
        assert db.info().durability == "memory"


def test_backup_of_a_store_at_rest(store: Path, tmp_path: Path) -> None:
    """A backup needs no coordinator, and can be read at rest although it was never served."""
    before = looks(store)
    with shoal.open(store, read_only=True) as db:
        db.backup(tmp_path / "backup")
    assert looks(store) == before
    with shoal.open(tmp_path / "backup", read_only=True) as db:
        assert _contents(db) == _found[store]
        with shoal.open(tmp_path / "backup", linger=0) as writer:
            shoal.KVStore(writer).put(RUN, "new", 1)
            assert "new" in shoal.KVStore(db).list(RUN)
            assert shoal.KVStore(db).get(RUN, "new") == 1


def test_moved_while_it_is_read(store: Path) -> None:
    """What is in memory stays readable; nothing is read from another store that comes to lie there."""
    with shoal.open(store, read_only=True) as db:
        target = store.with_name("elsewhere")
        store.rename(target)
        assert _contents(db) == _found[store]
        shutil.copytree(target, store, ignore=lambda _, names: [name for name in names if name.endswith(".sock")])
        with shoal.open(target, linger=0) as writer:
            shoal.KVStore(writer).put(RUN, "new", 1)
            with pytest.raises(shoal.StoreMovedError):
                shoal.KVStore(db).list(RUN)


COMMANDS = [["info"], ["runs"], ["events", RUN], ["trace", RUN], ["check"], ["export"]]


def test_commands_change_nothing(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands that read a store at rest start nothing and write nothing."""
    before = looks(store)
    for name, *rest in COMMANDS:
        assert command([name, str(store), *rest]) == 0, name
        assert looks(store) == before, name
    said = capsys.readouterr().out
    assert "coordinator_pid   0" in said
    assert "sound" in said
    assert command(["backup", str(store), str(tmp_path / "copy")]) == 0
    assert looks(store) == before
    assert _coordinators(store) == []


@contextlib.contextmanager
def _mounted_read_only(store: Path) -> Iterator[Callable[[str], str]]:
    """Runs Python, in a mount namespace in which the store lies on a read-only file system."""

    def run(code: str) -> str:
        script = (
            f"mount --bind {store} {store} && mount -o remount,ro,bind {store} && exec {sys.executable} -P -c '{code}'"
        )
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", script],
            env=python_environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode and ("unshare" in done.stderr or "mount:" in done.stderr):
            pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run


@as_root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize("store", ["closed", *slow("killed")], indirect=True)
def test_read_only_medium(store: Path) -> None:
    """It is read and checked there; opened for writing, it says what is read-only and what to do."""
    before = looks(store)
    with _mounted_read_only(store) as run:
        keys = json.loads(
            run(
                "import json, shoal\n"
                f'with shoal.open("{store}", read_only=True) as db:\n'
                "    assert db.check() == []\n"
                f'    print(json.dumps(shoal.KVStore(db).list_with_values("{RUN}")))\n'
            )
        )
        assert [tuple(pair) for pair in keys] == _found[store]["keys"]
        said = run(
            "import shoal\n"
            f'try:\n    shoal.open("{store}")\n'
            "except shoal.ConfigurationError as error:\n    print(error)\n"
        )
        assert str(store) in said
        assert "read-only file system" in said
        assert "read_only=True" in said
        for name, *rest in COMMANDS:
            arguments = [name, str(store), *rest]
            run(f"from shoal.cli.main import main; import sys; sys.exit(main({json.dumps(arguments)}))")
        assert "read_only=True" in run(
            f'from shoal.cli.main import main; import sys; sys.stderr = sys.stdout; print(main(["serve", "{store}"]))'
        )
    assert looks(store) == before
    assert (store / store_files.META_FILE).exists()
