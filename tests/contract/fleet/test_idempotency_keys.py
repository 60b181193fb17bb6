"""Transactions with an idempotency key, over each engine: what is recorded, and what another call returns."""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import shoal
from tests.contract.fleet.effects import Calls


def test_a_transaction_takes_effect_once(any_db: shoal.Database, run: str) -> None:
    """A second call returns the first one's result, does not run its function, and writes nothing."""
    kv = shoal.KVStore(any_db)

    def pay(txn: shoal.Transaction) -> Any:
        txn.events.append("paid", 1)
        return {"sum": txn.kv.increment("sum", 5), "at": datetime.datetime.fromtimestamp(0, datetime.UTC), "t": (1,)}

    first = any_db.transact(run, pay, idempotency_key="a")
    again = Calls(1)
    assert any_db.transact(run, again, idempotency_key="a") == first
    assert (again.count, first["sum"], first["t"], kv.get(run, "sum")) == (0, 5, [1], 5)
    assert shoal.EventLog(any_db).len(run) == 1
    assert any_db.transact(run, pay, idempotency_key="b")["sum"] == 10
    assert any_db.transact(run, lambda txn: txn.kv.increment("sum", 5)) == 15
    assert any_db.transact(f"{run}-other", pay, idempotency_key="a")["sum"] == 5
    space = shoal.Namespace(tenant=run)
    assert any_db.transact(run, pay, idempotency_key="a", namespace=space)["sum"] == 5


def test_none_is_a_result(any_db: shoal.Database, run: str) -> None:
    """It is recorded as any other."""
    fn = Calls(None)
    assert any_db.transact(run, fn, idempotency_key="a") is any_db.transact(run, fn, idempotency_key="a") is None
    assert any_db.once(run, "a", fn) is any_db.once(run, "a", fn) is None
    assert fn.count == 2


def test_a_transaction_that_fails_does_not_use_its_key_up(any_db: shoal.Database, run: str) -> None:
    """Whether its function raises, its result cannot be stored, or its commit is refused."""
    kv = shoal.KVStore(any_db)
    for fn, error in [
        (Calls(ZeroDivisionError()), ZeroDivisionError),
        (Calls(object()), TypeError),
        (Calls(b"x" * (16 * 1024 * 1024 + 1)), shoal.LimitExceededError),
    ]:

        def attempt(txn: shoal.Transaction, fn: Callable[[], Any] = fn) -> Any:
            txn.kv.put("k", 1)
            return fn()

        with pytest.raises(error):
            any_db.transact(run, attempt, idempotency_key="a")
    lease = any_db.lease(run, "l")
    lease.release()
    with pytest.raises(shoal.FencedError):
        any_db.transact(run, lambda txn: txn.kv.put("k", 1), fence=lease, idempotency_key="a")
    assert not kv.exists(run, "k")
    assert any_db.transact(run, lambda txn: txn.kv.increment("k"), idempotency_key="a") == 1


@pytest.mark.long
def test_the_ttl_counts_from_the_commit(any_db: shoal.Database, run: str) -> None:
    """After it the key is as new; a replay does not make it longer. Infinity is for good."""
    count = Calls(1, 2)
    for _ in range(2):
        assert any_db.transact(run, count, idempotency_key="a", idempotency_ttl=0.3) == 1
        time.sleep(0.05)
    time.sleep(0.3)
    assert any_db.transact(run, count, idempotency_key="a", idempotency_ttl=float("inf")) == 2
    assert any_db.transact(run, count, idempotency_key="a", idempotency_ttl=datetime.timedelta(1)) == 2
    assert count.count == 2


def test_calls_at_the_same_time(any_db: shoal.Database, run: str) -> None:
    """One takes effect, and all return its result, also without a retry."""
    results: list[Any] = []
    barrier = threading.Barrier(6)

    def call(number: int) -> None:
        def fn(txn: shoal.Transaction) -> int:
            with contextlib.suppress(threading.BrokenBarrierError):
                barrier.wait(0.2)
            txn.kv.increment("sum")
            return number

        results.append(any_db.transact(run, fn, 0, idempotency_key="a"))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(results), len(set(results)), shoal.KVStore(any_db).get(run, "sum")) == (6, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"idempotency_key": ""}, ValueError),
        ({"idempotency_key": 1}, TypeError),
        ({"idempotency_key": "a" * 1025}, shoal.LimitExceededError),
        ({"idempotency_key": "a", "idempotency_ttl": 0}, ValueError),
        ({"idempotency_key": "a", "idempotency_ttl": "1"}, TypeError),
        ({"idempotency_key": "a", "idempotency_ttl": float("nan")}, ValueError),
        ({"idempotency_ttl": -1}, ValueError),  # also where there is no key that it is for
    ],
)
def test_bad_arguments_of_transact(any_db: shoal.Database, run: str, arguments: Any, error: type[Exception]) -> None:
    """They are refused before the function runs."""
    fn = Calls(1)
    with pytest.raises(error):
        any_db.transact(run, fn, **arguments)
    assert fn.count == 0
