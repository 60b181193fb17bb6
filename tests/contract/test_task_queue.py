"""Task queues over each engine: what becomes of a task, in which order, and who may say so."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

import shoal
from shoal import TaskStatus

Q = "q"


def _claimed(queue: shoal.TaskQueue, run: str, **options: Any) -> shoal.Task:
    task = queue.claim(run, Q, **options)
    assert task is not None
    return task


def _status(queue: shoal.TaskQueue, run: str, task_id: str) -> TaskStatus:
    info = queue.get(run, task_id)
    assert info is not None
    return info.status


def test_a_task_is_put_claimed_and_completed(any_db: shoal.Database, run: str) -> None:
    """Everybody sees what becomes of it; its result is there for good."""
    queue = shoal.TaskQueue(any_db)
    before_ms = time.time_ns() // 1_000_000
    task_id = queue.put(run, Q, {"to": [1, None]}, max_attempts=3, priority=7)
    info = queue.get(run, task_id)
    assert info is not None
    assert before_ms <= info.created_at <= time.time_ns() // 1_000_000
    assert info == shoal.TaskInfo(task_id, Q, TaskStatus.Ready, {"to": [1, None]}, 7, 0, 3, info.created_at, None, None)
    task = _claimed(queue, run)
    assert (task.id, task.run_id, task.queue, task.payload, task.attempt) == (task_id, run, Q, {"to": [1, None]}, 1)
    assert _status(queue, run, task_id) is TaskStatus.Claimed
    assert queue.claim(run, Q) is None
    task.complete({"done": True})
    assert queue.result(run, task_id) == {"done": True}
    assert _status(queue, run, task_id) is TaskStatus.Done
    assert queue.stats(run, Q) == shoal.QueueStats(ready=0, delayed=0, claimed=0, done=1, dead=0)


def test_order(any_db: shoal.Database, run: str) -> None:
    """Higher priority first, then first in, first out; what comes back has its old place."""
    queue = shoal.TaskQueue(any_db)
    ids = {name: queue.put(run, Q, name, priority=priority) for name, priority in zip("abcde", (0, 5, 0, -3, 5))}  # noqa: B905
    first = _claimed(queue, run)
    assert first.payload == "b"
    first.release()
    second = _claimed(queue, run)
    second.fail("no")
    assert [task.payload for task in queue.claim_many(run, Q, 10)] == ["b", "e", "a", "c", "d"]
    assert [info.id for info in queue.list(run, Q)] == list(ids.values())


def test_a_block(any_db: shoal.Database, run: str) -> None:
    """It completes at its end, fails on an exception, and what was said inside is final."""
    queue = shoal.TaskQueue(any_db)
    done, failed, said, given = queue.put_many(run, Q, range(4), max_attempts=1)
    with _claimed(queue, run):
        pass
    with pytest.raises(ZeroDivisionError), _claimed(queue, run):
        raise ZeroDivisionError("by zero")
    with _claimed(queue, run) as task:
        task.complete("early")
    with pytest.raises(KeyError), _claimed(queue, run) as task:
        task.release()
        raise KeyError
    assert queue.result(run, done) is None
    info = queue.get(run, failed)
    assert info is not None
    assert (info.status, info.error) == (TaskStatus.Dead, "ZeroDivisionError: by zero")
    assert queue.result(run, said) == "early"
    assert _status(queue, run, given) is TaskStatus.Ready
    assert _claimed(queue, run).attempt == 1  # a released claim was no attempt


def test_attempts(any_db: shoal.Database, run: str) -> None:
    """A failed task is ready again, later if so asked, and Dead after its last attempt; retry gives it all anew."""
    queue = shoal.TaskQueue(any_db)
    task_id = queue.put(run, Q, 1, max_attempts=2)
    _claimed(queue, run).fail("first")
    assert _status(queue, run, task_id) is TaskStatus.Ready
    with pytest.raises(shoal.InvalidOperationError):
        queue.retry(run, task_id)
    task = _claimed(queue, run)
    assert task.attempt == 2
    task.fail(ValueError("second"), retry_in=100)
    info = queue.get(run, task_id)
    assert info is not None
    assert (info.status, info.attempt, info.error) == (TaskStatus.Dead, 2, "ValueError: second")
    with pytest.raises(shoal.TaskFailedError) as caught:
        queue.result(run, task_id)
    assert (caught.value.task_id, caught.value.status, caught.value.error) == (task_id, TaskStatus.Dead, info.error)
    queue.retry(run, task_id)
    task = _claimed(queue, run)
    assert task.attempt == 1
    task.fail("third", retry_in=100)
    assert _status(queue, run, task_id) is TaskStatus.Delayed
    assert queue.claim(run, Q) is None
    assert queue.stats(run, Q) == shoal.QueueStats(0, 1, 0, 0, 0)


def test_delay(any_db: shoal.Database, run: str) -> None:
    """A delayed task is ready at its time, also for one that waits, whom nobody tells of it by a commit."""
    queue = shoal.TaskQueue(any_db)
    queue.put(run, Q, "late", delay=1000)
    task_id = queue.put(run, Q, "soon", delay=0.2)
    assert _status(queue, run, task_id) is TaskStatus.Delayed
    assert queue.claim(run, Q) is None
    begin_s = time.monotonic()
    task = _claimed(queue, run, wait=30)
    assert (task.payload, time.monotonic() - begin_s < 10) == ("soon", True)
    task.fail("again", retry_in=0.1)
    task = _claimed(queue, run, wait=None)
    assert task.attempt == 2
    assert queue.stats(run, Q) == shoal.QueueStats(0, 1, 1, 0, 0)


def test_a_delayed_task_is_ready_in_all_listings_at_its_time(any_db: shoal.Database, run: str) -> None:
    """Without a claim that made it so."""
    queue = shoal.TaskQueue(any_db)
    task_id = queue.put(run, Q, 1, delay=0.05)
    time.sleep(0.1)
    assert _status(queue, run, task_id) is TaskStatus.Ready
    assert queue.stats(run, Q) == shoal.QueueStats(1, 0, 0, 0, 0)
    assert [info.id for info in queue.list(run, Q, TaskStatus.Ready)] == [task_id]
    assert queue.purge(run, Q, TaskStatus.Delayed) == 0
    assert queue.purge(run, Q, TaskStatus.Ready) == 1


def test_waiting_for_a_task(any_db: shoal.Database, run: str) -> None:
    """Claims wait in the order of arrival; each put serves one. Without a task they end after ``wait`` seconds."""
    queue = shoal.TaskQueue(any_db)
    begin_s = time.monotonic()
    assert queue.claim(run, Q, wait=0.1) is None
    assert time.monotonic() - begin_s >= 0.1
    assert queue.claim_many(run, Q, 3, wait=0.01) == []
    got: list[tuple[int, Any]] = []

    def claim(number: int) -> None:
        got.append((number, _claimed(queue, run, wait=None).payload))

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
    timer = threading.Timer(0.1, lambda: _claimed(queue, run).complete("x" * 5000))
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
    _claimed(queue, run).complete()
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
    with _claimed(queue, run) as task, any_db.transaction(run, fence=task) as txn:
        txn.kv.increment("effects")
        txn.queue.complete(task, "ok")
    assert (queue.result(run, first), kv.get(run, "effects")) == ("ok", 1)
    with any_db.transaction(run) as txn, _claimed(queue, run) as task:
        txn.queue.fail(task, "bad")
    assert _status(queue, run, second) is TaskStatus.Dead
    task = _claimed(queue, run)
    with pytest.raises(ZeroDivisionError), any_db.transaction(run) as txn:
        txn.kv.increment("effects")
        txn.queue.complete(task, "never")
        raise ZeroDivisionError
    assert _status(queue, run, third) is TaskStatus.Claimed
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
    task = _claimed(queue, run)
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
        assert _claimed(queue, run).token > task.token


def test_a_claim_that_was_followed_by_another_of_the_same_process_is_fenced(any_db: shoal.Database, run: str) -> None:
    """The token counts, not only the process."""
    queue = shoal.TaskQueue(any_db)
    task_id = queue.put(run, Q, 1)
    first = _claimed(queue, run)
    first.release()
    second = _claimed(queue, run)
    with pytest.raises(shoal.FencedError):
        first.complete("late")
    second.complete("mine")
    assert queue.result(run, task_id) == "mine"


def test_cancel(any_db: shoal.Database, run: str) -> None:
    """A task that has not ended is never claimed again, and who waits for its result is told."""
    queue = shoal.TaskQueue(any_db)
    ready, delayed, done = queue.put(run, Q, 1), queue.put(run, Q, 2, delay=0.01), queue.put(run, Q, 3, priority=1)
    _claimed(queue, run).complete()
    assert [queue.cancel(run, each) for each in (ready, delayed, done, "no/such")] == [True, True, False, False]
    time.sleep(0.05)
    assert queue.claim(run, Q) is None
    with pytest.raises(shoal.TaskFailedError) as caught:
        queue.result(run, delayed)
    assert (caught.value.status, caught.value.error) == (TaskStatus.Cancelled, None)
    assert queue.purge(run, Q, TaskStatus.Cancelled) == 2


def test_listings(any_db: shoal.Database, run: str) -> None:
    """By status and bounded, in the order of the puts; nothing of another queue or run."""
    queue = shoal.TaskQueue(any_db)
    ids = queue.put_many(run, Q, range(6))
    queue.put(run, Q + Q, 1)
    queue.put(run + "2", Q, 1)
    queue.claim_many(run, Q, 2)
    assert [info.payload for info in queue.list(run, Q)] == [0, 1, 2, 3, 4, 5]
    assert [info.id for info in queue.list(run, Q, TaskStatus.Claimed)] == ids[:2]
    assert [info.id for info in queue.list(run, Q, status=TaskStatus.Ready, limit=2)] == ids[2:4]
    assert queue.list(run, Q, limit=0) == []
    assert queue.list(run, "none") == []
    assert queue.stats(run, "none") == shoal.QueueStats(0, 0, 0, 0, 0)
    assert queue.put_many(run, Q, []) == []


def test_large_payloads_and_results(any_db: shoal.Database, run: str) -> None:
    """They come back whole, and go with their task."""
    queue = shoal.TaskQueue(any_db)
    large = {"text": "x" * 3_000_000}
    task_id = queue.put(run, Q, large)
    keys = any_db.info().keys
    task = _claimed(queue, run)
    assert task.payload == large
    task.complete(large)
    info = queue.get(run, task_id)
    assert info is not None
    assert info.payload == info.result == large
    assert queue.purge(run, Q, TaskStatus.Done) == 1
    assert any_db.info().keys < keys


def test_many_are_put_in_order(memory_db: shoal.Database, run: str) -> None:
    """Also more than a commit takes, by number or by size; a bad one among them keeps all from being put."""
    queue = shoal.TaskQueue(memory_db)
    ids = queue.put_many(run, Q, range(5000))
    assert len(set(ids)) == 5000
    assert [task.payload for task in queue.claim_many(run, Q, 5000)] == list(range(5000))
    with pytest.raises(TypeError):
        queue.put_many(run, "other", [*range(5000), object()])
    assert queue.list(run, "other") == []
    ids = queue.put_many(run, "large", [bytes(5_000_000)] * 4)
    assert [info.id for info in queue.list(run, "large")] == ids
    shoal.RunIndex(memory_db).delete_run(run)


def test_a_purged_queue_leaves_nothing(any_db: shoal.Database, run: str) -> None:
    """A run in which every task was purged holds nothing; purge is not bounded by what a commit holds."""
    queue = shoal.TaskQueue(any_db)
    queue.put_many(run, Q, range(600))
    queue.put(run, Q, 1, key="k", delay=100)
    for task in queue.claim_many(run, Q, 1000):
        task.complete()
    assert queue.purge(run, Q, TaskStatus.Done) == 600
    assert queue.purge(run, Q, TaskStatus.Delayed) == 1
    with pytest.raises(shoal.NotFoundError):
        shoal.RunIndex(any_db).delete_run(run)


def test_fork_and_delete_of_its_run(any_db: shoal.Database, run: str) -> None:
    """A fork has none of the tasks; a deleted run has none, and what a transaction puts behind the deletion stays."""
    queue, runs = shoal.TaskQueue(any_db), shoal.RunIndex(any_db)
    runs.create_run(run_id=run)
    queue.put_many(run, Q, range(40))
    assert queue.list(runs.fork_run(run).run_id, Q) == []
    with any_db.transaction(run) as txn:
        txn.queue.put(Q, "before")
        txn.runs.delete_run(run)
        txn.queue.put(Q, "behind")
    assert [info.payload for info in queue.list(run, Q)] == ["behind"]
    assert _claimed(queue, run).payload == "behind"


def test_no_such_task(any_db: shoal.Database, run: str) -> None:
    """Any text may be asked for."""
    queue = shoal.TaskQueue(any_db)
    for task_id in ("", "x", "q/", queue.put(run, Q, 1).upper(), "q/0192f3a1-7d0c-7e10-8000-00000000000a"):
        assert queue.get(run, task_id) is None
        assert not queue.cancel(run, task_id)
        for call in (queue.retry, queue.result):
            with pytest.raises(shoal.NotFoundError):
                call(run, task_id)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"run_id": ""}, ValueError),
        ({"queue": ""}, ValueError),
        ({"queue": 1}, TypeError),
        ({"payload": object()}, TypeError),
        ({"priority": 1.0}, TypeError),
        ({"priority": 2**63}, ValueError),
        ({"delay": -1}, ValueError),
        ({"delay": "1"}, TypeError),
        ({"key": ""}, ValueError),
        ({"key": "k" * 1025}, shoal.LimitExceededError),
        ({"max_attempts": 0}, ValueError),
    ],
)
def test_bad_arguments_of_put(
    any_db: shoal.Database, run: str, arguments: dict[str, Any], error: type[Exception]
) -> None:
    """They are refused, and nothing is put; the same in a transaction."""
    queue = shoal.TaskQueue(any_db)
    given: dict[str, Any] = {"run_id": run, "queue": Q, "payload": 1} | arguments
    with pytest.raises(error):
        queue.put(**given)
    with pytest.raises(error), any_db.transaction(given.pop("run_id")) as txn:
        txn.queue.put(**given)
    assert queue.list(run, Q) == []


def test_other_bad_arguments(any_db: shoal.Database, run: str) -> None:
    """They are refused, and nothing is claimed or changed."""
    queue = shoal.TaskQueue(any_db)
    task_id = queue.put(run, Q, 1)
    for bad, error in (({"ttl": 0}, ValueError), ({"wait": -1}, ValueError), ({"wait": "1"}, TypeError)):
        with pytest.raises(error):
            queue.claim(run, Q, **bad)
    for limit in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="give"):
            queue.claim_many(run, Q, limit)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        queue.get(run, 1)  # type: ignore[arg-type]
    for status in ("Ready", 1):
        with pytest.raises(TypeError):
            queue.purge(run, Q, status)  # type: ignore[arg-type]
    task = _claimed(queue, run)
    with pytest.raises(TypeError):
        task.complete(object())
    with pytest.raises(TypeError):
        task.fail(1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give"):
        task.fail("x", retry_in=-1)
    with pytest.raises(TypeError, match="give a shoal"), any_db.transaction(run) as txn:
        txn.queue.complete(task_id)
    assert _status(queue, run, task_id) is TaskStatus.Claimed
    task.complete()
