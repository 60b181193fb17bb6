"""``open(path, read_only=True)`` of a store at rest: it can be read whole, and nothing is written or made."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import shoal
from shoal.shm.memory import snapshots
from shoal.shm.memory.segment import Segment
from tests.promises.read_only.contents import FOUND, RUN, contents, coordinators
from tests.support.at_rest import ended, looks
from tests.support.stores.versions import versions_taken


@pytest.mark.long
def test_reads_all_of_a_store_at_rest(store: Path) -> None:
    """Every primitive, by every kind of read; no coordinator is started and no byte changes."""
    before = looks(store)
    with shoal.open(store, read_only=True) as db:
        assert contents(db) == FOUND[store]
        assert db.check() == []
        info = db.info()
        assert (info.coordinator_pid, info.clients, info.durability) == (0, 0, "buffered")
        assert info.keys > 20
        assert coordinators(store) == []
    assert looks(store) == before


@pytest.mark.long
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
        assert contents(db) == FOUND[store]
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

        def refused() -> None:
            for name, write in WRITES.items():
                with pytest.raises(shoal.InvalidOperationError, match="read_only=True; open it without"):
                    print(name, write(db))

        assert versions_taken(writer if served else db, refused) == 0
        assert shoal.KVStore(db).get(RUN, "k01") == 1


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


def test_an_open_that_fails_holds_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever no descriptor is left for, the others are given back: a program may try again for long."""

    def refuse(*arguments: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    shoal.open(store, read_only=True).close()
    before = len(os.listdir("/proc/self/fd"))
    for of, name in ((Segment, "read_only_fd"), (snapshots, "new_page")):
        with monkeypatch.context() as patched:
            patched.setattr(of, name, refuse)
            with pytest.raises(shoal.ConfigurationError, match="descriptors"):
                shoal.open(store, read_only=True)
        assert len(os.listdir("/proc/self/fd")) <= before


def test_backup_of_a_store_at_rest(store: Path, tmp_path: Path) -> None:
    """A backup needs no coordinator, and can be read at rest although it was never served."""
    before = looks(store)
    with shoal.open(store, read_only=True) as db:
        db.backup(tmp_path / "backup")
    assert looks(store) == before
    with shoal.open(tmp_path / "backup", read_only=True) as db:
        assert contents(db) == FOUND[store]
        with shoal.open(tmp_path / "backup", linger=0) as writer:
            shoal.KVStore(writer).put(RUN, "new", 1)
            assert "new" in shoal.KVStore(db).list(RUN)
            assert shoal.KVStore(db).get(RUN, "new") == 1
