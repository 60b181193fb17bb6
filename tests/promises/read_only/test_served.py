"""``open(path, read_only=True)`` beside a coordinator: readers see what is committed, and hold nobody up."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import threading
from pathlib import Path

import pytest

import shoal
from shoal.coordinator.recovery.survey import at_rest
from tests.promises.read_only.contents import FOUND, RUN, contents, coordinators
from tests.support.at_rest import ended, looks


@pytest.mark.long
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
        assert contents(db)["events"] == FOUND[store]["events"]
        assert db.check() == []
        assert coordinators(store) == []
        shoal.KVStore(writer).put(RUN, "newer", 2)
        assert shoal.KVStore(db).get(RUN, "newer") == 2
        assert db.info().coordinator_pid == writer.info().coordinator_pid != pid


@pytest.mark.long
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
        assert [name for name, _ in FOUND[store]["keys"]] == snapshot.kv.list()
        ended_soon(pid, [one, two])
        assert shoal.KVStore(one).get(RUN, "new") == 1


def ended_soon(pid: int, readers: list[shoal.Database]) -> None:
    """Readers are clients: the coordinator stays as long as they do."""
    assert Path(f"/proc/{pid}").exists()
    assert {db.info().coordinator_pid for db in readers} == {pid}


@pytest.mark.long
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


@pytest.mark.long
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
            assert contents(copy) == FOUND[store]
            with pytest.raises(shoal.InvalidOperationError, match="read_only"):
                shoal.KVStore(copy).put(RUN, "k", 1)
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                status = int(contents(db) != FOUND[store])
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(shoal.InvalidOperationError, match="closed"):
        shoal.KVStore(db).get(RUN, "k01")
    assert looks(store) == before


def test_moved_while_it_is_read(store: Path) -> None:
    """What is in memory stays readable; nothing is read from another store that comes to lie there."""
    with shoal.open(store, read_only=True) as db:
        target = store.with_name("elsewhere")
        store.rename(target)
        assert contents(db) == FOUND[store]
        shutil.copytree(target, store, ignore=lambda _, names: [name for name in names if name.endswith(".sock")])
        with shoal.open(target, linger=0) as writer:
            shoal.KVStore(writer).put(RUN, "new", 1)
            with pytest.raises(shoal.StoreMovedError):
                shoal.KVStore(db).list(RUN)
