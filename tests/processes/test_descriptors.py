"""Descriptors and mappings: given back by ``close``, not inherited, not among 0 to 2; and clients that are gone."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.support.shared_memory import store_of
from tests.support.slow import slow
from tests.support.workers.crash_workers import DEADLINE_S, descriptors, kill, wait_for

pytestmark = pytest.mark.long

RUN = "descriptors"


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _held() -> tuple[int, list[str]]:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return len(descriptors()), sorted(line.split()[-1] for line in maps if "shoal" in line or line.endswith("/epoch"))


def _use(db: shoal.Database) -> list[object]:
    """Use everything that could refer to memory, and keep it."""
    kv = shoal.KVStore(db)
    for i in range(20):
        kv.put(RUN, f"key {i}", i)
    log = shoal.EventLog(db)
    log.append(RUN, "type", 1)
    events = log.iter(RUN)
    assert next(events)
    view = db.snapshot(RUN)
    assert view.kv.get("key 1") == 1
    scan = db._store.auto_commit.scan(b"", b"\xff")
    assert next(scan)
    caught: list[BaseException] = []
    for call in (lambda: kv.get(RUN, "\ud800"), lambda: kv.increment(RUN, "key 1", "x")):  # type: ignore[arg-type]
        try:
            call()
        except Exception as error:
            caught.append(error)
    try:
        with db.transaction(RUN) as txn:
            txn.kv.get("key 2")
            raise RuntimeError
    except RuntimeError as error:
        caught.append(error)
    assert db.check() == []
    return [kv, log, events, view, scan, caught, txn]


@pytest.mark.parametrize("count", [6, *slow(30)])
def test_closed_databases_hold_nothing(tmp_path: Path, uncollected: None, count: int) -> None:
    """Many are opened, used and closed, and every object is kept: no descriptor and no mapping is."""
    with shoal.open(tmp_path / "store", linger=0.05):
        before = _held()
        kept = []
        for _ in range(count):
            db = shoal.open(tmp_path / "store")
            kept.append((db, _use(db)))
            assert _held() != before
            db.close()
            assert _held() == before


def test_a_snapshot_of_a_closed_database(store: Path) -> None:
    """Its reads, and an iterator half-way through, are InvalidOperationError; it can still be ended."""
    with shoal.open(store, linger=0.05) as db:
        kept: Any = _use(db)
        kv, log, _, view, scan, _, _ = kept
    for call in (
        lambda: view.kv.get("key 1"),
        lambda: view.kv.list(),
        lambda: list(scan),
        lambda: kv.get(RUN, "key 1"),
        lambda: log.len(RUN),
        lambda: store_of(db).auto_commit.published(),
        lambda: db.info(),
    ):
        with pytest.raises(shoal.InvalidOperationError):
            call()
    view.close()


def test_threads_that_read_while_the_database_is_closed(store: Path) -> None:
    """Each read gives what is there, or says that the database is closed."""
    ends: list[BaseException] = []

    def read(db: shoal.Database, started: threading.Barrier) -> None:
        kv = shoal.KVStore(db)
        started.wait()
        try:
            with db.snapshot(RUN) as view:
                while True:
                    assert kv.get(RUN, "key") == "value"
                    assert view.kv.get("key") == "value"
                    assert view.kv.list("k") == ["key"]
                    assert db.info().keys == 1
        except BaseException as error:
            ends.append(error)

    for _ in range(20):
        db = shoal.open(store, linger=1)
        shoal.KVStore(db).put(RUN, "key", "value")
        started = threading.Barrier(4)
        threads = [threading.Thread(target=read, args=(db, started)) for _ in range(3)]
        for thread in threads:
            thread.start()
        started.wait()
        db.close()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert [type(end) for end in ends] == [shoal.InvalidOperationError] * 60
    assert all("closed" in str(end) for end in ends)


def test_a_commit_while_another_thread_closes(store: Path) -> None:
    """It is answered; the descriptors go with its end."""
    before = _held()
    for _ in range(20):
        db = shoal.open(store, linger=1)
        kv = shoal.KVStore(db)
        told = kv.get(RUN, "sum", 0)
        begun = threading.Event()

        def commit(kv: shoal.KVStore = kv, begun: threading.Event = begun) -> None:
            nonlocal told
            with contextlib.suppress(shoal.InvalidOperationError):
                while True:
                    told = kv.increment(RUN, "sum")
                    begun.set()

        thread = threading.Thread(target=commit)
        thread.start()
        begun.wait(DEADLINE_S)
        db.close()
        thread.join(DEADLINE_S)
        assert _held() == before
        with shoal.open(store) as again:
            assert shoal.KVStore(again).get(RUN, "sum") == told


def test_close_comes_between_any_two_steps_of_a_commit(memory_db: shoal.Database) -> None:
    """Another thread closes: the commit is answered or never sent, and no descriptor is closed under it or twice."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for i in range(150):
            db = shoal.open(memory_db.path)
            kv = shoal.KVStore(db)
            told = [kv.get("between", "sum", 0)]
            failed: list[BaseException] = []

            def commit(kv: shoal.KVStore = kv, told: list[int] = told, failed: list[BaseException] = failed) -> None:
                try:
                    while True:
                        told.append(kv.increment("between", "sum"))
                except shoal.InvalidOperationError:
                    return
                except BaseException as error:
                    failed.append(error)

            thread = threading.Thread(target=commit)
            thread.start()
            time.sleep(i % 7 * 0.000_1)
            db.close()
            thread.join(DEADLINE_S)
            assert failed == []
            assert shoal.KVStore(memory_db).get("between", "sum", 0) == told[-1]
    finally:
        sys.setswitchinterval(interval_s)


def test_executed_programs_inherit_nothing(store: Path) -> None:
    """Whatever a client executes has none of shoal's descriptors, in a transaction or not, after a take-over, too."""
    show = [sys.executable, "-c", "import os; print(len(os.listdir('/proc/self/fd')))"]

    def inherited() -> int:
        return int(subprocess.run(show, capture_output=True, text=True, close_fds=False, check=True).stdout)

    alone = inherited()
    with shoal.open(store, linger=0.05) as db:
        kv = shoal.KVStore(db)
        for _ in range(2):
            kv.put(RUN, "key", 1)
            with db.snapshot(RUN):
                assert inherited() == alone
            kill(db.info().coordinator_pid)


_LEAVES_A_CHILD = """
import ctypes, os, sys, time
import shoal
db = shoal.open(sys.argv[1])
view = db.snapshot("run")
if ctypes.CDLL(None).fork() == 0:  # unknown to Python: nothing is closed in the child
    time.sleep(60)
    os._exit(0)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the system does not tell when a process ends")
def test_a_dead_client_whose_child_holds_its_pipes(store: Path) -> None:
    """It is gone at once, with its snapshot."""
    with shoal.open(store, linger=0.05) as db:
        client = subprocess.Popen(
            [sys.executable, "-c", _LEAVES_A_CHILD, str(store)], stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == b"ready\n"
            assert db.info().clients == 2
            client.kill()
            client.wait()
            wait_for(lambda: db.info().clients == 1, "the client to be forgotten", seconds=10)
        finally:
            os.killpg(client.pid, signal.SIGKILL)
            assert client.stdout is not None
            client.stdout.close()


_BECOMES_A_DAEMON = """
import os, sys, time
import shoal
db = shoal.open(sys.argv[1])
kv = shoal.KVStore(db)
kv.put("run", "parent", 1)
if os.fork():
    os._exit(0)
time.sleep(0.2)
for i in range(10):
    kv.increment("run", "child")
with db.transaction("run") as txn:
    txn.kv.put("left", txn.kv.get("child"))
db.close()
"""


def test_a_child_outlives_its_parent(store: Path) -> None:
    """A process forks and ends, as daemons do: the child attaches for itself and works."""
    with shoal.open(store, linger=0.05) as db:
        kv = shoal.KVStore(db)
        subprocess.run([sys.executable, "-c", _BECOMES_A_DAEMON, str(store)], check=True, timeout=DEADLINE_S)
        wait_for(lambda: kv.get("run", "left") == 10, "the child's work")
        wait_for(lambda: db.info().clients == 1, "the child to end")


_WITHOUT_STANDARD = """
import os, sys
for fd in map(int, sys.argv[2]):
    os.close(fd)
import shoal
def low():
    return sorted(fd for fd in range(3) if os.path.exists(f"/proc/self/fd/{fd}"))
before = low()
db = shoal.open(sys.argv[1], linger=0.2)
kv = shoal.KVStore(db)
kv.put("run", "k", 1)
assert low() == before, low()
files = [os.open(sys.argv[3], os.O_RDWR | os.O_CREAT) for _ in range(3)]  # what a program may do with them
for fd in range(3):
    os.write(fd, b"x" * 5000)
with db.transaction("run") as txn:
    txn.kv.put("k", 2)
os.kill(db.info().coordinator_pid, 9)
kv.put("run", "k", 3)
coordinator = db.info().coordinator_pid
assert [os.readlink(f"/proc/{coordinator}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
assert db.check() == []
mine = [os.fstat(fd).st_ino for fd in map(int, sys.argv[2])]
db.close()
assert mine == [os.fstat(fd).st_ino for fd in map(int, sys.argv[2])]
os._exit(7)
"""


@pytest.mark.parametrize("closed", ["0", "12", "012", *slow("1", "2", "01", "02")])
def test_a_process_without_standard_descriptors(store: Path, tmp_path: Path, closed: str) -> None:
    """Shoal uses none of the numbers 0 to 2, and what the program does with them harms nothing."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_STANDARD, str(store), closed, str(tmp_path / "file")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 7, done.stderr
    with shoal.open(store, linger=0.05) as db:
        assert shoal.KVStore(db).get("run", "k") == 3
        assert db.check() == []


@pytest.mark.parametrize("how", ["serve", "open"])
def test_the_coordinator_takes_all_descriptors_it_may_have(store: Path, how: str) -> None:
    """Its soft limit becomes the hard one, however it was started; 0 to 2 are taken, though closed at its start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    end = 'exec "$0" -m shoal serve "$1"' if how == "serve" else 'exec "$0" -c "$2" "$1"'
    opens = "import shoal, sys, time; db = shoal.open(sys.argv[1]); time.sleep(60)"
    served = subprocess.Popen(
        ["bash", "-c", f"ulimit -Sn 200; {end} <&- >&- 2>&-", sys.executable, str(store), opens], start_new_session=True
    )
    try:
        wait_for((store / "control.sock").exists, "the coordinator")
        with shoal.open(store) as db:
            pid = db.info().coordinator_pid
            (line,) = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "open files" in line]
            assert line.split()[3:5] == [str(hard)] * 2
            assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
            assert db.check() == []
    finally:
        os.killpg(served.pid, signal.SIGKILL)
        served.wait()
