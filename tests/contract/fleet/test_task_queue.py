"""Task queues over each engine: what becomes of a task, in which order, and who may say so."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

import shoal
from shoal import TaskStatus
from tests.contract.fleet.queues import Q, claimed, status_of


def test_a_task_is_put_claimed_and_completed(any_db: shoal.Database, run: str) -> None:
    """Everybody sees what becomes of it; its result is there for good."""
    queue = shoal.TaskQueue(any_db)
    before_ms = time.time_ns() // 1_000_000
    task_id = queue.put(run, Q, {"to": [1, None]}, max_attempts=3, priority=7)
    info = queue.get(run, task_id)
    assert info is not None
    assert before_ms <= info.created_at <= time.time_ns() // 1_000_000
    assert info == shoal.TaskInfo(task_id, Q, TaskStatus.Ready, {"to": [1, None]}, 7, 0, 3, info.created_at, None, None)
    task = claimed(queue, run)
    assert (task.id, task.run_id, task.queue, task.payload, task.attempt) == (task_id, run, Q, {"to": [1, None]}, 1)
    assert status_of(queue, run, task_id) is TaskStatus.Claimed
    assert queue.claim(run, Q) is None
    task.complete({"done": True})
    assert queue.result(run, task_id) == {"done": True}
    assert status_of(queue, run, task_id) is TaskStatus.Done
    assert queue.stats(run, Q) == shoal.QueueStats(ready=0, delayed=0, claimed=0, done=1, dead=0)


def test_order(any_db: shoal.Database, run: str) -> None:
    """Higher priority first, then first in, first out; what comes back has its old place."""
    queue = shoal.TaskQueue(any_db)
    ids = {name: queue.put(run, Q, name, priority=priority) for name, priority in zip("abcde", (0, 5, 0, -3, 5))}  # noqa: B905
    first = claimed(queue, run)
    assert first.payload == "b"
    first.release()
    second = claimed(queue, run)
    second.fail("no")
    assert [task.payload for task in queue.claim_many(run, Q, 10)] == ["b", "e", "a", "c", "d"]
    assert [info.id for info in queue.list(run, Q)] == list(ids.values())


def test_a_block(any_db: shoal.Database, run: str) -> None:
    """It completes at its end, fails on an exception, and what was said inside is final."""
    queue = shoal.TaskQueue(any_db)
    done, failed, said, given = queue.put_many(run, Q, range(4), max_attempts=1)
    with claimed(queue, run):
        pass
    with pytest.raises(ZeroDivisionError), claimed(queue, run):
        raise ZeroDivisionError("by zero")
    with claimed(queue, run) as task:
        task.complete("early")
    with pytest.raises(KeyError), claimed(queue, run) as task:
        task.release()
        raise KeyError
    assert queue.result(run, done) is None
    info = queue.get(run, failed)
    assert info is not None
    assert (info.status, info.error) == (TaskStatus.Dead, "ZeroDivisionError: by zero")
    assert queue.result(run, said) == "early"
    assert status_of(queue, run, given) is TaskStatus.Ready
    assert claimed(queue, run).attempt == 1  # a released claim was no attempt


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_block_after_the_end(any_db: shoal.Database, run: str) -> None:
    """The work would be done again, so it does not begin; completed by itself or in a transaction, the result stays."""
    queue = shoal.TaskQueue(any_db)
    ends: list[Any] = [
        lambda task: task.complete(7),
        lambda task: any_db.transact(run, lambda txn: txn.queue.complete(task, 7)),
    ]
    for end in ends:
        task_id = queue.put(run, Q, 1)
        task = claimed(queue, run)
        end(task)
        with pytest.raises(shoal.FencedError, match="is not held any more"), task:
            pytest.fail("nothing was held")
        assert queue.result(run, task_id, timeout=0) == 7


def test_an_exception_without_a_text_fails_a_task(any_db: shoal.Database, run: str) -> None:
    """The exception of the block goes on, and the task is free: it is not held for as long as the process lives."""
    queue = shoal.TaskQueue(any_db)
    task_id = queue.put(run, Q, None)
    with pytest.raises(UnreadableError), claimed(queue, run):
        raise UnreadableError
    info = queue.get(run, task_id)
    assert info is not None
    assert (info.status, info.error) == (TaskStatus.Ready, "UnreadableError, whose text cannot be read: RuntimeError")
    claimed(queue, run).fail(UnreadableError())
    assert claimed(queue, run).attempt == 3


def test_the_text_of_any_exception_fails_a_task(any_db: shoal.Database, run: str) -> None:
    """Also one with the name of a file that is no valid text, whether the exception is given or its text."""
    queue = shoal.TaskQueue(any_db)
    task_id = queue.put(run, Q, None)
    error = ValueError("no such file: caf\udce9")
    for given in (error, f"ValueError: {error}"):
        claimed(queue, run).fail(given)
        info = queue.get(run, task_id)
        assert info is not None
        assert (info.status, info.error) == (TaskStatus.Ready, "ValueError: no such file: caf?")


def test_attempts(any_db: shoal.Database, run: str) -> None:
    """A failed task is ready again, later if so asked, and Dead after its last attempt; retry gives it all anew."""
    queue = shoal.TaskQueue(any_db)
    task_id = queue.put(run, Q, 1, max_attempts=2)
    claimed(queue, run).fail("first")
    assert status_of(queue, run, task_id) is TaskStatus.Ready
    with pytest.raises(shoal.InvalidOperationError):
        queue.retry(run, task_id)
    task = claimed(queue, run)
    assert task.attempt == 2
    task.fail(ValueError("second"), retry_in=100)
    info = queue.get(run, task_id)
    assert info is not None
    assert (info.status, info.attempt, info.error) == (TaskStatus.Dead, 2, "ValueError: second")
    with pytest.raises(shoal.TaskFailedError) as caught:
        queue.result(run, task_id)
    assert (caught.value.task_id, caught.value.status, caught.value.error) == (task_id, TaskStatus.Dead, info.error)
    queue.retry(run, task_id)
    task = claimed(queue, run)
    assert task.attempt == 1
    task.fail("third", retry_in=100)
    assert status_of(queue, run, task_id) is TaskStatus.Delayed
    assert queue.claim(run, Q) is None
    assert queue.stats(run, Q) == shoal.QueueStats(0, 1, 0, 0, 0)


@pytest.mark.long
def test_delay(any_db: shoal.Database, run: str) -> None:
    """A delayed task is ready at its time, also for one that waits, whom nobody tells of it by a commit."""
    queue = shoal.TaskQueue(any_db)
    queue.put(run, Q, "late", delay=1000)
    task_id = queue.put(run, Q, "soon", delay=0.2)
    assert status_of(queue, run, task_id) is TaskStatus.Delayed
    assert queue.claim(run, Q) is None
    begin_s = time.monotonic()
    task = claimed(queue, run, wait=30)
    assert (task.payload, time.monotonic() - begin_s < 10) == ("soon", True)
    task.fail("again", retry_in=0.1)
    task = claimed(queue, run, wait=None)
    assert task.attempt == 2
    assert queue.stats(run, Q) == shoal.QueueStats(0, 1, 1, 0, 0)


def test_a_delayed_task_is_ready_in_all_listings_at_its_time(any_db: shoal.Database, run: str) -> None:
    """Without a claim that made it so."""
    queue = shoal.TaskQueue(any_db)
    task_id = queue.put(run, Q, 1, delay=0.05)
    time.sleep(0.1)
    assert status_of(queue, run, task_id) is TaskStatus.Ready
    assert queue.stats(run, Q) == shoal.QueueStats(1, 0, 0, 0, 0)
    assert [info.id for info in queue.list(run, Q, TaskStatus.Ready)] == [task_id]
    assert queue.purge(run, Q, TaskStatus.Delayed) == 0
    assert queue.purge(run, Q, TaskStatus.Ready) == 1


@pytest.mark.long
def test_waiting_for_a_task(any_db: shoal.Database, run: str) -> None:
    """Claims wait in the order of arrival; each put serves one. Without a task they end after ``wait`` seconds."""
    queue = shoal.TaskQueue(any_db)
    begin_s = time.monotonic()
    assert queue.claim(run, Q, wait=0.1) is None
    assert time.monotonic() - begin_s >= 0.1
    assert queue.claim_many(run, Q, 3, wait=0.01) == []
    got: list[tuple[int, Any]] = []

    def claim(number: int) -> None:
        got.append((number, claimed(queue, run, wait=None).payload))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    queue.put(run, Q, 0)
    with any_db.transaction(run) as txn:
        txn.queue.put(Q, 1)
    queue.put_many(run, Q, [2, 3])
    for thread in threads:
        thread.join()
    assert sorted(got) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_result_waits(any_db: shoal.Database, run: str) -> None:
    """Until the task has ended; not longer than ``timeout``."""
    queue = shoal.TaskQueue(any_db)
    task_id = queue.put(run, Q, 1)
    with pytest.raises(TimeoutError):
        queue.result(run, task_id, timeout=0.05)
    timer = threading.Timer(0.1, lambda: claimed(queue, run).complete("x" * 5000))
    timer.start()
    assert queue.result(run, task_id) == "x" * 5000
    timer.join()


def test_keys(any_db: shoal.Database, run: str) -> None:
    """While there is a task of a key, in whatever status, a put returns its id and adds nothing."""
    queue = shoal.TaskQueue(any_db)
    task_id = queue.put(run, Q, "first", key="k")
    assert queue.put(run, Q, "second", key="k") == task_id
    assert queue.put(run, "other", "third", key="k") != task_id
    assert queue.put(run, Q, "fourth", key="l") != task_id
    claimed(queue, run).complete()
    with any_db.transaction(run) as txn:
        assert txn.queue.put(Q, "fifth", key="k") == task_id
        assert txn.queue.put(Q, "sixth", key="m") == txn.queue.put(Q, "seventh", key="m") != task_id
    assert [info.payload for info in queue.list(run, Q)] == ["first", "fourth", "sixth"]
    assert queue.purge(run, Q, TaskStatus.Done) == 1
    assert queue.get(run, task_id) is None
    assert queue.put(run, Q, "eighth", key="k") != task_id


def test_two_transactions_with_one_new_key_conflict(any_db: shoal.Database, run: str) -> None:
    """So only one task is put."""
    queue = shoal.TaskQueue(any_db)
    txn = any_db.transaction(run).__enter__()
    txn.queue.put(Q, 1, key="k")
    first = queue.put(run, Q, 2, key="k")
    with pytest.raises(shoal.ConflictError, match="queue q"):
        txn.__exit__(None, None, None)
    assert [info.id for info in queue.list(run, Q)] == [first]


def test_a_put_is_there_only_if_its_transaction_is(any_db: shoal.Database, run: str) -> None:
    """With everything else of the commit, or not at all."""
    queue, kv = shoal.TaskQueue(any_db), shoal.KVStore(any_db)
    with pytest.raises(ZeroDivisionError), any_db.transaction(run) as txn:
        txn.queue.put(Q, 1)
        raise ZeroDivisionError
    assert queue.list(run, Q) == []
    with any_db.transaction(run) as txn:
        txn.kv.put("order", 1)
        task_id = txn.queue.put(Q, "outbox")
        other_id = txn.on(run + "-2").queue.put(Q, "elsewhere", priority=1)
    assert (kv.get(run, "order"), queue.get(run, task_id) is not None) == (1, True)
    assert queue.get(run + "-2", other_id) is not None
    assert queue.get(run, other_id) is None


def test_effect_and_completion_in_one_commit(any_db: shoal.Database, run: str) -> None:
    """Both are done, or none; what was said in the transaction is final for the block."""
    queue, kv = shoal.TaskQueue(any_db), shoal.KVStore(any_db)
    first, second, third = queue.put_many(run, Q, range(3), max_attempts=1)
    with claimed(queue, run) as task, any_db.transaction(run, fence=task) as txn:
        txn.kv.increment("effects")
        txn.queue.complete(task, "ok")
    assert (queue.result(run, first), kv.get(run, "effects")) == ("ok", 1)
    with any_db.transaction(run) as txn, claimed(queue, run) as task:
        txn.queue.fail(task, "bad")
    assert status_of(queue, run, second) is TaskStatus.Dead
    task = claimed(queue, run)
    with pytest.raises(ZeroDivisionError), any_db.transaction(run) as txn:
        txn.kv.increment("effects")
        txn.queue.complete(task, "never")
        raise ZeroDivisionError
    assert status_of(queue, run, third) is TaskStatus.Claimed
    with task:  # no transaction has said what becomes of it
        pass
    assert queue.result(run, third) is None
    for fence in (None, task):
        with pytest.raises(shoal.FencedError), any_db.transaction(run, fence=fence) as txn:
            txn.kv.increment("effects")
            txn.queue.complete(task, "late")
    assert kv.get(run, "effects") == 1


def test_completions_and_puts_in_transactions_do_not_conflict(any_db: shoal.Database, run: str) -> None:
    """However the queue has changed since the snapshot."""
    queue = shoal.TaskQueue(any_db)
    queue.put_many(run, Q, range(3))
    tasks = queue.claim_many(run, Q, 3)
    open_ones = []
    for task in tasks:
        txn = any_db.transaction(run).__enter__()
        txn.kv.get("unrelated")
        txn.queue.put(Q, task.payload)
        txn.queue.complete(task)
        open_ones.append(txn)
    for txn in open_ones:
        txn.__exit__(None, None, None)
    assert queue.stats(run, Q) == shoal.QueueStats(3, 0, 0, 3, 0)


@pytest.mark.parametrize("end", ["complete", "fail", "release", "cancel", "purge", "delete_run"])
def test_a_lost_claim_is_fenced(any_db: shoal.Database, run: str, end: str) -> None:
    """After its end, whoever made it, every call of the claim is FencedError and changes nothing."""
    queue, kv = shoal.TaskQueue(any_db), shoal.KVStore(any_db)
    task_id = queue.put(run, Q, 1)
    task = claimed(queue, run)
    if end == "cancel":
        assert queue.cancel(run, task_id)
        assert not queue.cancel(run, task_id)
    elif end == "purge":
        assert queue.purge(run, Q, TaskStatus.Claimed) == 1
    elif end == "delete_run":
        shoal.RunIndex(any_db).delete_run(run)
    else:
        getattr(task, end)(*["why"] * (end == "fail"))
    before = queue.get(run, task_id), queue.stats(run, Q)
    calls = [task.complete, lambda: task.fail("x"), task.release]
    calls += [lambda: any_db.transact(run, lambda txn: txn.kv.put("k", 1), fence=task)]
    calls += [lambda: any_db.transact(run, lambda txn: txn.queue.complete(task))]
    for call in calls:
        with pytest.raises(shoal.FencedError) as caught:
            call()
        assert (caught.value.name, caught.value.token) == (task_id, task.token)
    assert (queue.get(run, task_id), queue.stats(run, Q)) == before
    assert kv.get(run, "k") is None
    if end in ("fail", "release"):
        assert claimed(queue, run).token > task.token


def test_a_claim_that_was_followed_by_another_of_the_same_process_is_fenced(any_db: shoal.Database, run: str) -> None:
    """The token counts, not only the process."""
    queue = shoal.TaskQueue(any_db)
    task_id = queue.put(run, Q, 1)
    first = claimed(queue, run)
    first.release()
    second = claimed(queue, run)
    with pytest.raises(shoal.FencedError):
        first.complete("late")
    second.complete("mine")
    assert queue.result(run, task_id) == "mine"


@pytest.mark.parametrize("run_id", ["", None, 1, b"x", "x" * 129])
def test_bad_run_ids(any_db: shoal.Database, run_id: Any) -> None:
    """Every call refuses them, also where nothing else would be looked for."""
    queue = shoal.TaskQueue(any_db)
    for call in (queue.get, queue.cancel, queue.retry, queue.result):
        with pytest.raises((TypeError, ValueError, shoal.LimitExceededError)):
            call(run_id, "no id")
    with pytest.raises((TypeError, ValueError, shoal.LimitExceededError)):
        shoal.RunIndex(any_db).diff("absent", run_id)
