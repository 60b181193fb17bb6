"""Effects that take place once, over each engine: what is recorded, and what another call returns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import shoal
from tests.contract.fleet.effects import Calls, InterruptedAtCommit, in_doubt
from tests.support.workers.crash_workers import wait_for


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


def test_a_call_inside_itself_is_refused(any_db: shoal.Database, run: str) -> None:
    """It would wait for itself. Also one that finds out what happened; another thread waits for the result."""

    def again(key: str = "a") -> Any:
        return any_db.once(run, key, Calls(1), on_doubt="retry")

    with pytest.raises(shoal.InvalidOperationError, match="would wait for itself"):
        any_db.once(run, "a", again)
    in_doubt(any_db, run, "a")
    with pytest.raises(shoal.InvalidOperationError, match="would wait for itself"):
        any_db.once(run, "a", Calls(1), on_doubt=again)

    threads: list[threading.Thread] = []
    results: list[Any] = []

    def fn() -> str:
        threads.append(threading.Thread(target=lambda: results.append(again())))
        threads[0].start()
        return "result"

    assert any_db.once(run, "a", fn, on_doubt="retry") == "result"
    threads[0].join(20)
    assert results == ["result"]


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


@pytest.mark.parametrize("before", ["nothing", "doubt"])
def test_an_interruption_before_the_function_leaves_no_doubt(
    any_db: shoal.Database, run: str, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """The function was not called, so the next call calls it. Doubt that an earlier attempt has left stays."""
    if before == "doubt":
        in_doubt(any_db, run, "a")
    begin, fn = any_db._store.begin, Calls(1)
    with monkeypatch.context() as patch:
        patch.setattr(any_db._store, "begin", lambda *arguments: InterruptedAtCommit(begin(*arguments)))
        with pytest.raises(KeyboardInterrupt):
            any_db.once(run, "a", fn, on_doubt="retry")
    assert fn.count == 0
    if before == "doubt":
        with pytest.raises(shoal.InDoubtError):
            any_db.once(run, "a", fn)
    else:
        assert any_db.once(run, "a", fn) == fn.count == 1


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
