"""StateCell: bad arguments change nothing, and errors say what a caller needs to know, in any process."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

import shoal
from shoal.shm import codec
from shoal.shm.wire import wire_errors
from tests.support.present import present

DB = shoal.Database


def _nothing(state: shoal.State) -> Any:
    return state.value, None


class TestBadArguments:
    @pytest.mark.parametrize(
        ("name", "error"),
        [
            *((wrong, TypeError) for wrong in (None, 1, b"c", ["c"], ("c",), object())),
            *((wrong, ValueError) for wrong in ("", "\ud800")),
            *((wrong, shoal.LimitExceededError) for wrong in ("x" * 1025, "é" * 513)),
        ],
    )
    def test_names(self, cells: shoal.StateCell, memory_db: DB, run: str, name: Any, error: type[Exception]) -> None:
        """A bad name is TypeError, ValueError or LimitExceededError that says so, from every call, in both engines."""
        calls: list[Callable[..., Any]] = []
        for view in (cells._views[run], memory_db.snapshot(run).state):
            calls += [
                lambda view=view: view.read(name),
                lambda view=view: view.exists(name),
                lambda view=view: view.init(name, 1),
                lambda view=view: view.cas(name, 1, 1),
                lambda view=view: view.set(name, 1),
                lambda view=view: view.delete(name),
                lambda view=view: view.transition(name, _nothing),
            ]
        call: Callable[[], object]
        for call in [*calls, lambda: cells.wait(run, name, 0, timeout=0)]:
            with pytest.raises(error, match="name"):
                call()
        assert cells.list(run) == []

    @pytest.mark.parametrize(
        ("prefix", "error"),
        [
            *((wrong, TypeError) for wrong in (None, 1, b"c", ["c"])),
            ("\ud800", ValueError),
            ("x" * 1025, shoal.LimitExceededError),
        ],
    )
    def test_prefixes(self, cells: shoal.StateCell, run: str, prefix: Any, error: type[Exception]) -> None:
        """A bad prefix says so."""
        with pytest.raises(error, match="prefix"):
            cells.list(run, prefix)

    @pytest.mark.parametrize(
        ("run_id", "error"),
        [
            *((wrong, TypeError) for wrong in (None, 1, b"r", ["r"])),
            *((wrong, ValueError) for wrong in ("", "\ud800")),
            ("x" * 129, shoal.LimitExceededError),
        ],
    )
    def test_runs(self, cells: shoal.StateCell, run_id: Any, error: type[Exception]) -> None:
        """A bad run id is refused by every call."""
        for call in (cells.read, cells.exists, cells.delete):
            with pytest.raises(error):
                call(run_id, "c")
        with pytest.raises(error):
            cells.wait(run_id, "c", 0, timeout=0)

    @pytest.mark.parametrize("value", [print, object(), {1: 2}, {"a": {1}}, 2**64, [1, [2, 3j]]])
    def test_values(self, cells: shoal.StateCell, run: str, value: Any) -> None:
        """A value that cannot be stored is a TypeError with its path; nothing is changed, also by a transition."""
        cells.init(run, "c", 1)
        calls = (
            lambda: cells.init(run, "new", value),
            lambda: cells.set(run, "c", value),
            lambda: cells.cas(run, "c", 1, value),
            lambda: cells.transition(run, "c", lambda state: (value, None)),
        )
        for call in calls:
            with pytest.raises(TypeError, match=r"value at \$"):
                call()
        assert (present(cells.read(run, "c")).version, cells.list(run)) == (1, ["c"])

    def test_versions(self, cells: shoal.StateCell, run: str) -> None:
        """A version is an int that a cell can have."""
        cells.init(run, "c", 1)
        for call, what in (
            (lambda version: cells.cas(run, "c", version, 2), "expected_version"),
            (lambda version: cells.wait(run, "c", version, timeout=0), "version"),
        ):
            for version in (None, "1", 1.0, True, b"1", [1]):
                with pytest.raises(TypeError, match=f"{what} has type .*; give an int"):
                    call(version)
            for version in (-1, 2**64, -(10**30), 10**30):
                with pytest.raises(ValueError, match=f"{what} is {version}; give"):
                    call(version)
        assert present(cells.read(run, "c")).version == 1

    def test_timeouts(self, cells: shoal.StateCell, run: str) -> None:
        """Seconds from 0 on, of any size, or None."""
        cells.init(run, "c", 1)
        for call in (
            lambda timeout: cells.transition(run, "c", _nothing, timeout),
            lambda timeout: cells.wait(run, "c", 0, timeout),
        ):
            wrong: list[Any] = ["1", True, [1], b""]
            for timeout in wrong:
                with pytest.raises(TypeError, match="timeout has type"):
                    call(timeout)
            for timeout in (-1, -0.1, float("nan"), float("-inf")):
                with pytest.raises(ValueError, match="timeout is"):
                    call(timeout)
            for timeout in (None, 0, 1, 0.5, 10**400, float("inf")):
                call(timeout)


class TestErrors:
    def test_survive_a_pickle_and_a_pipe(self, cells: shoal.StateCell, run: str) -> None:
        """Each error of a cell arrives in another process with class, fields and message."""
        cells.init(run, "c", 1)
        errors = []
        call: Callable[[], object]
        for call in (
            lambda: cells.init(run, "c", 1),
            lambda: cells.cas(run, "c", 9, 1),
            lambda: cells.cas(run, "none", 1, 1),
            lambda: cells.transition(run, "c", lambda s: (cells.set(run, "c", 1), 1), timeout=0),
        ):
            with pytest.raises(shoal.ShoalError) as caught:
                call()
            errors.append(caught.value)
        assert [type(error).__name__ for error in errors] == [
            "AlreadyExistsError",
            "CASConflictError",
            "NotFoundError",
            "ConflictError",
        ]
        for error in errors:
            for copy in (
                pickle.loads(pickle.dumps(error)),
                wire_errors.error_from(*codec.unpackb(codec.pack(wire_errors.error_parts(error)))),
            ):
                assert (type(copy), copy.args, str(copy), vars(copy)) == (
                    type(error),
                    error.args,
                    str(error),
                    vars(error),
                )

    def test_fn_that_changes_its_own_cell_in_a_transaction(
        self, cells: shoal.StateCell, memory_db: DB, run: str
    ) -> None:
        """It is called once and refused at once: each further call would change the cell again. Nothing is written."""
        cells.init(run, "c", 1)
        calls = []

        def change(txn: shoal.Transaction) -> None:
            def fn(state: shoal.State) -> tuple[int, None]:
                calls.append(state.value)
                txn.state.set("c", 3)
                return state.value + 1, None

            txn.state.set("c", 2)  # before the transition: no matter
            txn.state.transition("c", fn, timeout=0.5)

        with pytest.raises(shoal.InvalidOperationError, match=r"^fn of transition changed cell 'c' itself; return"):
            memory_db.transact(run, change)
        assert calls == [2]
        assert present(cells.read(run, "c")).value == 1

    def test_messages(self, cells: shoal.StateCell, run: str) -> None:
        """Fact, value, remedy, with the name as the user gave it, from the coordinator and in a transaction alike."""
        cells.init(run, "c", 1)
        with cells.transaction(run) as txn:
            for view in (cells._views[run], txn.state):
                with pytest.raises(shoal.CASConflictError) as conflict:
                    view.cas("c", 9, 1)
                assert str(conflict.value) == "'c' has version 1, expected 9; read it again and decide"
                with pytest.raises(shoal.AlreadyExistsError) as exists:
                    view.init("c", 1)
                assert str(exists.value) == "cell 'c' exists, at version 1; change it with cas or set"
                with pytest.raises(shoal.NotFoundError) as missing:
                    view.cas("none", 1, 1)
                assert str(missing.value) == "cell 'none' does not exist; create it with init or set"
