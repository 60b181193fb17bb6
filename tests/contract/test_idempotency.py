"""Transactions and effects that take place once, over each engine: what is recorded, and what another call returns."""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import shoal
from tests.support.crash_workers import wait_for


class Calls:
    """A function that counts its calls, and returns or raises what it is told."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.count = 0

    def __call__(self, *_: Any) -> Any:
        self.count += 1
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def in_doubt(db: shoal.Database, run: str, key: str) -> None:
    """Leave an effect in doubt, as an interruption does."""
    with pytest.raises(KeyboardInterrupt):
        db.once(run, key, Calls(KeyboardInterrupt()))


# --- transactions ---------------------------------------------------------------------------------------------------


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


# --- effects outside ------------------------------------------------------------------------------------------------


def test_an_effect_takes_place_once(any_db: shoal.Database, run: str) -> None:
    """Another call returns the recorded result, as it is read back, whatever it says of doubt."""
    fn = Calls({"id": 7, "pair": (1, 2)})
    for on_doubt in ("raise", "retry", "raise"):
        assert any_db.once(run, "a", fn, on_doubt=on_doubt) == {"id": 7, "pair": [1, 2]}
    assert any_db.once(run, "a", fn, on_doubt=Calls(1)) == {"id": 7, "pair": [1, 2]}
    assert fn.count == 1
    assert any_db.once(f"{run}-other", "a", fn) == any_db.once(run, "a", fn, namespace=shoal.Namespace(app=run))
    assert fn.count == 3
    assert any_db.leases(run) == []


def test_no_transaction_is_open_meanwhile(any_db: shoal.Database, run: str) -> None:
    """The function may commit, and call ``once`` with another key."""
    kv = shoal.KVStore(any_db)
    inner = Calls("inner")

    def fn() -> str:
        kv.put(run, "k", 1)
        return str(any_db.once(run, "b", inner))

    assert any_db.once(run, "a", fn) == "inner"
    assert (kv.get(run, "k"), inner.count) == (1, 1)


def test_an_exception_clears_the_intent(any_db: shoal.Database, run: str) -> None:
    """It goes on to the caller; the next call runs the function. Nothing of it stays in the run."""
    fn = Calls(ZeroDivisionError(), ShoalTestError(), 5)
    with pytest.raises(ZeroDivisionError):
        any_db.once(run, "a", fn)
    with pytest.raises(ShoalTestError):
        any_db.once(run, "a", fn)
    with pytest.raises(shoal.NotFoundError):
        shoal.RunIndex(any_db).delete_run(run)
    assert any_db.once(run, "a", fn) == 5


class ShoalTestError(shoal.ShoalError):
    """One of shoal's own, which the function may raise as well."""


@pytest.mark.parametrize(
    ("outcome", "error"), [(KeyboardInterrupt(), KeyboardInterrupt), (SystemExit(), SystemExit), (object(), TypeError)]
)
def test_what_leaves_doubt(any_db: shoal.Database, run: str, outcome: object, error: type[BaseException]) -> None:
    """An interruption, and a result that cannot be recorded: the effect may have taken place. It stays so."""
    begin_ms = int(time.time() * 1000)
    with pytest.raises(error):
        any_db.once(run, "a", Calls(outcome))
    fn = Calls(1)
    for _ in range(2):
        with pytest.raises(shoal.InDoubtError, match="'a' took place is in doubt") as caught:
            any_db.once(run, "a", fn)
        assert caught.value.key == "a"
        assert begin_ms <= caught.value.started_at <= time.time() * 1000
    assert fn.count == 0


def test_doubt_is_resolved_by_another_attempt(any_db: shoal.Database, run: str) -> None:
    """If that raises, the first attempt is still in doubt, since when it began."""
    in_doubt(any_db, run, "a")
    with pytest.raises(shoal.InDoubtError) as first:
        any_db.once(run, "a", Calls(1))
    fn = Calls(ZeroDivisionError(), 5)
    with pytest.raises(ZeroDivisionError):
        any_db.once(run, "a", fn, on_doubt="retry")
    with pytest.raises(shoal.InDoubtError) as again:
        any_db.once(run, "a", fn)
    assert first.value.started_at == again.value.started_at
    assert any_db.once(run, "a", fn, on_doubt="retry") == any_db.once(run, "a", fn) == 5
    assert fn.count == 2


def test_doubt_is_resolved_by_what_is_found_out(any_db: shoal.Database, run: str) -> None:
    """The function is given the key; what it returns is recorded. If it raises, the doubt stays."""
    in_doubt(any_db, run, "a")
    fn, keys = Calls(1), list[str]()

    def find_out(key: str) -> Any:
        keys.append(key)
        return None

    with pytest.raises(ZeroDivisionError):
        any_db.once(run, "a", fn, on_doubt=Calls(ZeroDivisionError()))
    with pytest.raises(TypeError):
        any_db.once(run, "a", fn, on_doubt=Calls(object()))
    with pytest.raises(shoal.InDoubtError):
        any_db.once(run, "a", fn)
    assert any_db.once(run, "a", fn, on_doubt=find_out) is any_db.once(run, "a", fn, on_doubt=find_out) is None
    assert (keys, fn.count) == (["a"], 0)


@pytest.mark.parametrize("outcome", ["result", "exception", "doubt"])
def test_others_wait_for_the_one_that_is_at_it(any_db: shoal.Database, run: str, outcome: str) -> None:
    """Then they return its result, or are told of the doubt, or one of them runs the function."""
    begun, go_on = threading.Event(), threading.Event()
    told: list[Any] = []

    def first() -> str:
        begun.set()
        assert go_on.wait(30)
        if outcome == "result":
            return "first"
        raise (ZeroDivisionError if outcome == "exception" else KeyboardInterrupt)

    def call(fn: Callable[[], Any]) -> None:
        try:
            told.append(any_db.once(run, "a", fn))
        except BaseException as error:  # all of it is compared below
            told.append(type(error))

    others = Calls("other")
    threads = [threading.Thread(target=call, args=(fn,)) for fn in (first, others, others, others)]
    threads[0].start()
    begun.wait(30)
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.1)
    assert told == []
    go_on.set()
    for thread in threads:
        thread.join()
    expected: dict[str, tuple[list[Any], int]] = {
        "result": (["first"] * 4, 0),
        "exception": ([ZeroDivisionError, *["other"] * 3], 1),
        "doubt": ([KeyboardInterrupt, *[shoal.InDoubtError] * 3], 0),
    }
    assert (sorted(told, key=str), others.count) == (sorted(expected[outcome][0], key=str), expected[outcome][1])


def test_transactions_and_effects_have_keys_of_their_own(any_db: shoal.Database, run: str) -> None:
    """And neither clashes with a lease or a key of that name."""
    shoal.KVStore(any_db).put(run, "a", "kv")
    with any_db.lease(run, "a"):
        assert any_db.transact(run, Calls("transaction"), idempotency_key="a") == "transaction"
        assert any_db.once(run, "a", Calls("effect")) == "effect"
    assert shoal.KVStore(any_db).list(run) == ["a"]


def test_fork_and_delete_of_the_run(any_db: shoal.Database, run: str) -> None:
    """A fork has none of it, as it is another run; a deleted run forgets all of it."""
    runs = shoal.RunIndex(any_db)
    runs.create_run(run_id=run)
    fn = Calls(1, 2, 3, 4, 5)
    any_db.transact(run, fn, idempotency_key="a")
    any_db.once(run, "a", fn)
    in_doubt(any_db, run, "b")
    fork = runs.fork_run(run).run_id
    assert (any_db.transact(fork, fn, idempotency_key="a"), any_db.once(fork, "b", fn)) == (3, 4)
    runs.delete_run(run)
    assert any_db.once(run, "b", fn) == 5
    assert any_db.transact(run, fn, idempotency_key="a") == 5


def test_a_run_deleted_under_an_effect(any_db: shoal.Database, run: str) -> None:
    """The effect is not recorded in what comes after it: FencedError."""
    runs = shoal.RunIndex(any_db)
    with pytest.raises(shoal.FencedError, match="'a' is not held"):
        any_db.once(run, "a", lambda: runs.delete_run(run))
    with pytest.raises(shoal.NotFoundError):
        runs.delete_run(run)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"idempotency_key": ""}, ValueError),
        ({"idempotency_key": 1}, TypeError),
        ({"idempotency_key": "a" * 1025}, shoal.LimitExceededError),
        ({"idempotency_key": "a", "idempotency_ttl": 0}, ValueError),
        ({"idempotency_key": "a", "idempotency_ttl": "1"}, TypeError),
        ({"idempotency_key": "a", "idempotency_ttl": float("nan")}, ValueError),
    ],
)
def test_bad_arguments_of_transact(any_db: shoal.Database, run: str, arguments: Any, error: type[Exception]) -> None:
    """They are refused before the function runs."""
    fn = Calls(1)
    with pytest.raises(error):
        any_db.transact(run, fn, **arguments)
    assert fn.count == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"key": ""}, ValueError),
        ({"key": None}, TypeError),
        ({"key": "a" * 1025}, shoal.LimitExceededError),
        ({"run_id": ""}, ValueError),
        ({"on_doubt": "ask"}, ValueError),
        ({"on_doubt": None}, TypeError),
        ({"fn": 1}, TypeError),
        ({"namespace": "tenant"}, TypeError),
    ],
)
def test_bad_arguments_of_once(any_db: shoal.Database, run: str, arguments: Any, error: type[Exception]) -> None:
    """They are refused before the function runs; so is one that would run nothing."""
    fn = Calls(1)

    async def later() -> None: ...

    with pytest.raises(error):
        any_db.once(**({"run_id": run, "key": "a", "fn": fn} | arguments))
    with pytest.raises(TypeError, match="an async function"):
        any_db.once(run, "a", later)  # type: ignore[unused-coroutine]
    with pytest.raises(TypeError, match="an async function"):
        any_db.once(run, "a", fn, on_doubt=later)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="returned a coroutine"):
        any_db.once(run, "a", lambda: later())  # type: ignore[unused-coroutine]
    assert fn.count == 0
    assert any_db.once(run, "a", fn) == 1


def test_close_while_an_effect_takes_place(run: str, another: shoal.Database, memory_db: shoal.Database) -> None:
    """Its result cannot be recorded: the others are told of the doubt at once."""

    def fn() -> None:
        another.close()

    with pytest.raises(shoal.InvalidOperationError):
        another.once(run, "a", fn)
    wait_for(lambda: not memory_db.leases(run), "the end of what was held")
    with pytest.raises(shoal.InDoubtError):
        memory_db.once(run, "a", Calls(1))
