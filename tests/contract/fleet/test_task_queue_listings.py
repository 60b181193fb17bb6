"""Task queues over each engine: cancelled and listed tasks, large ones and many, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

import shoal
from shoal import TaskStatus
from shoal.primitives.rules.queues.task_record import Task
from shoal.primitives.views.fleet.tasks import TaskReader
from tests.contract.fleet.queues import Q, claimed, status_of


def test_cancel(any_db: shoal.Database, run: str) -> None:
    """A task that has not ended is never claimed again, and who waits for its result is told."""
    queue = shoal.TaskQueue(any_db)
    ready, delayed, done = queue.put(run, Q, 1), queue.put(run, Q, 2, delay=0.01), queue.put(run, Q, 3, priority=1)
    claimed(queue, run).complete()
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
    task = claimed(queue, run)
    assert task.payload == large
    task.complete(large)
    info = queue.get(run, task_id)
    assert info is not None
    assert info.payload == info.result == large
    assert queue.purge(run, Q, TaskStatus.Done) == 1
    assert any_db.info().keys < keys


@pytest.mark.long
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


@pytest.mark.long
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
    queue.put_many(run, Q, range(40))
    assert queue.list(runs.fork_run(run).run_id, Q) == []  # tasks are enough to be there
    runs.create_run(run_id=run)
    assert queue.list(runs.fork_run(run).run_id, Q) == []
    with any_db.transaction(run) as txn:
        txn.queue.put(Q, "before")
        txn.runs.delete_run(run)
        txn.queue.put(Q, "behind")
    assert [info.payload for info in queue.list(run, Q)] == ["behind"]
    assert claimed(queue, run).payload == "behind"


def test_a_run_that_has_only_what_its_transaction_puts(any_db: shoal.Database, run: str) -> None:
    """To delete it, or to fork to its id, is answered as it would be in a transaction after that one."""
    queue, runs = shoal.TaskQueue(any_db), shoal.RunIndex(any_db)
    with any_db.transaction(run) as txn:
        txn.queue.put(Q, "before")
        txn.runs.delete_run(run)
        with pytest.raises(shoal.NotFoundError):
            txn.runs.delete_run(run)
    assert queue.list(run, Q) == []
    with any_db.transaction(run) as txn:
        txn.queue.put(Q, 1)
        txn.runs.create_run(run_id=run + " other")
        with pytest.raises(shoal.AlreadyExistsError):
            txn.runs.fork_run(run + " other", new_run_id=run)
    assert (queue.stats(run, Q).ready, runs.get_run(run)) == (1, None)


@pytest.mark.parametrize("ending", ["complete", "fail"])
@pytest.mark.parametrize("is_lost", [False, True], ids=["held", "lost"])
def test_a_task_is_ended_together_with_its_run(any_db: shoal.Database, run: str, ending: str, is_lost: bool) -> None:
    """A commit that ends a task and then deletes its run has its effects elsewhere only if the claim is not lost."""
    queue, kv = shoal.TaskQueue(any_db), shoal.KVStore(any_db)
    queue.put(run, Q, 1)
    task = claimed(queue, run)
    if is_lost:
        task.release()
        claimed(queue, run)

    def end(txn: shoal.Transaction) -> None:
        getattr(txn.queue, ending)(task, "said")
        txn.on(run + " effects").kv.increment("effects")
        txn.runs.delete_run(run)

    if is_lost:
        with pytest.raises(shoal.FencedError):
            any_db.transact(run, end)
        assert (kv.get(run + " effects", "effects"), queue.stats(run, Q).claimed) == (None, 1)
    else:
        any_db.transact(run, end)
        assert (kv.get(run + " effects", "effects"), queue.list(run, Q)) == (1, [])


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
        ({"max_attempts": 2**31}, ValueError),  # more than a record has room for: not cut in silence
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


@pytest.mark.parametrize("payloads", ["text", b"bytes", {"to": "a"}, 1, None], ids=repr)
def test_what_is_no_list_of_payloads(any_db: shoal.Database, run: str, payloads: Any) -> None:
    """A single payload is refused: to put each of its letters, bytes or keys as a task is never what was meant."""
    queue = shoal.TaskQueue(any_db)
    with pytest.raises(TypeError, match=f"payloads has type {type(payloads).__name__}"):
        queue.put_many(run, Q, payloads)
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
    task = claimed(queue, run)
    with pytest.raises(TypeError):
        task.complete(object())
    with pytest.raises(TypeError):
        task.fail(1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give"):
        task.fail("x", retry_in=-1)
    with pytest.raises(TypeError, match="give a shoal"), any_db.transaction(run) as txn:
        txn.queue.complete(task_id)
    assert status_of(queue, run, task_id) is TaskStatus.Claimed
    task.complete()


def test_a_status_is_looked_for_no_further_than_it_is(
    any_db: shoal.Database, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To list or purge the few tasks of a status does not take a look at all tasks behind the last of them."""
    queue = shoal.TaskQueue(any_db)
    failed = queue.put(run, Q, 0, max_attempts=1)
    claimed(queue, run).fail("bad")
    queue.put_many(run, Q, range(300))
    cancelled = queue.put(run, Q, 0)
    queue.cancel(run, cancelled)
    looked_at = 0
    tasks = TaskReader.tasks

    def counted(self: TaskReader, name: str, behind: bytes = b"") -> Iterator[tuple[bytes, Task]]:
        nonlocal looked_at
        for found in tasks(self, name, behind):
            looked_at += 1
            yield found

    monkeypatch.setattr(TaskReader, "tasks", counted)
    assert queue.list(run, Q, TaskStatus.Claimed) == queue.list(run, Q, TaskStatus.Delayed, limit=0) == []
    assert queue.purge(run, Q, TaskStatus.Done) == 0
    looked_at = 0
    assert [each.id for each in queue.list(run, Q, TaskStatus.Dead)] == [failed]
    assert queue.purge(run, Q, TaskStatus.Dead) == 1
    assert queue.list(run, Q, TaskStatus.Dead) == []
    assert looked_at <= 2
    assert [each.id for each in queue.list(run, Q, TaskStatus.Cancelled)] == [cancelled]
    assert len(queue.list(run, Q, TaskStatus.Ready)) == 300
    assert queue.purge(run, Q, TaskStatus.Ready) == 300
    assert len(queue.list(run, Q)) == 1
