"""Signal handlers, finalisers and exceptions that come between any two steps of a call."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shoal
from shoal.workers.shared_memory import channel
from tests.support.crash_workers import DEADLINE_S, descriptors, kill, shoal_mappings, wait_for

RUN = "interrupted"


class Interrupted(BaseException):
    """Raised by a signal handler."""


@contextlib.contextmanager
def handling(number: int, handler: Callable[[], None]) -> Iterator[None]:
    """Have a signal handled by ``handler`` meanwhile."""
    before = signal.signal(number, lambda _number, _frame: handler())
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(number, before)


@pytest.fixture
def db(store: Path) -> Iterator[shoal.Database]:
    with shoal.open(store, linger=0.05) as opened:
        yield opened


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
        while handled < 300:
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
        for i in range(300):
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
    assert finalised == 300
    assert kv.get(RUN, "finalised") == 300
    assert db.check() == []


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


def test_a_handler_forks_during_a_commit(db: shoal.Database) -> None:
    """The child uses the database with locks of its own; the parent's commit goes on. It is not the child's."""
    kv = shoal.KVStore(db)
    children: list[int] = []

    def handle() -> None:
        pid = os.fork()
        if pid:
            children.append(pid)
            return
        status = 1
        try:
            kv.increment(RUN, "children")
            with db.snapshot(RUN) as view:
                assert view.kv.get("children") >= 1
            status = 0
        finally:
            os._exit(status)

    done = 0
    with handling(signal.SIGALRM, handle):
        for _ in range(10):
            forked = len(children)
            signal.setitimer(signal.ITIMER_REAL, 0.0007)
            while len(children) == forked:
                done += 1
                assert kv.increment(RUN, "main") == done
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 10
    assert (kv.get(RUN, "main"), kv.get(RUN, "children")) == (done, 10)
    wait_for(lambda: db.info().clients == 1, "the children to be forgotten")


def test_a_fork_while_other_threads_commit(db: shoal.Database) -> None:
    """The child has a database that works, whatever the threads it does not have were doing; the threads go on."""
    kv = shoal.KVStore(db)
    stop = threading.Event()
    done = [0, 0]

    def work(i: int) -> None:
        while not stop.is_set():
            kv.increment(RUN, f"sum {i}")
            with db.snapshot(RUN) as view:
                done[i] += 1
                assert view.kv.get(f"sum {i}") == done[i]

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        for i in range(10):
            if i == 5:
                kill(db.info().coordinator_pid)  # the next forks come while threads start another
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    kv.increment(RUN, "children")
                    with db.transaction(RUN) as txn:
                        txn.kv.put(f"child {i}", txn.kv.get("children"))
                    db.close()
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert kv.get(RUN, "children") == 10
    assert [kv.get(RUN, f"sum {i}") for i in (0, 1)] == done
    wait_for(lambda: db.info().clients == 1, "the children to be forgotten")


@pytest.mark.parametrize("written", [0.0, 0.5, 1.0], ids=["before the request", "in the request", "before the answer"])
def test_a_child_that_goes_on_with_its_parents_commit(
    db: shoal.Database, monkeypatch: pytest.MonkeyPatch, written: float
) -> None:
    """Forked in the middle of a commit and returning into it: the child's call is refused, the next one is done."""
    kv = shoal.KVStore(db)
    large = b"x" * 500_000
    parent = os.getpid()
    children: list[int] = []
    sound = channel.write_all

    def write_and_fork(fd: int, data: bytes, *options: float) -> None:
        if children or os.getpid() != parent:
            sound(fd, data, *options)
            return
        begun = int(len(data) * written)
        if begun:
            sound(fd, data[:begun], *options)
        signal.raise_signal(signal.SIGALRM)
        if begun < len(data):
            sound(fd, data[begun:], *options)

    monkeypatch.setattr(channel, "write_all", write_and_fork)
    with handling(signal.SIGALRM, lambda: children.append(os.fork())):
        status = 1
        try:
            kv.put(RUN, "large", large)
        except shoal.InvalidOperationError as refused:
            status = 0 if os.getpid() != parent and "forked" in str(refused) else 2
        finally:
            if os.getpid() != parent:
                kv.put(RUN, "child", 1)
                os._exit(status)
    (child,) = children
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert kv.get(RUN, "large") == large
    assert kv.get(RUN, "child") == 1
    assert db.check() == []


def _open_and_close(db: shoal.Database, kv: shoal.KVStore, note: list[int]) -> None:
    with shoal.open(db.path) as other:
        note.append(-1)
        shoal.KVStore(other).increment(RUN, "others")


def _snapshot(db: shoal.Database, kv: shoal.KVStore, note: list[int]) -> None:
    with db.snapshot(RUN) as view:
        assert view.kv.get("key") is not None
        assert view.kv.list("many/")


def _scan(db: shoal.Database, kv: shoal.KVStore, note: list[int]) -> None:
    for _key, _found in db.engine.scan(b"", b"\xff"):
        break


def _transaction(db: shoal.Database, kv: shoal.KVStore, note: list[int]) -> None:
    with db.transaction(RUN) as txn:
        left = txn.kv.get("left", 0) + 1
        txn.kv.put("left", left)
        txn.kv.put("right", left)


def _increment(db: shoal.Database, kv: shoal.KVStore, note: list[int]) -> None:
    note[0] += 1  # asked for
    kv.increment(RUN, "sum")
    note[1] += 1  # and told


CALLS = [
    *(lambda _db, kv, _note: kv.put(RUN, "key", 1), lambda _db, kv, _note: kv.get(RUN, "key")),
    *(_increment, _transaction, _snapshot, _scan),
]


def _interrupt_at_random(store: Path, monkeypatch: pytest.MonkeyPatch, times: int, opens: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with shoal.open(store, linger=0.3) as db:
        kv = shoal.KVStore(db)
        kv.put(RUN, "key", 0)
        for i in range(300):
            kv.put(RUN, f"many/{i}", i)
        gc.collect()
        before = len(descriptors()), len(shoal_mappings())
        note = [0, 0]
        raised = 0

        def handle() -> None:
            nonlocal raised
            raised += 1
            raise Interrupted

        # What a finaliser swallows is told to this hook; pytest's would keep its frames.
        with handling(signal.SIGALRM, handle), monkeypatch.context() as patch:
            patch.setattr(sys, "unraisablehook", lambda _: None)
            for i in range(times):
                call = _open_and_close if i % (times // opens) == 0 else rng.choice(CALLS)
                longest_s = 0.004 if call is _open_and_close else 0.0004
                with contextlib.suppress(Interrupted):
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, longest_s))
                    while raised == i:  # a finaliser may have swallowed it
                        call(db, kv, note)
        gc.collect()
        kv.put(RUN, "key", "normal")
        with db.snapshot(RUN) as view:
            assert view.kv.get("key") == "normal"
        found = kv.get(RUN, "sum", 0)
        assert note[1] <= found <= note[0]
        assert kv.get(RUN, "left") == kv.get(RUN, "right")
        assert db.check() == []
        slots = db._connection.current().slots
        assert not any(slots._slots[1:])
        assert slots._slots[0] < 50
        # An open that was interrupted goes on in its thread, and gives back what it has when it is done.
        wait_for(lambda: (len(descriptors()), len(shoal_mappings())) == before, "everything to be given back")
        wait_for(lambda: db.info().clients == 1, "the coordinator to forget what was interrupted")


def test_exceptions_at_random_moments(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that raises anywhere: nothing is leaked, half done or done twice, and the next call works."""
    _interrupt_at_random(store, monkeypatch, 400, 40)


@pytest.mark.slow
def test_exceptions_at_ten_thousand_moments(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same 10,000 times."""
    _interrupt_at_random(store, monkeypatch, 10_000, 500)


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
