"""Functions whose call runs nothing of their body are refused wherever shoal calls a function of the user."""

import asyncio
import functools
import gc
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import shoal
from tests.support.present import present
from tests.support.stores.versions import versions_taken


async def coroutine_function(txn: shoal.Transaction) -> None:
    txn.kv.put("k", "written")


def generator_function(txn: shoal.Transaction) -> Iterator[Any]:
    txn.kv.put("k", "written")
    yield


async def async_generator_function(txn: shoal.Transaction) -> AsyncIterator[Any]:
    txn.kv.put("k", "written")
    yield


class Agent:
    async def method(self, txn: shoal.Transaction) -> None:
        txn.kv.put("k", "written")

    @classmethod
    async def of_class(cls, txn: shoal.Transaction) -> None:
        txn.kv.put("k", "written")

    async def __call__(self, txn: shoal.Transaction) -> None:
        txn.kv.put("k", "written")


class Generates:
    def __call__(self, txn: shoal.Transaction) -> Iterator[Any]:
        txn.kv.put("k", "written")
        yield


NOT_PLAIN = [
    coroutine_function,
    generator_function,
    async_generator_function,
    functools.partial(coroutine_function),
    functools.partial(functools.partial(generator_function)),
    functools.partial(Agent().method),
    Agent().method,
    Agent.of_class,
    Agent(),
    functools.partial(Agent()),
    Generates(),
    lambda txn: (yield),
]


def write_and_return(value: Any) -> Any:
    """A plain function that writes, and returns something whose work is still to be done."""

    def fn(given: Any) -> Any:
        if isinstance(given, shoal.Transaction):
            given.kv.put("k", "written")
        return value(given)

    return fn


class Promise:
    def __await__(self) -> Iterator[Any]:
        yield


RETURNS = [
    coroutine_function,
    generator_function,
    async_generator_function,
    lambda _: (x for x in "ab"),
    lambda _: Promise(),
]


@pytest.fixture(autouse=True)
def no_warning_of_what_was_never_awaited() -> Iterator[None]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in seen if "never awaited" in str(warning.message)] == []


@pytest.mark.parametrize("fn", NOT_PLAIN, ids=range(len(NOT_PLAIN)))
def test_a_function_that_would_not_run_is_refused_before_anything_is_sent(
    memory_db: shoal.Database, run: str, fn: Any
) -> None:
    """transact and transition raise a TypeError that names the function; nothing is written, no transaction begins."""
    cells = shoal.StateCell(memory_db)
    cells.set(run, "cell", 1)

    def refused(call: Callable[[], object]) -> None:
        with pytest.raises(TypeError, match=r"fn is .+, an? (async|generator|async generator) function"):
            call()

    for call in (
        lambda: memory_db.transact(run, fn),
        lambda: cells.transition(run, "cell", fn),
    ):
        assert versions_taken(memory_db, functools.partial(refused, call)) == 0
    assert not shoal.KVStore(memory_db).exists(run, "k")


@pytest.mark.parametrize("value", RETURNS, ids=range(len(RETURNS)))
def test_what_is_still_to_be_run_is_no_result(memory_db: shoal.Database, run: str, value: Any) -> None:
    """A plain function that returns a coroutine, a generator or another awaitable has its transaction rolled back."""
    cells, fn = shoal.StateCell(memory_db), write_and_return(value)
    cells.set(run, "cell", 1)
    with pytest.raises(TypeError, match=r"write_and_return.*which returned a"):
        memory_db.transact(run, fn)
    with pytest.raises(TypeError, match=r"write_and_return.*which returned a"):
        cells.transition(run, "cell", fn)
    with pytest.raises(TypeError, match="which returned a"), memory_db.transaction(run) as txn:
        txn.state.transition("cell", fn)
    assert not shoal.KVStore(memory_db).exists(run, "k")
    assert present(cells.read(run, "cell")).version == 1


def test_a_task_is_no_result(memory_db: shoal.Database, run: str) -> None:
    """An asyncio Task, too, is still to be run, and what it then does to the transaction is refused."""

    async def main() -> Any:
        tasks = []

        def fn(txn: shoal.Transaction) -> Any:
            tasks.append(asyncio.get_running_loop().create_task(coroutine_function(txn)))
            return tasks[0]

        with pytest.raises(TypeError, match="returned a"):
            memory_db.transact(run, fn)
        return (await asyncio.gather(*tasks, return_exceptions=True))[0]

    assert isinstance(asyncio.run(main()), shoal.InvalidOperationError)
    assert not shoal.KVStore(memory_db).exists(run, "k")


def test_plain_functions_of_every_kind_are_taken(memory_db: shoal.Database, run: str) -> None:
    """Functions, methods, partials, callables, classes and wrappers around async functions run as before."""

    class Plain:
        def method(self, txn: shoal.Transaction) -> Any:
            return txn.kv.increment("n")

        __call__ = method

    @functools.wraps(coroutine_function)
    def wrapper(txn: shoal.Transaction) -> Any:
        return asyncio.run(asyncio.sleep(0, txn.kv.increment("n")))

    plain: list[Any] = [
        Plain().method,
        Plain(),
        functools.partial(Plain().method),
        wrapper,
        lambda txn: txn.kv.increment("n"),
    ]
    assert [memory_db.transact(run, fn) for fn in plain] == [1, 2, 3, 4, 5]
    assert isinstance(memory_db.transact(run, type), type)
    with pytest.raises(TypeError, match="fn has type int"):
        memory_db.transact(run, 5)  # type: ignore[arg-type]  # it is refused
