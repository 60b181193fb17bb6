"""Signal handlers and finalisers that come between any two steps of a call, and the interpreter's end."""

from __future__ import annotations

import contextlib
import gc
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

import shoal
from tests.processes.interrupted.handling import RUN, handling
from tests.support.workers.crash_workers import DEADLINE_S, descriptors, kill, shoal_mappings, wait_for
from tests.support.workers.forked import alone

pytestmark = pytest.mark.long


def test_a_handler_writes_in_the_middle_of_writes(db: shoal.Database) -> None:
    """Hundreds of signals: each handler's commits are done, and so are those it interrupts; one more client at most."""
    kv = shoal.KVStore(db)
    handled = 0

    def handle() -> None:
        nonlocal handled
        handled += 1
        assert kv.increment(RUN, "handled") == handled
        with db.transaction(RUN) as txn:
            txn.kv.put("last", handled)
        assert kv.get(RUN, "last") == handled
        signal.setitimer(signal.ITIMER_REAL, 0.0005)

    done = 0
    with handling(signal.SIGALRM, handle):
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        while handled < 100:
            done += 1
            assert kv.increment(RUN, "main") == done
            with db.snapshot(RUN) as view:
                assert view.kv.get("main") == done
    assert (kv.get(RUN, "main"), kv.get(RUN, "handled")) == (done, handled)
    assert db.info().clients == 1
    assert db.check() == []


def test_a_handler_writes_beside_threads(db: shoal.Database) -> None:
    """Handlers interrupt the main thread while others commit: nobody waits for itself, every sum is right."""
    kv = shoal.KVStore(db)
    stop = threading.Event()
    sums = [0, 0, 0]

    def work(i: int) -> None:
        while not stop.is_set():
            kv.increment(RUN, "sum")
            sums[i] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in (1, 2)]
    handled = [0]

    def handle() -> None:
        kv.increment(RUN, "sum")
        handled[0] += 1
        signal.setitimer(signal.ITIMER_REAL, 0.002)

    for thread in threads:
        thread.start()
    try:
        with handling(signal.SIGALRM, handle):
            signal.setitimer(signal.ITIMER_REAL, 0.001)
            while handled[0] < 60:
                kv.increment(RUN, "sum")
                sums[0] += 1
    finally:
        stop.set()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert kv.get(RUN, "sum") == sum(sums) + handled[0]


@pytest.mark.parametrize("how", ["__del__", "weakref callback"])
def test_a_finaliser_writes_in_the_middle_of_writes(db: shoal.Database, how: str) -> None:
    """An object in a cycle may die at any allocation of a commit, in its own thread, and its finaliser commits."""
    kv = shoal.KVStore(db)
    finalised = 0

    def finalise(_reference: object = None) -> None:
        nonlocal finalised
        finalised += 1
        kv.increment(RUN, "finalised")

    class Thing:
        def __init__(self) -> None:
            self.me = self
            if how == "weakref callback":
                self.dies = weakref.ref(self, finalise)

        if how != "weakref callback":

            def __del__(self) -> None:
                finalise()

    before = gc.get_threshold()
    references = []
    try:
        for i in range(120):
            gc.set_threshold(2 + i % 60, 2, 2)  # so that the collection comes elsewhere each time
            thing = Thing()
            if how == "weakref callback":
                references.append(thing.dies)
            del thing
            with db.transaction(RUN) as txn:
                txn.kv.put("main", i)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert finalised == 120
    assert kv.get(RUN, "finalised") == 120
    assert db.check() == []


_FINALISES = """
import gc, os, signal, sys, shoal

class Session:
    def __init__(self):
        self.me = self

    def __del__(self):
        kv.increment("run", "ended")
        if goes_on:
            Session()

with shoal.open(sys.argv[1]) as db:
    kv, goes_on = shoal.KVStore(db), True
    gc.set_threshold(30)
    for number in range(6):
        Session()
        os.kill(db.info().coordinator_pid, signal.SIGKILL)
        kv.put("run", "number", number)
    goes_on = False
    gc.set_threshold(700)
    gc.collect()
    print(kv.get("run", "ended") > 6)
"""


def test_a_finaliser_writes_while_its_process_attaches(store: Path) -> None:
    """It does not run in the thread that attaches, where it would wait for the thread that waits for that one."""
    done = subprocess.run([sys.executable, "-c", _FINALISES, store], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_writes_between_any_two_calls_of_a_write(db: shoal.Database) -> None:
    """What a handler or a finaliser does, at each call and return inside put, transaction, snapshot and a take-over."""
    kv = shoal.KVStore(db)

    def work() -> None:
        kv.put(RUN, "key", 1)
        with db.transaction(RUN) as txn:
            txn.kv.increment("main")
        with db.snapshot(RUN) as view:
            assert view.kv.get("key") == 1

    inside = 0

    def interrupt(at: int) -> None:
        events = 0

        def profile(_frame: object, _event: str, _argument: object) -> None:
            nonlocal events, inside
            events += 1
            if events == at:
                sys.setprofile(None)
                inside += 1
                assert kv.increment(RUN, "inside") == inside

        sys.setprofile(profile)
        try:
            work()
        finally:
            sys.setprofile(None)

    for at in range(1, 301):  # a wait for an answer is any number of calls; most of the time this is more than all
        interrupt(at)
    assert inside > 100
    for at in (30, 90):
        kill(db.info().coordinator_pid)
        interrupt(at)
    assert kv.get(RUN, "main") == 302
    assert db.info().clients == 1
    assert db.check() == []


@alone
def test_a_handler_closes_the_database_during_a_commit(store: Path) -> None:
    """The commit under way is answered, the next one is told; nothing stays open."""
    before = len(descriptors()), len(shoal_mappings())
    for delay_s in (0.0001, 0.0003, 0.0006, 0.001):
        db = shoal.open(store, linger=1)
        kv = shoal.KVStore(db)
        done = kv.get(RUN, "sum", 0)
        with handling(signal.SIGALRM, db.close):
            signal.setitimer(signal.ITIMER_REAL, delay_s)
            with contextlib.suppress(shoal.InvalidOperationError):
                while True:
                    kv.increment(RUN, "sum")
                    done += 1
        assert (len(descriptors()), len(shoal_mappings())) == before
        with shoal.open(store) as again:
            assert shoal.KVStore(again).get(RUN, "sum", 0) == done
        del db, kv


_AT_EXIT = """
import atexit, sys, threading
import shoal
db = shoal.open(sys.argv[1])
kv = shoal.KVStore(db)

class Last:
    def __del__(self):
        kv.increment("run", "finalised")

def at_exit():
    kv.increment("run", "at exit")
    with shoal.open(sys.argv[1]) as other:
        shoal.KVStore(other).increment("run", "at exit")

def forever():
    while True:
        kv.increment("run", "thread")

atexit.register(at_exit)
last = Last()
threading.Thread(target=forever, daemon=True).start()
kv.put("run", "k", 1)
"""


def test_the_interpreters_end(store: Path) -> None:
    """atexit handlers, finalisers of the last objects and daemon threads: no hang, and not a word on stderr."""
    with shoal.open(store, linger=0.05) as db:
        for _ in range(3):
            done = subprocess.run(
                [sys.executable, "-c", _AT_EXIT, str(store)], capture_output=True, text=True, timeout=DEADLINE_S
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert shoal.KVStore(db).get("run", "at exit") == 6
        wait_for(lambda: db.info().clients == 1, "the clients to be gone")


_OPENS_LAST = """
import builtins, sys
import shoal

class Last:
    def __del__(self, open=shoal.open, kv_store=shoal.KVStore, path=sys.argv[1]):
        with open(path, linger=0.05) as db:
            kv_store(db).put("run", "last", 1)

builtins.last = Last()
"""


def test_a_finaliser_opens_the_store_at_the_very_end(store: Path) -> None:
    """An object that outlives all modules can start a coordinator."""
    done = subprocess.run(
        [sys.executable, "-c", _OPENS_LAST, str(store)], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with shoal.open(store, linger=0.05) as db:
        assert shoal.KVStore(db).get("run", "last") == 1
