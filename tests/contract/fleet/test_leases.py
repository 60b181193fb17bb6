"""Leases over each engine: who gets one, in which order, for how long, and what a fence keeps from being written."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

import shoal
from tests.support.workers.crash_workers import wait_for


def test_one_holder_at_a_time(any_db: shoal.Database, run: str) -> None:
    """It is given while nobody holds it, also to the same process; the error says what is held, and by whom."""
    with any_db.lease(run, "a", ttl=7.5) as lease:
        with pytest.raises(shoal.LeaseHeldError, match="'a' is held by process") as caught:
            any_db.lease(run, "a")
        (info,) = any_db.leases(run)
        assert (caught.value.name, caught.value.ttl_ms, caught.value.pids) == ("a", 7500, (info.pid,))
        assert (info.name, info.token, info.slot) == ("a", lease.token, 0)
        assert 0 < info.expires_at - time.time() * 1000 <= 7_500
        any_db.lease(run, "b").release()
    assert any_db.leases(run) == []
    lease.release()
    with any_db.lease(run, "a") as again:
        assert again.token > lease.token


def test_a_block_that_raises_releases(any_db: shoal.Database, run: str) -> None:
    """And the exception goes on."""
    with pytest.raises(ZeroDivisionError), any_db.lease(run, "a"):
        raise ZeroDivisionError
    assert any_db.leases(run) == []


def test_a_block_after_the_end(any_db: shoal.Database, run: str) -> None:
    """A second ``with`` on a lease that was released, or on a consumer, does not begin: it would hold nothing."""
    lease = any_db.lease(run, "a")
    with lease:
        pass
    consumer = shoal.EventLog(any_db).consumer(run, "a")
    consumer.close()
    for ended in (lease, consumer):
        with pytest.raises(shoal.FencedError, match=r"'a' is not held any more .* take it again"), ended:
            pytest.fail("nothing was held")
    any_db.lease(run, "a").release()


def test_slots(any_db: shoal.Database, run: str) -> None:
    """As many as have slots hold it at a time, each in a slot of its own; the lowest free one is given."""
    leases = [any_db.lease(run, "a", slots=3) for _ in range(3)]
    assert [lease.slot for lease in leases] == [0, 1, 2]
    with pytest.raises(shoal.LeaseHeldError):
        any_db.lease(run, "a", slots=3)
    leases[1].release()
    with any_db.lease(run, "a", slots=3) as lease:
        assert lease.slot == 1
        assert [info.slot for info in any_db.leases(run)] == [0, 2, 1]  # by token
    for lease in leases:
        lease.release()


def test_waiting_is_bounded(any_db: shoal.Database, run: str) -> None:
    """It ends after ``wait`` seconds, and leaves nothing behind in the line."""
    with any_db.lease(run, "a"):
        begin_s = time.monotonic()
        with pytest.raises(shoal.LeaseHeldError):
            any_db.lease(run, "a", wait=0.1)
        assert time.monotonic() - begin_s >= 0.1
    any_db.lease(run, "a").release()


@pytest.mark.long
def test_the_line_is_served_in_order_of_arrival(any_db: shoal.Database, run: str) -> None:
    """Each that waits gets it after those that came before, and before one that comes when it is released."""
    first = any_db.lease(run, "a")
    order: list[int] = []

    def take(number: int) -> None:
        with any_db.lease(run, "a", wait=None):
            order.append(number)

    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=take, args=(number,)))
        threads[-1].start()
        time.sleep(0.05)
    first.release()
    take(8)
    for thread in threads:
        thread.join()
    assert order == list(range(9))


def test_a_fence(any_db: shoal.Database, run: str) -> None:
    """A commit is done while the lease is held; after that it is FencedError, and nothing is written."""
    kv = shoal.KVStore(any_db)
    with any_db.lease(run, "a") as lease:
        with any_db.transaction(run, fence=lease) as txn:
            txn.kv.put("k", 1)
        any_db.transact(run, lambda txn: txn.kv.increment("k"), fence=lease)
        transaction = any_db.transaction(run, fence=lease)
        transaction.__enter__().kv.put("k", "late")
        txn = any_db.transaction(run, fence=lease).__enter__()
        txn.kv.get("k")
    with pytest.raises(shoal.FencedError, match="is not held any more by token") as caught:
        transaction.__exit__(None, None, None)
    assert (caught.value.name, caught.value.token) == ("a", lease.token)
    kv.put(run, "k", 3)
    with pytest.raises(shoal.FencedError):  # one that only reads, and would conflict
        txn.__exit__(None, None, None)
    with any_db.lease(run, "a"), pytest.raises(shoal.FencedError):  # somebody else holds it
        any_db.transact(run, lambda txn: txn.kv.put("k", txn.kv.get("k")), fence=lease)
    assert kv.get(run, "k") == 3


def test_a_fence_counts_more_than_a_conflict(any_db: shoal.Database, run: str) -> None:
    """One that has lost its lease is told so, whatever else has changed: running again would not help."""
    kv = shoal.KVStore(any_db)
    lease = any_db.lease(run, "a")
    txn = any_db.transaction(run, fence=lease).__enter__()
    txn.kv.put("k", txn.kv.get("k", 0) + 1)
    kv.put(run, "k", 5)
    lease.release()
    with pytest.raises(shoal.FencedError):
        txn.__exit__(None, None, None)
    assert kv.get(run, "k") == 5


def test_delete_and_fork_of_its_run(any_db: shoal.Database, run: str) -> None:
    """A fork has no lease; a deleted run has none, who waited gets it, and tokens go on from where they were."""
    runs = shoal.RunIndex(any_db)
    runs.create_run(run_id=run)
    lease = any_db.lease(run, "a")
    assert any_db.leases(runs.fork_run(run).run_id) == []
    got: list[shoal.Lease] = []
    thread = threading.Thread(target=lambda: got.append(any_db.lease(run, "a", wait=None)))
    thread.start()
    time.sleep(0.05)
    runs.delete_run(run)
    thread.join()
    assert got[0].token > lease.token
    lease.release()
    assert [info.token for info in any_db.leases(run)] == [got[0].token]
    with pytest.raises(shoal.FencedError):
        any_db.transact(run, lambda txn: txn.kv.put("k", 1), fence=lease)
    got[0].release()


def test_a_run_with_nothing_but_a_released_lease_holds_nothing(any_db: shoal.Database, run: str) -> None:
    """Nothing of a lease stays in its run."""
    any_db.lease(run, "a").release()
    with pytest.raises(shoal.NotFoundError):
        shoal.RunIndex(any_db).delete_run(run)


def test_close_ends_what_is_held(run: str, another: shoal.Database, memory_db: shoal.Database) -> None:
    """At once, as the death of the process would; a release after it does nothing."""
    lease = another.lease(run, "a")
    another.close()
    wait_for(lambda: not memory_db.leases(run), "the lease to end")
    lease.release()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": ""}, ValueError),
        ({"name": 1}, TypeError),
        ({"name": "a" * 1025}, shoal.LimitExceededError),
        ({"ttl": 0}, ValueError),
        ({"ttl": "1"}, TypeError),
        ({"ttl": float("nan")}, ValueError),
        ({"wait": -1}, ValueError),
        ({"wait": True}, TypeError),
        ({"slots": 0}, ValueError),
        ({"slots": 1.0}, ValueError),
        ({"run_id": ""}, ValueError),
        ({"namespace": "tenant"}, TypeError),
    ],
)
def test_bad_arguments(any_db: shoal.Database, run: str, arguments: dict[str, Any], error: type[Exception]) -> None:
    """They are refused, and nothing is held."""
    with pytest.raises(error):
        any_db.lease(**({"run_id": run, "name": "a"} | arguments))
    with pytest.raises(TypeError, match="fence has type"):
        any_db.transaction(run, fence="a")  # type: ignore[arg-type]
    assert any_db.leases(run) == []


def test_any_number_of_slots(any_db: shoal.Database, run: str) -> None:
    """More slots than a message can say are as many as there are holders."""
    with any_db.lease(run, "a", slots=1 << 70) as first, any_db.lease(run, "a", slots=1 << 63) as second:
        assert (first.slot, second.slot) == (0, 1)


def test_ttl_may_be_infinite_and_tiny(any_db: shoal.Database, run: str) -> None:
    """Neither is a special case: it is held until it is released."""
    for ttl in (float("inf"), 1e-9):
        with any_db.lease(run, "a", ttl=ttl):
            assert len(any_db.leases(run)) <= 1


@pytest.mark.parametrize(
    "facade", ["KVStore", "EventLog", "StateCell", "TraceStore", "RunIndex", "TaskQueue", "Budget"]
)
def test_a_transaction_of_any_facade_may_be_fenced(any_db: shoal.Database, run: str, facade: str) -> None:
    """As that of the database: it commits while the lease is held, and not after."""
    transaction = getattr(shoal, facade)(any_db).transaction
    with any_db.lease(run, "a") as lease, transaction(run, fence=lease) as txn:
        txn.kv.put("key", 1)
    with pytest.raises(shoal.FencedError), transaction(run, fence=lease) as txn:
        txn.kv.put("key", 2)
    assert shoal.KVStore(any_db).get(run, "key") == 1
