"""StateCell among others: in transactions, transition under contention, and wait (section 5 of the contract)."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.support.present import present

DB = shoal.Database
_FORK = multiprocessing.get_context("fork")


# name -> a call that reads in a transaction
READS: dict[str, Callable[[Any], object]] = {
    "read": lambda view: view.read("c"),
    "exists": lambda view: view.exists("c"),
    "list": lambda view: view.list(),
    "list a prefix": lambda view: view.list("c"),
    "set": lambda view: view.set("c", "mine"),
    "delete": lambda view: view.delete("c"),
}
# name -> a change by somebody else
CHANGES: dict[str, Callable[[shoal.StateCell, str], object]] = {
    "set": lambda cells, run: cells.set(run, "c", "theirs"),
    "delete and init": lambda cells, run: (cells.delete(run, "c"), cells.init(run, "c", "theirs")),
}


class TestTransactions:
    @pytest.mark.parametrize("before", ["never", "there", "deleted"])
    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("read", READS)
    def test_what_was_read_is_validated(
        self, memory_db: DB, cells: shoal.StateCell, run: str, read: str, change: str, before: str
    ) -> None:
        """A cell that changes, appears (a phantom) or goes after it was read is a conflict; nothing is written."""
        if before != "never":
            cells.set(run, "c", 0)
        if before == "deleted":
            cells.delete(run, "c")
        with pytest.raises(shoal.ConflictError) as caught, memory_db.transaction(run) as txn:
            READS[read](txn.state)
            txn.state.set("decided", 1)
            CHANGES[change](cells, run)
        assert caught.value.key == "c"
        assert present(cells.read(run, "c")).value == "theirs"
        assert not cells.exists(run, "decided")

    def test_what_was_not_read_does_not_conflict(self, memory_db: DB, cells: shoal.StateCell, run: str) -> None:
        """Other names, other prefixes, other runs."""
        with memory_db.transaction(run) as txn:
            txn.state.list("mine/")
            txn.state.set("mine/1", 1)
            cells.set(run, "other", 1)
            cells.init(run, "mine", 1)
            cells.set(f"{run}-2", "mine/1", 1)
        assert cells.list(run) == ["mine", "mine/1", "other"]

    def test_single_calls_never_conflict(self, memory_db: DB, cells: shoal.StateCell, run: str) -> None:
        """A facade's call between a transaction's beginning and end succeeds, whatever the transaction has read."""
        cells.init(run, "c", 0)
        with pytest.raises(shoal.ConflictError), memory_db.transaction(run) as txn:
            txn.state.read("c")
            txn.state.list()
            txn.state.cas("c", 1, "never")
            assert [cells.cas(run, "c", 1, 1), cells.set(run, "c", 2), cells.init(run, "d", 0)] == [2, 3, 1]
            assert cells.delete(run, "d") is True
        assert present(cells.read(run, "c")).value == 2

    def test_a_refused_cas_leaves_the_transaction_usable(self, memory_db: DB, cells: shoal.StateCell, run: str) -> None:
        """Caught inside, the error costs nothing; but it told something, which is validated."""
        cells.init(run, "c", 0)
        with memory_db.transaction(run) as txn:
            with pytest.raises(shoal.CASConflictError):
                txn.state.cas("c", 5, "never")
            txn.kv.put("told", True)
        with pytest.raises(shoal.ConflictError), memory_db.transaction(run) as txn:
            with pytest.raises(shoal.CASConflictError):
                txn.state.cas("c", 5, "never")
            txn.kv.put("told", False)
            cells.set(run, "c", 1)
        assert shoal.KVStore(memory_db).get(run, "told") is True

    def test_transition_is_decided_once(self, memory_db: DB, cells: shoal.StateCell, run: str) -> None:
        """fn runs once on the snapshot; somebody else's change is a conflict at commit, for transact to repeat."""
        cells.init(run, "c", 1)
        calls = []

        def add(state: shoal.State) -> tuple[int, int]:
            calls.append(state.value)
            if len(calls) == 1:
                cells.set(run, "c", 10)
            return state.value + 1, state.version

        assert memory_db.transact(run, lambda txn: txn.state.transition("c", add)) == 2
        assert calls == [1, 10]
        assert present(cells.read(run, "c")).value == 11

    @pytest.mark.parametrize("size", [10, 4_000, 5_000, 200_000])
    def test_transition_after_a_conflict_is_given_what_read_shows(
        self, cells: shoal.StateCell, run: str, size: int
    ) -> None:
        """The state that others left, value, version and time, whether its value is small or large."""
        cells.init(run, "c", "mine")
        given, read = [], []

        def change(state: shoal.State) -> tuple[str, None]:
            given.append(state)
            read.append(cells.read(run, "c"))
            if len(given) < 3:
                cells.set(run, "c", str(len(given)) * size)
            return "done", None

        cells.transition(run, "c", change)
        assert given == read
        assert [state.version for state in given] == [1, 2, 3]
        assert cells.read(run, "c") == shoal.State("done", 4, present(cells.read(run, "c")).updated_at)

    def test_a_snapshot_only_reads(self, memory_db: DB, cells: shoal.StateCell, run: str) -> None:
        """read, exists and list at one moment; every change is InvalidOperationError."""
        cells.init(run, "c", 0)
        with memory_db.snapshot(run) as view:
            cells.set(run, "c", 1)
            cells.init(run, "d", 1)
            assert (present(view.state.read("c")).value, view.state.exists("d"), view.state.list()) == (0, False, ["c"])
            for call in (
                lambda: view.state.init("x", 1),
                lambda: view.state.set("c", 1),
                lambda: view.state.cas("c", 1, 1),
                lambda: view.state.delete("c"),
                lambda: view.state.transition("c", lambda state: (state.value, None)),
            ):
                with pytest.raises(shoal.InvalidOperationError):
                    call()


def _count(path: Path, count: int, results: Any) -> None:
    with shoal.open(path, linger=0.2) as db:
        cells = shoal.StateCell(db)
        results.put([cells.transition("r", "c", lambda s: (s.value + 1, s.value + 1)) for _ in range(count)])


def _sum_of_transitions(store: Path, processes: int, count: int) -> None:
    with shoal.open(store, linger=0.2) as db:
        cells = shoal.StateCell(db)
        cells.init("r", "c", 0)
        results = _FORK.Queue()
        workers = [_FORK.Process(target=_count, args=(store, count, results)) for _ in range(processes)]
        for worker in workers:
            worker.start()
        told = [value for _ in workers for value in results.get(timeout=120)]
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0] * processes
        assert sorted(told) == list(range(1, processes * count + 1))
        state = present(cells.read("r", "c"))
        assert (state.value, state.version) == (processes * count, processes * count + 1)


class TestTransition:
    @pytest.mark.long
    def test_processes_on_one_cell(self, store: Path) -> None:
        """Eight processes count in one cell: the exact sum, each step told once, none fails."""
        _sum_of_transitions(store, 8, 100)

    @pytest.mark.slow
    def test_5_000_of_each_of_8_processes(self, store: Path) -> None:
        """The same at length."""
        _sum_of_transitions(store, 8, 5_000)

    @pytest.mark.parametrize("returned", [None, 1, "ab", [1, 2], (), (1,), (1, 2, 3), {"a": 1, "b": 2}])
    def test_something_else_than_a_pair_is_a_type_error(
        self, memory_db: DB, cells: shoal.StateCell, run: str, returned: Any
    ) -> None:
        """The error shows what fn returned; nothing is changed."""
        cells.init(run, "c", 0)
        with memory_db.transaction(run) as txn:
            for view in (cells._views[run], txn.state):
                with pytest.raises(TypeError) as caught:
                    view.transition("c", lambda state: returned)
                assert str(caught.value) == f"fn returned {returned!r}, not a pair; return a tuple (new_value, result)"
        assert present(cells.read(run, "c")).version == 1

    def test_an_exception_of_fn_comes_through(self, cells: shoal.StateCell, run: str) -> None:
        """Whatever fn raises ends the call with nothing written, and is not tried again."""
        cells.init(run, "c", 0)
        calls = []

        def fail(state: shoal.State) -> Any:
            calls.append(state)
            raise KeyError("budget")

        with pytest.raises(KeyError, match="budget"):
            cells.transition(run, "c", fail)
        assert (len(calls), present(cells.read(run, "c")).version) == (1, 1)
        with pytest.raises(TypeError, match="fn has type int"):
            cells.transition(run, "c", 5)  # type: ignore[arg-type]  # it is refused

    def test_a_missing_cell_is_not_found(self, cells: shoal.StateCell, run: str) -> None:
        """Before anything is called; also when it is deleted while fn runs."""
        with pytest.raises(shoal.NotFoundError, match="'c' does not exist"):
            cells.transition(run, "c", lambda state: pytest.fail("called"))
        cells.init(run, "c", 0)
        with pytest.raises(shoal.NotFoundError, match="'c' does not exist"):
            cells.transition(run, "c", lambda state: (cells.delete(run, "c"), None))
        assert not cells.exists(run, "c")

    def test_deleted_and_made_again_is_another_try(self, cells: shoal.StateCell, run: str) -> None:
        """A cell made anew while fn runs is not taken for the old one."""
        cells.init(run, "c", "old")
        seen = []

        def fn(state: shoal.State) -> tuple[str, None]:
            seen.append(state.value)
            if len(seen) == 1:
                cells.delete(run, "c")
                cells.init(run, "c", "anew")
            return state.value + "!", None

        cells.transition(run, "c", fn)
        assert (seen, present(cells.read(run, "c")).value) == (["old", "anew"], "anew!")


def _later(call: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        time.sleep(0.03)
        call()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


class TestWait:
    def test_a_newer_state_is_there_already(self, cells: shoal.StateCell, run: str) -> None:
        """At once, the newest one; 0 takes any."""
        cells.init(run, "c", "a")
        cells.set(run, "c", "b")
        for version in (0, 1):
            assert cells.wait(run, "c", version) == cells.read(run, "c")
        assert present(cells.wait(run, "c", 0, timeout=0)).version == 2

    @pytest.mark.parametrize("timeout", [None, 60])
    def test_a_newer_state_comes(self, cells: shoal.StateCell, run: str, timeout: float | None) -> None:
        """The state that somebody sets while one waits, not what is committed elsewhere meanwhile."""
        cells.init(run, "c", "a")

        def others() -> None:
            cells.set(run, "d", 1)
            cells.set(f"{run}-2", "c", 1)
            time.sleep(0.01)
            cells.set(run, "c", "b")

        thread = _later(others)
        state = present(cells.wait(run, "c", 1, timeout))
        thread.join()
        assert (state.value, state.version) == ("b", 2)

    def test_a_cell_comes_to_be(self, cells: shoal.StateCell, run: str) -> None:
        """version 0 waits for init."""
        thread = _later(lambda: cells.init(run, "c", "a"))
        assert present(cells.wait(run, "c", 0, timeout=60)).value == "a"
        thread.join()

    def test_none_when_the_time_is_up(self, cells: shoal.StateCell, run: str) -> None:
        """No newer version within the time: None, whatever others commit; also for a version never reached."""
        cells.init(run, "c", "a")
        thread = _later(lambda: cells.set(run, "d", 1))
        assert cells.wait(run, "c", 1, timeout=0.05) is None
        thread.join()
        assert cells.wait(run, "c", 1, timeout=0) is None
        assert cells.wait(run, "none", 0, timeout=0.001) is None
        assert cells.wait(run, "c", 2**64 - 1, timeout=0) is None

    def test_a_deleted_cell_is_no_state(self, cells: shoal.StateCell, run: str) -> None:
        """A delete ends no wait; the cell made after it does."""
        cells.init(run, "c", "a")
        cells.set(run, "c", "b")
        cells.delete(run, "c")
        assert cells.wait(run, "c", 0, timeout=0) is None
        thread = _later(lambda: (cells.delete(run, "c"), cells.init(run, "c", "again")))
        state = present(cells.wait(run, "c", 1, timeout=60))
        thread.join()
        assert (state.value, state.version) == ("again", 3)

    def test_many_wait_for_one(self, cells: shoal.StateCell, run: str) -> None:
        """Everybody who waits sees the change, or a later one."""
        cells.init(run, "c", 0)
        seen: list[int] = []
        threads = [
            threading.Thread(target=lambda: seen.append(present(cells.wait(run, "c", 1, timeout=60)).version))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        cells.set(run, "c", 1)
        for thread in threads:
            thread.join()
        assert seen == [2] * 8
