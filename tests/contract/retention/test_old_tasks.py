"""What ``task_age`` removes: tasks that ended long enough ago, and nothing else of a queue."""

from __future__ import annotations

import pytest

import shoal
from shoal import QueueStats, RetentionPolicy, TaskStatus
from shoal.primitives.rules.queues import records
from shoal.primitives.views.fleet.tasks import base_of
from tests.support.upkeep import LEAST_SLICE, do_pass, put_task_at

NOW = 1_900_000_000_000
AGE_S = 4_000.0
OLD, YOUNG = NOW - 4_000_000, NOW - 3_999_999
ENDED = (TaskStatus.Done, TaskStatus.Dead, TaskStatus.Cancelled)
Q = "q"


@pytest.fixture(scope="session")
def toy_db(toy_fleet_db: shoal.Database) -> shoal.Database:
    """``any_db`` takes it."""
    return toy_fleet_db


def _keys(db: shoal.Database, space: shoal.Namespace, run: str) -> list[bytes]:
    prefix = space._run_prefix(run) + b"\6"
    return [key for key, _ in db._store.auto_commit.scan(prefix, prefix + b"\xff")]


@pytest.mark.long
def test_ended_tasks_go_and_others_stay(any_db: shoal.Database, run: str, space: shoal.Namespace) -> None:
    """Ended tasks of every status go, to the millisecond, in slices; ready, delayed and claimed ones stay, however old.

    The counts are right after each slice, and a queue of which all is removed leaves nothing behind.
    """
    queue, runs = shoal.TaskQueue(any_db, namespace=space), shoal.RunIndex(any_db, namespace=space)
    for number in range(60):
        put_task_at(any_db, space, run, Q, ENDED[number % 3], OLD, put_at=OLD - number, payload_bytes=number * 100)
        put_task_at(any_db, space, run, "gone", TaskStatus.Done, OLD)
    kept = {put_task_at(any_db, space, run, Q, status, YOUNG, put_at=OLD) for status in ENDED}
    kept |= {put_task_at(any_db, space, run, Q, status, OLD) for status in (TaskStatus.Ready, TaskStatus.Claimed)}
    kept.add(put_task_at(any_db, space, run, Q, TaskStatus.Delayed, NOW + 10**9, put_at=OLD))
    claimed = queue.claim(run, Q)
    assert claimed is not None
    runs.set_retention(RetentionPolicy(task_age=AGE_S))

    def check_counts() -> None:
        statuses = [info.status for info in queue.list(run, Q)]
        ready, delayed, held, done, dead = (statuses.count(each) for each in list(TaskStatus)[:5])
        assert queue.stats(run, Q) == QueueStats(ready, delayed, held, done, dead)

    assert do_pass(any_db, NOW, LEAST_SLICE, check_counts) > 5
    assert {info.id for info in queue.list(run, Q)} == kept
    assert queue.stats(run, Q) == QueueStats(1, 1, 1, 1, 1)
    assert not [key for key in _keys(any_db, space, run) if key.startswith(base_of(space, run, "gone"))]
    claimed.complete("r")
    do_pass(any_db, NOW + 1, LEAST_SLICE)
    assert {info.status for info in queue.list(run, Q)} == {TaskStatus.Delayed, TaskStatus.Ready}


def test_a_removed_task_frees_its_key(any_db: shoal.Database, run: str, space: shoal.Namespace) -> None:
    """As long as the task is there, a put of its key adds nothing; afterwards it adds one. Its id is not found."""
    queue, runs = shoal.TaskQueue(any_db, namespace=space), shoal.RunIndex(any_db, namespace=space)
    first = put_task_at(any_db, space, run, Q, TaskStatus.Done, OLD, key="k")
    runs.set_retention(RetentionPolicy(task_age=AGE_S), run)
    do_pass(any_db, NOW - 1, LEAST_SLICE)
    assert queue.put(run, Q, 1, key="k") == first
    do_pass(any_db, NOW, LEAST_SLICE)
    assert queue.get(run, first) is None
    with pytest.raises(shoal.NotFoundError):
        queue.result(run, first, timeout=0)
    assert queue.put(run, Q, 1, key="k") != first
    assert queue.stats(run, Q) == QueueStats(1, 0, 0, 0, 0)


def test_a_result_is_there_for_who_waits(any_db: shoal.Database, run: str, space: shoal.Namespace) -> None:
    """Also if no task is to be kept: who waits for the end of a task has two seconds to read what became of it."""
    queue, runs = shoal.TaskQueue(any_db, namespace=space), shoal.RunIndex(any_db, namespace=space)
    runs.set_retention(RetentionPolicy(task_age=0))
    task_id = put_task_at(any_db, space, run, Q, TaskStatus.Done, NOW)
    do_pass(any_db, NOW + 1_999, LEAST_SLICE)
    assert queue.result(run, task_id) == b"\0"
    do_pass(any_db, NOW + 2_000, LEAST_SLICE)
    assert queue.get(run, task_id) is None


def test_without_an_age_nothing_goes(any_db: shoal.Database, run: str, space: shoal.Namespace) -> None:
    """Neither by a policy for something else, nor by one of the run in place of its namespace's."""
    queue, runs = shoal.TaskQueue(any_db, namespace=space), shoal.RunIndex(any_db, namespace=space)
    task_id = put_task_at(any_db, space, run, Q, TaskStatus.Done, OLD)
    runs.set_retention(RetentionPolicy(events=1, trace_age=1.0))
    do_pass(any_db, NOW, LEAST_SLICE)
    runs.set_retention(RetentionPolicy(task_age=1.0))
    runs.set_retention(RetentionPolicy(task_age=10**9), run)
    do_pass(any_db, NOW, LEAST_SLICE)
    assert queue.get(run, task_id) is not None


@pytest.mark.parametrize("which", [records.TASK, records.QUEUE])
def test_damage_is_left(any_db: shoal.Database, run: str, space: shoal.Namespace, which: bytes) -> None:
    """A damaged record is left as it is, and what needs it; other runs are treated as ever."""
    engine, runs = any_db._store.auto_commit, shoal.RunIndex(any_db, namespace=space)
    for name in (run, run + "x"):
        for _ in range(3):
            put_task_at(any_db, space, name, Q, TaskStatus.Done, OLD)
    damaged = [key for key in _keys(any_db, space, run) if key.startswith(base_of(space, run, Q) + which)][-1]
    engine.put(damaged, b"damaged")
    runs.set_retention(RetentionPolicy(task_age=AGE_S))
    do_pass(any_db, NOW, LEAST_SLICE)
    found = engine.find(damaged)
    assert found is not None
    assert (found.value, _keys(any_db, space, run + "x")) == (b"damaged", [])
    engine.clear(space._run_prefix(run), space._run_prefix(run) + b"\xff")
    runs.set_retention(None)
