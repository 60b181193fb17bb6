"""Leases of processes that die, stand still, fork or are interrupted, and of coordinators that die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.cli.main import main
from shoal.workers.presence import holding, waiting
from tests.support.shared_memory import store_of
from tests.support.workers.crash_workers import DEADLINE_S, kill, wait_for

from .conftest import Hold

RUN = "run"


def finish(process: subprocess.Popen[str]) -> str:
    return process.communicate("\n", timeout=DEADLINE_S)[0].strip()


@pytest.mark.long
def test_a_long_commit_holds_up_no_renewal(db: shoal.Database) -> None:
    """While another thread of the process waits for its commit, what the process holds is renewed all the same."""
    lease = db.lease(RUN, "a", ttl=0.6)
    with shoal.open(db.path) as other:
        time.sleep(0.5)  # the first renewal attaches
        with store_of(db).connection._lock:  # as during a commit
            time.sleep(1.5)
        assert [info.token for info in other.leases(RUN)] == [lease.token]
    lease.release()


@pytest.mark.long
def test_renewals_go_on_after_an_error(db: shoal.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after one of a store that cannot be opened for a while, as it is served otherwise."""
    failed: list[str] = []

    def fail_twice(connection: Any, name: str, *arguments: Any, **options: Any) -> Any:
        if name == "renew" and len(failed) < 2:
            failed.append(name)
            raise shoal.ConfigurationError("the store is being served with another durability")
        return waiting.ask_and_wait(connection, name, *arguments, **options)

    monkeypatch.setattr(holding, "ask_and_wait", fail_twice)
    lease = db.lease(RUN, "a", ttl=2)
    time.sleep(3)
    assert len(failed) == 2
    assert [info.token for info in db.leases(RUN)] == [lease.token]
    lease.release()


@pytest.mark.long
def test_a_stopped_holder_loses_it_after_its_ttl(db: shoal.Database, hold: Hold) -> None:
    """Not before, and not one with a longer ttl; its late commit is refused when it goes on."""
    holder, other = hold("a", 0.8), hold("b", 1000)
    time.sleep(1.0)
    assert len(db.leases(RUN)) == 2  # renewed
    os.kill(holder.pid, signal.SIGSTOP)
    os.kill(other.pid, signal.SIGSTOP)
    begin_s = time.monotonic()
    with db.lease(RUN, "a", wait=DEADLINE_S):
        assert time.monotonic() - begin_s > 0.4
        assert {info.name: info.pid for info in db.leases(RUN)} == {"a": os.getpid(), "b": other.pid}
        os.kill(holder.pid, signal.SIGCONT)
        assert finish(holder) == "fenced"
    os.kill(other.pid, signal.SIGCONT)
    assert finish(other) == "committed"


@pytest.mark.long
def test_it_outlives_the_coordinator(db: shoal.Database, hold: Hold) -> None:
    """A holder that is there keeps it, for longer than its ttl, whoever serves the store; it can release it."""
    holder = hold("a", 1.0)
    with db.lease(RUN, "mine", ttl=1.0) as mine:
        for _ in range(2):
            kill(db.info().coordinator_pid)
            with pytest.raises(shoal.LeaseHeldError):
                db.lease(RUN, "a", wait=1.5)
        db.transact(RUN, lambda txn: txn.kv.put("k", 1), fence=mine)
    assert finish(holder) == "committed"
    db.lease(RUN, "a", wait=DEADLINE_S).release()
    assert db.check() == []


@pytest.mark.long
def test_fenced_commits_are_recovered(db: shoal.Database) -> None:
    """What was written under a fence is in the log as any other commit, and nothing of a refused one is."""
    kv = shoal.KVStore(db)
    with db.lease(RUN, "a") as lease:
        for i in range(20):
            with db.transaction(RUN, fence=lease) as txn:
                txn.kv.put(f"key {i}", i)
                txn.events.append("done", i)
    with pytest.raises(shoal.FencedError):
        db.transact(RUN, lambda txn: txn.kv.put("key 20", 20), fence=lease)
    kill(db.info().coordinator_pid)
    with db.lease(RUN, "a") as again:
        assert again.token == lease.token + 1
    assert len(kv.list(RUN)) == shoal.EventLog(db).len(RUN) == 20
    assert shoal.EventLog(db).verify_chain(RUN)
    assert db.check() == []


@pytest.mark.long
def test_who_died_with_the_coordinator_has_its_ttl(db: shoal.Database, hold: Hold) -> None:
    """Nobody saw the death: it ends when the ttl is over under the next coordinator."""
    holder = hold("a", 1.0)
    kill(db.info().coordinator_pid)
    holder.kill()
    begin_s = time.monotonic()
    db.lease(RUN, "a", wait=DEADLINE_S).release()
    assert time.monotonic() - begin_s > 0.5


@pytest.mark.long
def test_a_holder_that_only_holds_comes_back_to_the_next_coordinator(db: shoal.Database, hold: Hold) -> None:
    """It makes no call for hours. Its death is seen at once all the same, not after its ttl, whoever serves by then."""
    for _ in range(2):
        holder = hold("a", 10_000.0)
        kill(db.info().coordinator_pid)
        shoal.KVStore(db).put(RUN, "key", 1)  # the next coordinator serves
        wait_for(lambda: db.info().clients >= 2, "the holder under the next coordinator")
        holder.kill()
        db.lease(RUN, "a", wait=DEADLINE_S).release()


@pytest.mark.long
def test_those_that_wait_go_on_waiting_under_the_next_coordinator(db: shoal.Database) -> None:
    """Their requests are sent again."""
    lease = db.lease(RUN, "a")
    got: list[shoal.Lease] = []
    thread = threading.Thread(target=lambda: got.append(db.lease(RUN, "a", wait=None)))
    thread.start()
    time.sleep(0.2)
    kill(db.info().coordinator_pid)
    time.sleep(0.2)
    lease.release()
    thread.join(DEADLINE_S)
    assert [info.token for info in db.leases(RUN)] == [got[0].token]
    got[0].release()


@pytest.mark.long
def test_a_line_keeps_its_order_under_the_next_coordinator(db: shoal.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited longest is served first, whichever request is sent again first."""
    lease, got, sent = db.lease(RUN, "a"), list[int](), list[int]()
    kv, send = shoal.KVStore(db), waiting._send

    def noted(attachment: Any, *arguments: Any) -> None:
        send(attachment, *arguments)
        if threading.current_thread() in threads:  # else it is a renewal
            sent.append(attachment.coordinator_pid)

    def wait(number: int) -> None:
        with shoal.open(db.path) as own, own.lease(RUN, "a", wait=None):
            got.append(number)

    def wait_until_sent(times: int) -> None:
        coordinator = db.info().coordinator_pid
        wait_for(lambda: sent.count(coordinator) == times, f"{times} requests")

    monkeypatch.setattr(waiting, "_send", noted)
    threads = [threading.Thread(target=wait, args=(number,)) for number in range(6)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        wait_until_sent(number)
    for _ in range(2):
        kill(db.info().coordinator_pid)
        kv.put(RUN, "key", 1)  # the next coordinator serves
        wait_until_sent(len(threads))
        kv.put(RUN, "key", 1)  # what was sent before is read by now
    lease.release()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert got == sorted(got)
    assert len(got) == len(threads)


def test_a_forked_child_does_not_hold_it(db: shoal.Database) -> None:
    """Its fence is refused, and why; its release does nothing, its end takes nothing; it can take others."""
    lease = db.lease(RUN, "a")
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            lease.release()
            with pytest.raises(shoal.FencedError, match=f"'a' is held by process {parent} by token") as caught:
                db.transact(RUN, lambda txn: txn.kv.put("late", 1), fence=lease)
            assert caught.value.pid == parent
            with pytest.raises(shoal.LeaseHeldError):
                db.lease(RUN, "a")
            db.lease(RUN, "child's")
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    wait_for(lambda: [info.name for info in db.leases(RUN)] == ["a"], "the child's lease to end")
    db.transact(RUN, lambda txn: txn.kv.put("k", 1), fence=lease)
    lease.release()


def test_an_interrupted_wait_takes_nothing(db: shoal.Database) -> None:
    """An exception of a signal handler leaves the line: nobody holds the lease when it is free."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for delay_s in (0.0005, 0.002, 0.1):
            lease = db.lease(RUN, "a")
            # Again after a while: one that is raised in a finaliser is lost.
            signal.setitimer(signal.ITIMER_REAL, delay_s, 2.0)
            with pytest.raises(KeyboardInterrupt):
                db.lease(RUN, "a", wait=None)
            signal.setitimer(signal.ITIMER_REAL, 0)
            lease.release()
            wait_for(lambda: not db.leases(RUN), "nobody to hold it")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.long
def test_the_thread_that_renews_ends(db: shoal.Database) -> None:
    """It is there only while something is held."""
    if not Path("/proc/self/task").exists():
        pytest.skip("no list of threads here")
    program = """if True:
        import os, sys, time, shoal
        def threads(expected):
            until = time.monotonic() + 20
            while len(os.listdir("/proc/self/task")) != expected:
                assert time.monotonic() < until, os.listdir("/proc/self/task")
                time.sleep(0.01)
        with shoal.open(sys.argv[1]) as db:
            threads(1)
            with db.lease("run", "a", ttl=0.5):
                threads(2)
            threads(1)
            db.lease("run", "b")
        threads(1)
    """
    done = subprocess.run([sys.executable, "-c", program, db.path], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_a_backup_takes_leases_with_it(db: shoal.Database, tmp_path: Path) -> None:
    """Its holders are not there: each has its ttl to come back. Tokens go on from the same number."""
    lease = db.lease(RUN, "a", ttl=0.5)
    db.backup(tmp_path / "copy")
    with shoal.open(tmp_path / "copy", linger=0.2) as copy:
        with copy.lease(RUN, "a", wait=DEADLINE_S) as taken:
            assert taken.token > lease.token
        assert copy.check() == []
    lease.release()


@pytest.mark.long
def test_an_export_has_leases_as_facts(db: shoal.Database, tmp_path: Path) -> None:
    """An import gives them to nobody; the tokens of the other store go on above theirs."""
    for _ in range(5):
        lease = db.lease(RUN, "a", ttl=7)
        if lease.token < 5:
            lease.release()
    file = tmp_path / "export"
    assert main(["export", db.path, str(file)]) == 0
    line = {"kind": "lease", "run_id": RUN, "name": "a", "token": 5, "slot": 0, "pid": os.getpid(), "ttl_ms": 7000}
    assert json.dumps(line, separators=(",", ":")) in file.read_text()
    with shoal.open(tmp_path / "other", linger=0.2) as other:
        assert main(["import", other.path, str(file)]) == 0
        with other.lease(RUN, "a") as taken:
            assert taken.token == 6
    lease.release()
