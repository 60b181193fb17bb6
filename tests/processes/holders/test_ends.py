"""Leases of those that end: the process dies, or the database is closed."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.primitives.keys import Namespace, Tag
from shoal.shm.limits import MIB
from shoal.shm.wire import request as wire_request
from shoal.workers.shared_memory import take_over
from tests.support.raw_client import attach
from tests.support.slow import slow
from tests.support.workers.crash_workers import DEADLINE_S, kill, wait_for

from .conftest import Hold

pytestmark = pytest.mark.long

RUN = "run"


def test_a_killed_holder_is_taken_over_at_once(db: shoal.Database, hold: Hold) -> None:
    """Long before its ttl, by one that waits in the kernel; its token is higher."""
    took_ms = []
    for _ in range(2):
        holder = hold("a", 1000)
        (before,) = db.leases(RUN)
        assert before.pid == holder.pid
        got: list[tuple[float, shoal.Lease]] = []
        thread = threading.Thread(target=lambda got=got: got.append((time.monotonic(), db.lease(RUN, "a", wait=None))))
        thread.start()
        time.sleep(0.05)
        begin_s = time.monotonic()
        holder.kill()
        thread.join(DEADLINE_S)
        took_ms.append((time.monotonic() - begin_s) * 1000)
        assert got[0][1].token > before.token
        got[0][1].release()
    print("take-over in ms:", sorted(took_ms))
    assert min(took_ms) < 1000


def test_a_holder_that_ends_before_its_answer_is_taken_over_at_once(db: shoal.Database) -> None:
    """Its end is seen although the coordinator finds it first when it writes an answer that nobody reads."""
    key = Namespace()._run_prefix(RUN) + bytes((Tag.LEASE,)) + b"a"
    welcome = attach(db, client_id=77)
    left = {*welcome.descriptors}
    try:
        for commit_id, operation in enumerate(
            [("lease_take", [key, "a", 1, 77, os.getpid(), 1_000_000, 5]), ("increment", [key[:-2] + b"\1n", 1])], 1
        ):
            mutations = wire_request.encode_mutations([], None, [operation])
            os.write(welcome.request_fd, wire_request.framed_request(commit_id, 0, 0, wire_request.NO_READS, mutations))
            if commit_id == 1:
                os.read(welcome.answer_fd, 1000)
                os.close(welcome.answer_fd)
                left.remove(welcome.answer_fd)
        wait_for(lambda: shoal.KVStore(db).get(RUN, "n") is not None, "the commit whose answer nobody reads")
        assert [info.name for info in db.leases(RUN)] == ["a"]
    finally:
        for fd in left:
            os.close(fd)
    db.lease(RUN, "a", wait=DEADLINE_S).release()


@pytest.mark.parametrize(("closed", "killed"), [(25, 2), *slow((100, 5))])
def test_what_has_ended_is_free_for_whoever_knows_that(
    db: shoal.Database, hold: Hold, closed: int, killed: int
) -> None:
    """``close`` has returned, or the process was waited for: a call after that need not wait, and lists nothing."""
    queue, budget = shoal.TaskQueue(db), shoal.Budget(db)
    budget.create(RUN, "tokens", 1)
    for number in range(closed):
        other = shoal.open(db.path)
        task_id = queue.put(RUN, "tasks", number)
        other.lease(RUN, "a")
        shoal.Budget(other).reserve(RUN, "tokens", 1)
        assert shoal.TaskQueue(other).claim(RUN, "tasks") is not None
        other.close()
        if number % 5 == 1:
            assert db.leases(RUN) == []
        elif number % 5 == 2:
            assert budget.read(RUN, "tokens").reserved == 0
        elif number % 5 == 3:
            assert queue.stats(RUN, "tasks").claimed == 0
        elif number % 5 == 4:
            assert [info.id for info in queue.list(RUN, "tasks", shoal.TaskStatus.Ready)] == [task_id]
        db.lease(RUN, "a").release()
        budget.reserve(RUN, "tokens", 1).settle(0)
        task = queue.claim(RUN, "tasks")
        assert task is not None
        assert (task.id, task.attempt) == (task_id, 2)
        task.complete()
    for _ in range(killed):
        holder = hold("a", 1000)
        kill(holder.pid)
        holder.wait()
        db.lease(RUN, "a").release()


def test_all_of_much_that_was_held_is_free_for_whoever_asks(db: shoal.Database) -> None:
    """However much a closed database held: the next one finds all of it free, though its end takes several commits."""
    names = [f"{number:04}" for number in range(1200)]
    for _ in range(3):
        other = shoal.open(db.path)
        for name in names:
            other.lease(RUN, name)
        other.close()
        db.lease(RUN, names[-1]).release()
        assert db.leases(RUN) == []


def test_what_fills_half_of_the_memory_ends(tmp_path: Path) -> None:
    """Many tasks that one process has claimed come back, though there is no room to write all of them in one commit."""
    with shoal.open(tmp_path / "small", max_bytes=8 * MIB) as db:
        queue = shoal.TaskQueue(db)
        while db.info().bytes_used < 9 * MIB // 2:
            queue.put_many(RUN, "tasks", ["x" * 900] * 256)
        with shoal.open(db.path) as other:
            claimed = shoal.TaskQueue(other).claim_many(RUN, "tasks", 100_000)
        assert queue.stats(RUN, "tasks") == shoal.QueueStats(len(claimed), 0, 0, 0, 0)
        task = queue.claim(RUN, "tasks")
        assert task is not None
        assert (task.id, task.attempt) == (claimed[0].id, 2)


def test_what_was_held_ends_in_a_full_store(tmp_path: Path) -> None:
    """A lease and many claimed tasks are free at once, though nothing can be put any more: the reserve is for that."""
    with shoal.open(tmp_path / "small", max_bytes=8 * MIB) as db:
        queue, store = shoal.TaskQueue(db), shoal.KVStore(db)
        with shoal.open(db.path) as other:
            queue.put_many(RUN, "tasks", ["x" * 1000] * 1024)
            assert len(shoal.TaskQueue(other).claim_many(RUN, "tasks", 1024)) == 1024
            other.lease(RUN, "a")
            for size in (100_000, 1000, 1):
                with contextlib.suppress(shoal.StoreFullError):
                    for number in range(10_000):
                        store.put(RUN, f"{size}/{number}", "v" * size)
        assert db.leases(RUN) == []
        assert queue.stats(RUN, "tasks") == shoal.QueueStats(1024, 0, 0, 0, 0)


def test_close_waits_for_a_renewal(db: shoal.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that attaches in order to renew while its database is closed keeps nothing held after ``close``."""
    attach_at_once, begins = take_over.attach, threading.Event()

    def attach_late(*arguments: Any) -> Any:
        welcome = attach_at_once(*arguments)
        if not begins.is_set():
            begins.set()
            time.sleep(0.2)
        return welcome

    other = shoal.open(db.path)
    monkeypatch.setattr(take_over, "attach", attach_late)
    other.lease(RUN, "a")
    assert begins.wait(DEADLINE_S)
    other.close()
    db.lease(RUN, "a").release()


def test_close_in_another_thread_ends_a_wait(db: shoal.Database, store: Path) -> None:
    """With InvalidOperationError, and it leaves the line."""
    other = shoal.open(store)
    errors: list[BaseException] = []

    def take() -> None:
        try:
            other.lease(RUN, "a", wait=None)
        except shoal.InvalidOperationError as error:
            errors.append(error)

    with db.lease(RUN, "a"):
        thread = threading.Thread(target=take)
        thread.start()
        time.sleep(0.2)
        other.close()
        thread.join(DEADLINE_S)
        assert "is closed" in str(errors[0])
    assert db.leases(RUN) == []
