"""What a cleaner of temporary files removes from a store being served is made again, or is not missed."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

import shoal
from shoal.coordinator.server import process, process_start
from shoal.primitives.rules.registry import TABLE
from shoal.shm.files import control_address, epoch_file, store_files
from shoal.shm.limits import REMAKE_AFTER_S
from tests.support.slow import slow

RUN = "run"
FILES = [
    control_address.SOCKET_FILE,
    epoch_file.EPOCH_FILE,
    store_files.COORDINATOR_LOCK_FILE,
    store_files.START_LOCK_FILE,
]
SOON_S = 5.0  # a second on an idle machine


def _remove(store: Path, names: list[str]) -> None:
    for name in names:
        (store / name).unlink(missing_ok=True)


@pytest.mark.long
@pytest.mark.parametrize("durability", ["buffered", *slow("memory", "strict")])
@pytest.mark.parametrize("names", [FILES[:1], *slow(*([name] for name in FILES[1:])), FILES], ids="-".join)
def test_new_clients_attach_again(store: Path, durability: str, names: list[str]) -> None:
    """To the same coordinator, and those inside go on; nothing is lost, not even of a memory store."""
    with shoal.open(store, durability=durability, linger=0.2) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "before", 1)
        pid = db.info().coordinator_pid
        snapshot = db.snapshot(RUN)
        _remove(store, names)
        kv.put(RUN, "meanwhile", 2)
        started_s = time.monotonic()
        with shoal.open(store, timeout=20, linger=0.2) as other:
            assert time.monotonic() - started_s < SOON_S
            assert other.info().coordinator_pid == pid
            assert shoal.KVStore(other).list(RUN) == ["before", "meanwhile"]
            shoal.KVStore(other).put(RUN, "after", 3)
            time.sleep(REMAKE_AFTER_S + 0.5)
            assert kv.list(RUN) == ["after", "before", "meanwhile"]
            assert kv.get(RUN, "after") == 3
            assert shoal.KVStore(other).get(RUN, "before") == 1
            kv.delete(RUN, "after")
            assert kv.get(RUN, "after") is None
            assert shoal.KVStore(other).get(RUN, "after") is None
        assert snapshot.kv.list() == ["before"]
        assert db.check() == []


@pytest.mark.parametrize("names", [*slow(*([name] for name in FILES[1:])), FILES[:1], FILES], ids="-".join)
def test_never_two_coordinators(store: Path, names: list[str]) -> None:
    """A second one does not begin, not even before anything is made again."""
    with shoal.open(store, linger=0.2) as db:
        pid = db.info().coordinator_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            _remove(store, names)
            here = Path.cwd()
            try:
                with pytest.raises(process_start.AlreadyServedError):
                    process.serve(store, None, None, 0.0, lambda: pytest.fail("it serves"), TABLE)
            finally:
                os.chdir(here)
        finally:
            os.kill(pid, signal.SIGCONT)
        shoal.KVStore(db).put(RUN, "k", 1)
        assert db.info().coordinator_pid == pid


@pytest.mark.long
def test_a_reader_hears_of_the_next_coordinator(store: Path) -> None:
    """Though the epoch file that it had mapped was removed while the one before served."""
    with shoal.open(store, linger=0.2) as reader, shoal.open(store, linger=0.2) as writer:
        shoal.KVStore(writer).put(RUN, "k", 1)
        assert shoal.KVStore(reader).get(RUN, "k") == 1
        _remove(store, [epoch_file.EPOCH_FILE])
        deadline_s = time.monotonic() + 20
        while not (store / epoch_file.EPOCH_FILE).exists():
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        time.sleep(0.1)
        assert shoal.KVStore(reader).get(RUN, "k") == 1
        os.kill(writer.info().coordinator_pid, signal.SIGKILL)
        shoal.KVStore(writer).put(RUN, "k", 2)
        assert shoal.KVStore(reader).get(RUN, "k") == 2


@pytest.mark.long
@pytest.mark.parametrize("moments", [range(0, 8, 3), *slow(range(8))])
def test_a_store_being_served_can_be_deleted(tmp_path: Path, moments: range) -> None:
    """What is made again does not stand in the way of who deletes the directory."""
    for i in moments:
        store = tmp_path / f"store-{i}"
        db = shoal.open(store, linger=0)
        time.sleep(0.03 * i)
        stop = threading.Event()

        def commit(db: shoal.Database = db, stop: threading.Event = stop) -> None:
            kv = shoal.KVStore(db)
            try:
                while not stop.is_set():
                    kv.put(RUN, "k", 1)
            except shoal.StoreMovedError:
                return

        thread = threading.Thread(target=commit)
        thread.start()
        try:
            shutil.rmtree(store)
        finally:
            stop.set()
            thread.join(20)
        assert not thread.is_alive()
        assert not store.exists()
        db.close()
