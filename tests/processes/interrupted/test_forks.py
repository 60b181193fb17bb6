"""Forks in the middle of a call: the child has a database that works, the parent does not notice."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

import shoal
from shoal.shm.wire import pipe_messages
from shoal.workers import coordinator_start
from shoal.workers.shared_memory import channel
from tests.processes.interrupted.handling import RUN, handling
from tests.support.workers.crash_workers import DEADLINE_S, kill, wait_for

pytestmark = pytest.mark.long


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
    sound = pipe_messages.write_all

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


def test_a_fork_while_a_descriptor_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child closes no number that another thread of its parent has closed: the program may use that number by now."""
    closes = threading.Event()

    def close_slowly(fd: int) -> None:
        os.close(fd)
        closes.set()
        time.sleep(0.2)

    def hold_and_close() -> None:
        read_fd, write_fd = os.pipe()
        os.close(write_fd)
        with coordinator_start._held(read_fd):
            pass

    monkeypatch.setattr(coordinator_start, "os", SimpleNamespace(**{**vars(os), "close": close_slowly}))
    thread = threading.Thread(target=hold_and_close)
    thread.start()
    assert closes.wait(DEADLINE_S)
    pid = os.fork()
    if not pid:
        os._exit(len(coordinator_start._under_way))  # not empty if closing them failed
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
