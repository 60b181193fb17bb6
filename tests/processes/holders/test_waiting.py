"""Waiting for commits: no processor time while nothing happens, and every way in which a wait ends."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

import shoal
from tests.support.workers.crash_workers import DEADLINE_S, kill

RUN = "run"


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.long
def test_waiting_costs_no_processor_time(db: shoal.Database) -> None:
    """20 threads wait, and a lease is held: neither this process nor the coordinator does anything."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("no figures of processes here")
    cells = shoal.StateCell(db)
    with db.lease(RUN, "a"):
        threads = [threading.Thread(target=cells.wait, args=(RUN, f"c{i}", 0, 2.5)) for i in range(20)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        pids = os.getpid(), db.info().coordinator_pid
        before = [cpu_s(pid) for pid in pids]
        time.sleep(1.5)
        used = [cpu_s(pid) - start for pid, start in zip(pids, before, strict=True)]
        for thread in threads:
            thread.join()
    assert max(used) < 0.15, used


def test_a_wait_is_woken_by_the_commit_of_another_process(db: shoal.Database, store: Path) -> None:
    """Whoever commits it, and only if it is what is waited for."""
    cells, told = shoal.StateCell(db), list[int]()

    def follow() -> None:
        version = 0
        while version < 20:
            state = cells.wait(RUN, "c", version, DEADLINE_S)
            assert state is not None
            version = state.version
            told.append(version)

    thread = threading.Thread(target=follow)
    thread.start()
    with shoal.open(store) as other:
        for i in range(20):
            shoal.StateCell(other).set(RUN, "c", i)
            shoal.StateCell(other).set(RUN, "other", i)
            time.sleep(0.002)
    thread.join()
    assert told == sorted(set(told))
    assert told[-1] == 20


@pytest.mark.long
def test_a_wait_goes_on_under_the_next_coordinator(db: shoal.Database) -> None:
    """What is committed after the death of the coordinator wakes it as well."""
    cells, got = shoal.StateCell(db), list[object]()
    cells.init(RUN, "c", 0)
    thread = threading.Thread(target=lambda: got.append(cells.wait(RUN, "c", 1, DEADLINE_S)))
    thread.start()
    time.sleep(0.1)
    for _ in range(2):
        kill(db.info().coordinator_pid)
        shoal.KVStore(db).put(RUN, "beside", 1)
        time.sleep(0.1)
    cells.set(RUN, "c", "new")
    thread.join()
    assert [state.value for state in got if isinstance(state, shoal.State)] == ["new"]


def test_other_threads_commit_meanwhile(db: shoal.Database) -> None:
    """A wait holds no lock of the database."""
    cells = shoal.StateCell(db)
    thread = threading.Thread(target=cells.wait, args=(RUN, "c", 0, None))
    thread.start()
    time.sleep(0.1)
    shoal.KVStore(db).put(RUN, "k", 1)
    assert thread.is_alive()
    cells.init(RUN, "c", 0)
    thread.join()


@pytest.mark.long
def test_a_wait_with_many_descriptors_open(store: Path) -> None:
    """A descriptor of any number can be waited for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1400:
        pytest.skip("too few descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1400), hard))
    opened = [os.dup(2) for _ in range(1100)]
    try:
        with shoal.open(store, linger=0.2) as db:
            cells = shoal.StateCell(db)
            timer = threading.Timer(0.2, cells.set, (RUN, "c", "new"))
            timer.start()
            state = cells.wait(RUN, "c", 0, DEADLINE_S)
            assert state is not None
            timer.join()
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.long
def test_close_ends_a_wait(store: Path) -> None:
    """With InvalidOperationError in the thread that waits."""
    db = shoal.open(store, linger=0.2)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            shoal.StateCell(db).wait(RUN, "c", 0)
        except shoal.InvalidOperationError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    db.close()
    thread.join(DEADLINE_S)
    assert "is closed" in str(errors[0])


@pytest.mark.long
def test_an_interrupted_wait(db: shoal.Database) -> None:
    """The exception comes out, and the database works as before."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(3):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                shoal.StateCell(db).wait(RUN, "c", 0)
            shoal.KVStore(db).increment(RUN, "k")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert shoal.KVStore(db).get(RUN, "k") == 3


@pytest.mark.long
def test_a_reader_of_a_store_at_rest_waits_for_the_next_coordinator(store: Path) -> None:
    """It has the files in its own memory; what a process commits that serves the store later wakes it."""
    with shoal.open(store, linger=0.0) as db:
        shoal.StateCell(db).init(RUN, "c", 0)
    got: list[shoal.State | None] = []
    with shoal.open(store, read_only=True) as reader:
        thread = threading.Thread(target=lambda: got.append(shoal.StateCell(reader).wait(RUN, "c", 1, DEADLINE_S)))
        thread.start()
        time.sleep(0.1)
        with shoal.open(store, linger=0.2) as db:
            shoal.StateCell(db).set(RUN, "c", "new")
            thread.join()
    assert got[0] is not None
    assert got[0].value == "new"
