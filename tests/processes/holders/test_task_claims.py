"""Claims of processes that die or stand still, and of coordinators that die: no task is lost or done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

import pytest

import shoal
from shoal import TaskStatus
from tests.support.workers.crash_workers import DEADLINE_S, kill, wait_for
from tests.support.workers.forked import run_in_child

from .conftest import Start

RUN, Q = "run", "q"
_HOLDER = """
import sys, shoal
db = shoal.open(sys.argv[1])
queue = shoal.TaskQueue(db)
tasks = queue.claim_many("run", "q", int(sys.argv[3]), ttl=float(sys.argv[2]), wait=None)
print("claimed", flush=True)
sys.stdin.readline()
for task in tasks:
    try:
        task.complete("late")
        print("completed")
    except shoal.FencedError:
        print("fenced")
"""


# Ends a claim in one queue, then has one in another, as a program does that serves several.
_TAKES_TURNS = """
import sys, shoal
db = shoal.open(sys.argv[1])
queue = shoal.TaskQueue(db)
for name in ("first", "second", "first", "third"):
    task = queue.claim("run", name, ttl=1000)
    if name != "third":
        task.complete(name)
print("claimed", flush=True)
sys.stdin.readline()
"""


def hold(start: Start, ttl_s: float, tasks: int = 1) -> subprocess.Popen[str]:
    """A process that has claimed tasks, and completes them when it is told so."""
    return start(_HOLDER, ttl_s, tasks, says="claimed")


def finish(process: subprocess.Popen[str]) -> list[str]:
    return process.communicate("\n", timeout=DEADLINE_S)[0].split()


@pytest.mark.long
def test_tasks_of_a_killed_process_are_claimable_at_once(db: shoal.Database, start: Start) -> None:
    """Long before their ttl, by one that waits in the kernel; that was an attempt, and the last one leaves it Dead."""
    queue = shoal.TaskQueue(db)
    task_id, once = queue.put(RUN, Q, "a", max_attempts=3), queue.put(RUN, Q, "b", max_attempts=1)
    holder = hold(start, 1000, tasks=2)
    got: list[shoal.Task | None] = []
    thread = threading.Thread(target=lambda: got.append(queue.claim(RUN, Q, wait=None)))
    thread.start()
    time.sleep(0.05)
    holder.kill()
    thread.join(DEADLINE_S)
    (task,) = got
    assert task is not None
    assert (task.id, task.attempt) == (task_id, 2)
    info = queue.get(RUN, once)
    assert info is not None
    assert (info.status, info.error) == (
        TaskStatus.Dead,
        f"process {holder.pid}, which had claimed the task, ended or did not answer any more",
    )
    task.complete()
    assert queue.stats(RUN, Q) == shoal.QueueStats(0, 0, 0, 1, 1)


@pytest.mark.long
def test_only_the_last_claim_ends_with_its_process(db: shoal.Database, start: Start) -> None:
    """What a process completed before, in whichever queue, stays Done; what it holds at its end is free at once."""
    queue = shoal.TaskQueue(db)
    done = [queue.put(RUN, name, name) for name in ("first", "second", "first")]
    held = queue.put(RUN, "third", "third")
    start(_TAKES_TURNS, says="claimed").kill()
    task = queue.claim(RUN, "third", wait=DEADLINE_S)
    assert task is not None
    assert (task.id, task.attempt) == (held, 2)
    task.complete()
    assert [queue.result(RUN, task_id) for task_id in done] == ["first", "second", "first"]
    assert [queue.stats(RUN, name).done for name in ("first", "second", "third")] == [2, 1, 1]


@pytest.mark.long
def test_a_stopped_process_loses_its_tasks_after_ttl(db: shoal.Database, start: Start) -> None:
    """Not before; what it says late is fenced, and does not touch the claim of another."""
    queue = shoal.TaskQueue(db)
    task_id = queue.put(RUN, Q, "a")
    holder = hold(start, 1.0)
    time.sleep(1.5)  # renewed meanwhile
    assert queue.claim(RUN, Q) is None
    holder.send_signal(signal.SIGSTOP)
    task = queue.claim(RUN, Q, wait=DEADLINE_S)
    assert task is not None
    assert (task.id, task.attempt) == (task_id, 2)
    holder.send_signal(signal.SIGCONT)
    assert finish(holder) == ["fenced"]
    task.complete("mine")
    assert queue.result(RUN, task_id) == "mine"


@pytest.mark.long
def test_claims_outlive_the_coordinator(db: shoal.Database, start: Start) -> None:
    """Who holds goes on holding, and who waits goes on waiting, also for a delayed task; tasks are still there."""
    queue = shoal.TaskQueue(db)
    first, second = queue.put_many(RUN, Q, ["held", "mine"])
    holder = hold(start, 30)
    mine = queue.claim(RUN, Q)
    assert mine is not None
    queue.put(RUN, Q, "delayed", delay=1.0)
    got: list[shoal.Task | None] = []
    threads = [threading.Thread(target=lambda: got.append(queue.claim(RUN, Q, wait=None))) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    for _ in range(2):
        kill(db.info().coordinator_pid)
        assert queue.stats(RUN, Q).claimed >= 2
        queue.put(RUN, "other", 1)
    queue.put(RUN, Q, "put")
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sorted(task.payload for task in got if task is not None) == ["delayed", "put"]
    mine.complete("mine")
    assert finish(holder) == ["completed"]
    assert (queue.result(RUN, first), queue.result(RUN, second)) == ("late", "mine")
    assert db.check() == []


@pytest.mark.long
def test_holders_that_die_with_the_coordinator(db: shoal.Database, start: Start) -> None:
    """Their tasks are claimable after ttl; those of holders that live are not."""
    queue = shoal.TaskQueue(db)
    dead, alive = queue.put_many(RUN, Q, ["dead", "alive"])
    killed = hold(start, 1.0)
    holder = hold(start, 1.0)
    kill(db.info().coordinator_pid)
    killed.kill()
    task = queue.claim(RUN, Q, wait=DEADLINE_S)
    assert task is not None
    assert task.id == dead
    time.sleep(1.5)
    assert queue.claim(RUN, Q) is None
    assert finish(holder) == ["completed"]
    assert queue.result(RUN, alive) == "late"


@pytest.mark.long
def test_an_interrupted_claim_takes_nothing(db: shoal.Database) -> None:
    """An exception of a signal handler ends the wait, and no task is lost by it."""
    queue = shoal.TaskQueue(db)

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            queue.claim(RUN, Q, wait=None)
    finally:
        signal.signal(signal.SIGALRM, before)
    task_id = queue.put(RUN, Q, 1)
    wait_for(lambda: queue.stats(RUN, Q).ready == 1, "the task to be ready")
    task = queue.claim(RUN, Q)
    assert task is not None
    assert (task.id, task.attempt) == (task_id, 1)


def test_a_forked_child_has_no_task_and_no_consumer(db: shoal.Database) -> None:
    """What its parent has claimed is refused there in every use, with the parent's pid, and stays the parent's."""
    queue, log, parent = shoal.TaskQueue(db), shoal.EventLog(db), os.getpid()
    log.append_many(RUN, [("step", 1), ("step", 2)])
    task_id = queue.put(RUN, Q, 1)
    task, consumer = queue.claim(RUN, Q), log.consumer(RUN, "reader")
    assert task is not None

    def use() -> None:
        uses = (
            task.complete,
            lambda: task.fail("not mine"),
            task.release,
            lambda: db.transact(RUN, lambda txn: txn.kv.put("late", 1), fence=task),
            lambda: db.transact(RUN, lambda txn: txn.queue.complete(task)),
            lambda: consumer.commit(0),
            lambda: next(iter(consumer)),
        )
        for call in uses:
            with pytest.raises(shoal.FencedError, match=f"is held by process {parent} by token") as caught:
                call()
            assert caught.value.pid == parent

    assert run_in_child(use) == 0
    assert next(iter(consumer)).sequence == consumer.position == 0
    task.complete("mine")
    assert queue.result(RUN, task_id) == "mine"
    assert shoal.KVStore(db).get(RUN, "late") is None


def test_close_gives_tasks_back(db: shoal.Database) -> None:
    """As the death of the process would."""
    queue = shoal.TaskQueue(db)
    queue.put(RUN, Q, 1)
    other = shoal.open(db.path)
    task = shoal.TaskQueue(other).claim(RUN, Q)
    assert task is not None
    other.close()
    again = queue.claim(RUN, Q, wait=DEADLINE_S)
    assert again is not None
    assert again.attempt == 2
    with pytest.raises(shoal.InvalidOperationError):
        task.complete()
