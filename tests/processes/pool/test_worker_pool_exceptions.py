"""What comes back from a task: any exception and any result, or an error that says what it was; never a lost worker."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.support.workers import pool_functions as functions

pytestmark = pytest.mark.uncompiled


@pytest.fixture(scope="module")
def pool(memory_db: shoal.Database) -> Iterator[shoal.WorkerPool]:
    with shoal.WorkerPool(memory_db.path, workers=1) as pool:
        yield pool


@pytest.fixture(autouse=True)
def same_worker(pool: shoal.WorkerPool) -> Iterator[None]:
    """Whatever came of a test's tasks, the worker is the same as before."""
    before = pool.submit(functions.pid).result(30)
    yield
    assert pool.submit(functions.pid).result(30) == before


@pytest.mark.parametrize(
    "kind",
    ["frozen", "group", "noted", "false", "exit", "interrupt", "generator", "stop", "os", "registered", "read-only"],
)
def test_an_exception_comes_back_as_itself(pool: shoal.WorkerPool, kind: str) -> None:
    """Type, text, attributes and notes are the exception's own; its cause shows the remote traceback.

    Also of a class that the program has told ``copyreg`` how to pickle.
    """
    sent = functions.MAKERS[kind]()
    error = pool.submit(functions.fail, kind).exception(30)
    assert error is not None
    assert type(error) is type(sent)
    assert str(error) == str(sent)
    assert getattr(error, "__notes__", None) == getattr(sent, "__notes__", None)
    assert vars(error) == vars(sent) or kind == "group"
    assert "pool_functions.py" in str(error.__cause__)


def test_one_that_is_false_is_raised(pool: shoal.WorkerPool) -> None:
    """An exception that ``bool`` takes for false is not mistaken for a result; also in ``map``."""
    with pytest.raises(functions.NoErrorsError):
        pool.submit(functions.fail, "false").result(30)
    with pytest.raises(functions.NoErrorsError):
        list(pool.map(functions.fail, ["false"]))


def test_a_group_brings_its_members(pool: shoal.WorkerPool) -> None:
    """Also those whose class refuses to have its attributes set."""
    group = pool.submit(functions.fail, "group").exception(30)
    assert isinstance(group, ExceptionGroup)
    assert [type(member) for member in group.exceptions] == [ValueError, functions.FrozenError]
    assert isinstance(group.exceptions[1], functions.FrozenError)
    assert group.exceptions[1].tool == "b"


def test_attributes_of_python_s_own_classes(pool: shoal.WorkerPool) -> None:
    """Which module cannot be imported is told by an attribute that ImportError keeps beside its others."""
    error = pool.submit(functions.fail, "import").exception(30)
    assert isinstance(error, ImportError)
    assert (error.name, error.path) == ("planner", "/plans")


def test_one_whose_attributes_refer_to_it(pool: shoal.WorkerPool) -> None:
    """Exceptions that refer to each other come back with all attributes, and still refer to each other."""
    error = pool.submit(functions.fail, "parent").exception(30)
    assert isinstance(error, functions.NodeError)
    [child] = error.children
    assert str(child) == "child"
    assert child.parent is error


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("pair", "PairError", "1 and 2"),
        ("locked", "LockedError", "locked"),
        ("no pickle", "NoPickleError", ""),
        ("aloof", "AloofError", "not me"),
        ("exits", "ExitsWhenMadeAgainError", ""),
        ("imposter", "ImposterError", ""),
        ("translated", "TranslatedError", "text"),
    ],
)
def test_one_that_cannot_be_pickled_is_told(pool: shoal.WorkerPool, kind: str, name: str, text: str) -> None:
    """It comes as WorkerTaskError with its type's name, text and traceback, which can be pickled on."""
    error = pool.submit(functions.fail, kind).exception(30)
    assert type(error) is shoal.WorkerTaskError
    assert (error.type_name, error.text) == (name, text)
    assert "in fail" in error.traceback
    assert "in fail" in str(error.__cause__)
    assert pickle.loads(pickle.dumps(error)).args == error.args
    assert name in str(error)


def test_one_without_a_text(pool: shoal.WorkerPool) -> None:
    """An exception whose __str__ raises comes back, and its traceback can be shown."""
    error = pool.submit(functions.fail, "no text").exception(30)
    assert type(error) is functions.NoTextError
    assert "NoTextError" in str(error.__cause__)


@pytest.mark.parametrize("kind", [pickle.PicklingError, TypeError])
def test_a_result_that_cannot_be_pickled(pool: shoal.WorkerPool, kind: type[Exception]) -> None:
    """Its future says so, and names the result's type."""
    with pytest.raises(kind, match=r"result of type OddResult cannot be sent to the pool: not me"):
        pool.submit(functions.odd_result, "pickle").result(30)


def test_a_result_that_cannot_be_unpickled(pool: shoal.WorkerPool) -> None:
    """Its future says so."""
    with pytest.raises(shoal.WorkerTaskError, match=r"LookupError: the task's result cannot be unpickled: not here"):
        pool.submit(functions.odd_result, "unpickle").result(30)


def test_arguments_that_cannot_be_pickled(pool: shoal.WorkerPool) -> None:
    """The future says so; nothing is sent."""
    with pytest.raises(pickle.PicklingError, match="not me"):
        pool.submit(functions.echo, functions.OddResult("pickle")).result(30)


def test_a_task_that_forks_and_returns_twice(pool: shoal.WorkerPool, tmp_path: Path) -> None:
    """The worker's answer counts; the child ends without one, whether it returns or raises."""
    worker = pool.submit(functions.pid).result(30)
    assert pool.submit(functions.fork_and_return_twice, str(tmp_path / "marker")).result(30) == worker
    assert (tmp_path / "marker").exists()
    with pytest.raises(LookupError, match="in the worker"):
        pool.submit(functions.fork_and_raise).result(30)


def test_an_initializer_that_forks_and_returns_twice(memory_db: shoal.Database) -> None:
    """The worker is ready once: its child takes no task of its."""
    with shoal.WorkerPool(memory_db.path, 1, initializer=functions.fork_a_helper) as pool:
        workers = {pool.submit(functions.pid).result(30) for _ in range(20)}
        assert workers == set(pool.worker_pids)


def test_a_result_whose_pickling_forks(pool: shoal.WorkerPool) -> None:
    """The result arrives once."""
    for _ in range(5):
        pool.submit(functions.ForksWhenPickled).result(30)
    assert pool.submit(functions.echo, "abc").result(30) == "abc"


NOT_TO_BE_SUBMITTED = {
    "coroutine": functions.coroutine,
    "generator": functions.generator,
    "async_generator": functions.async_generator,
    "partial": functools.partial(functools.partial(functions.coroutine)),
    "method": functions.AsyncCallable().method,
    "object": functions.AsyncCallable(),
}


@pytest.mark.parametrize("function", NOT_TO_BE_SUBMITTED.values(), ids=NOT_TO_BE_SUBMITTED)
def test_what_a_worker_cannot_run_is_refused(pool: shoal.WorkerPool, function: Any) -> None:
    """Coroutine and generator functions, however they are wrapped, are TypeError that names them, at once."""
    for call in (lambda: pool.submit(function), lambda: pool.map(function, [1])):
        with pytest.raises(TypeError, match=r"(coroutine|generator|AsyncCallable).*, an? .*function"):
            call()


def test_what_cannot_be_called_is_refused(pool: shoal.WorkerPool) -> None:
    """TypeError at once; classes and builtins can be called."""
    with pytest.raises(TypeError, match="has type int; give a function"):
        pool.submit(5)  # type: ignore[arg-type]  # it is refused
    assert pool.submit(dict, a=1).result(30) == {"a": 1}
    assert pool.submit(functools.partial(max, 3), 4).result(30) == 4
