"""Acceptance of ``StateCell``. Each test is a line of docs/acceptance.md."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import dataclasses
import json
import pickle
import time
from typing import Any

import pytest

import shoal
from tests.support.present import present

DB = shoal.Database


def test_15_state_serializes_and_deserializes() -> None:
    """A ``State`` survives a pickle and JSON, equals a state with the same fields, and cannot be changed."""
    state = shoal.State({"step": [1, None]}, 3, 1_700_000_000_000)
    assert pickle.loads(pickle.dumps(state)) == state
    assert shoal.State(**json.loads(json.dumps(dataclasses.asdict(state)))) == state
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.version = 4  # type: ignore[misc]  # frozen


def test_15_new_creates_instance(memory_db: DB) -> None:
    """``StateCell`` takes a database and, if wanted, a namespace; anything else is refused."""
    assert shoal.StateCell(memory_db).namespace == shoal.Namespace()
    assert shoal.StateCell(memory_db, namespace=shoal.Namespace("t")).namespace.tenant == "t"
    with pytest.raises(TypeError, match=r"shoal\.open"):
        shoal.StateCell(None)


def test_16_init_creates_new_cell_with_version_1(cells: shoal.StateCell, run: str) -> None:
    """``init`` of a name that was never used returns version 1, and ``read`` shows that version."""
    assert cells.init(run, "workflow", "step0") == 1
    state = present(cells.read(run, "workflow"))
    assert (state.value, state.version) == ("step0", 1)


def test_16_init_fails_if_cell_exists(cells: shoal.StateCell, run: str) -> None:
    """``init`` of an existing cell raises ``AlreadyExistsError`` with the cell's name and changes nothing."""
    cells.init(run, "workflow", 1)
    before = cells.read(run, "workflow")
    with pytest.raises(shoal.AlreadyExistsError, match="'workflow' exists, at version 1"):
        cells.init(run, "workflow", 2)
    assert cells.read(run, "workflow") == before


def test_16_read_returns_state_with_version(cells: shoal.StateCell, run: str) -> None:
    """``read`` returns the value, its version, and the time it was set in whole milliseconds."""
    before_ms = time.time_ns() // 1_000_000
    cells.init(run, "c", {"a": [1]})
    cells.cas(run, "c", 1, {"a": [2]})
    state = present(cells.read(run, "c"))
    assert state == shoal.State({"a": [2]}, 2, state.updated_at)
    assert type(state.updated_at) is int
    assert before_ms <= state.updated_at <= time.time_ns() // 1_000_000 + 1


def test_16_read_returns_none_if_not_exists(cells: shoal.StateCell, run: str) -> None:
    """``read`` of a cell that was never made, or is another run's, returns None."""
    cells.init(f"{run}-other", "c", 1)
    assert cells.read(run, "c") is None


def test_16_delete_removes_cell(cells: shoal.StateCell, run: str) -> None:
    """``delete`` says whether the cell was there; afterwards it is absent everywhere."""
    cells.init(run, "c", 1)
    assert [cells.delete(run, "c"), cells.delete(run, "c")] == [True, False]
    assert (cells.read(run, "c"), cells.exists(run, "c"), cells.list(run)) == (None, False, [])


def test_16_exists_returns_correct_boolean(cells: shoal.StateCell, run: str) -> None:
    """``exists`` is True from ``init`` until ``delete``, also for a cell that holds None."""
    seen = [cells.exists(run, "c")]
    cells.init(run, "c", None)
    seen.append(cells.exists(run, "c"))
    cells.delete(run, "c")
    seen.append(cells.exists(run, "c"))
    assert seen == [False, True, False]


def test_16_list_returns_all_cell_names(cells: shoal.StateCell, run: str) -> None:
    """``list`` returns every cell name once, sorted, or those with a prefix, and none of another run."""
    names = ["b", "a/2", "a/1", "a", "é", "\0"]
    for name in names:
        cells.init(run, name, 1)
        cells.set(run, name, 2)
    cells.init(f"{run}-other", "other", 1)
    assert cells.list(run) == sorted(names)
    assert cells.list(run, "a/") == ["a/1", "a/2"]
    assert cells.list(run, "none") == []


def test_17_cas_succeeds_when_version_matches(cells: shoal.StateCell, run: str) -> None:
    """``cas`` at the current version changes the value and returns the version that ``read`` shows."""
    cells.init(run, "c", "old")
    assert cells.cas(run, "c", 1, "new") == 2
    assert (present(cells.read(run, "c")).value, present(cells.read(run, "c")).version) == ("new", 2)


def test_17_cas_fails_when_version_differs(cells: shoal.StateCell, run: str) -> None:
    """``cas`` at another version raises ``CASConflictError`` with the name and both versions, and changes nothing."""
    cells.init(run, "c", "first")
    cells.set(run, "c", "second")
    for expected in (0, 1, 3, 2**64 - 1):
        with pytest.raises(shoal.CASConflictError) as caught:
            cells.cas(run, "c", expected, "never")
        assert (caught.value.key, caught.value.expected, caught.value.actual) == ("c", expected, 2)
    assert present(cells.read(run, "c")).value == "second"


def test_17_cas_increments_version(cells: shoal.StateCell, run: str) -> None:
    """Each change has the next version."""
    version = cells.init(run, "c", 0)
    for expected in range(2, 12):
        version = cells.cas(run, "c", version, expected)
        assert version == expected


def test_17_cas_fails_on_non_existent_cell(cells: shoal.StateCell, run: str) -> None:
    """``cas`` of a missing cell raises ``NotFoundError`` and makes none, also of a deleted cell at its last version."""
    with pytest.raises(shoal.NotFoundError, match="'c' does not exist"):
        cells.cas(run, "c", 1, "v")
    assert cells.set(run, "c", 1) == 1
    cells.delete(run, "c")
    with pytest.raises(shoal.NotFoundError, match="'c' does not exist"):
        cells.cas(run, "c", 1, "v")
    assert not cells.exists(run, "c")


def test_17_set_always_succeeds(cells: shoal.StateCell, run: str) -> None:
    """``set`` succeeds at any version, also after others changed or deleted the cell."""
    cells.init(run, "c", 0)
    for i in range(3):
        cells.set(run, "c", f"others {i}")
        cells.set(run, "c", i)
        assert present(cells.read(run, "c")).value == i
        cells.delete(run, "c")
    assert cells.set(run, "c", "last") > 1


def test_17_set_increments_version(cells: shoal.StateCell, run: str) -> None:
    """Each ``set`` has the next version, also after ``init`` and ``cas``."""
    assert [cells.init(run, "c", 0), cells.cas(run, "c", 1, 1), *(cells.set(run, "c", i) for i in range(3))] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_17_set_creates_cell_if_not_exists(cells: shoal.StateCell, run: str) -> None:
    """``set`` of a name that was never used gives version 1; of a deleted cell the version above its last."""
    assert cells.set(run, "c", "v") == 1
    assert present(cells.read(run, "c")).value == "v"
    cells.delete(run, "c")
    assert cells.set(run, "c", "w") == 2


def test_18_transition_succeeds_on_first_try(cells: shoal.StateCell, run: str) -> None:
    """``transition`` without contention calls its function once, with the newest state."""
    cells.init(run, "c", 10)
    given = []

    def spend(state: shoal.State) -> tuple[Any, None]:
        given.append(state)
        return state.value - 1, None

    cells.transition(run, "c", spend)
    assert [(state.value, state.version) for state in given] == [(10, 1)]
    assert (present(cells.read(run, "c")).value, present(cells.read(run, "c")).version) == (9, 2)


def _double_after(changes: int, cells: shoal.StateCell, run: str, given: list[shoal.State]) -> Any:
    """A function for transition that has somebody else add 1 to the cell, the first ``changes`` times it is called."""

    def double(state: shoal.State) -> tuple[int, str]:
        given.append(state)
        if len(given) <= changes:
            cells.set(run, "c", state.value + 1)
        return state.value * 2, f"doubled {state.value}"

    return double


def test_18_transition_retries_on_conflict(cells: shoal.StateCell, run: str) -> None:
    """``transition`` runs again if another change came first, and builds on that change."""
    cells.init(run, "c", 5)
    cells.transition(run, "c", _double_after(1, cells, run, []))
    assert (present(cells.read(run, "c")).value, present(cells.read(run, "c")).version) == (12, 3)


def test_18_transition_closure_called_multiple_times_on_retry(cells: shoal.StateCell, run: str) -> None:
    """``transition`` calls its function once more for each change of others, each time with the newest state."""
    cells.init(run, "c", 0)
    given: list[shoal.State] = []
    cells.transition(run, "c", _double_after(30, cells, run, given))
    assert [(state.value, state.version) for state in given] == [(i, i + 1) for i in range(31)]


def test_18_transition_returns_closure_result(cells: shoal.StateCell, run: str) -> None:
    """``transition`` returns the second value of its function's last call."""
    cells.init(run, "c", 5)
    assert cells.transition(run, "c", lambda state: (1, {"not": object})) == {"not": object}
    assert cells.transition(run, "c", _double_after(2, cells, run, [])) == "doubled 3"


def test_18_transition_fails_after_its_time(cells: shoal.StateCell, run: str) -> None:
    """``transition`` that loses until its timeout raises ``ConflictError`` with the cell's name and both versions."""
    cells.init(run, "c", 0)
    for timeout, least in ((0, 1), (0.03, 2)):
        given: list[shoal.State] = []
        with pytest.raises(shoal.ConflictError) as caught:
            cells.transition(run, "c", _double_after(10**9, cells, run, given), timeout=timeout)
        assert len(given) >= least
        error = caught.value
        assert (error.key, error.read_version, error.found_version) == (
            "c",
            given[-1].version,
            present(cells.read(run, "c")).version,
        )


def test_19_read_works_in_transaction(memory_db: DB, cells: shoal.StateCell, run: str) -> None:
    """``txn.state.read`` sees the snapshot and own writes; a later change by others is a conflict at commit."""
    cells.init(run, "c", "old")
    with pytest.raises(shoal.ConflictError) as caught, memory_db.transaction(run) as txn:
        assert present(txn.state.read("c")).version == 1
        cells.set(run, "c", "new")
        assert present(txn.state.read("c")).value == "old"
        txn.kv.put("k", 1)
    assert caught.value.key == "c"
    assert not shoal.KVStore(memory_db).exists(run, "k")


def test_19_cas_works_in_transaction(memory_db: DB, cells: shoal.StateCell, run: str) -> None:
    """``txn.state.cas`` compares with the snapshot and own writes; the new version is known at once."""
    cells.init(run, "c", 0)
    with memory_db.transaction(run) as txn:
        assert [txn.state.cas("c", 1, "a"), txn.state.cas("c", 2, "b")] == [2, 3]
        with pytest.raises(shoal.CASConflictError):
            txn.state.cas("c", 1, "never")
        with pytest.raises(shoal.NotFoundError):
            txn.state.cas("none", 1, "never")
    assert (present(cells.read(run, "c")).value, present(cells.read(run, "c")).version) == ("b", 3)


def test_19_set_works_in_transaction(memory_db: DB, cells: shoal.StateCell, run: str) -> None:
    """``txn.state.set`` creates and changes a cell, seen inside at once and outside after the commit."""
    with memory_db.transaction(run) as txn:
        assert [txn.state.set("c", "a"), txn.state.set("c", "b")] == [1, 2]
        assert present(txn.state.read("c")).value == "b"
        assert txn.state.list() == ["c"]
        assert cells.read(run, "c") is None
    assert (present(cells.read(run, "c")).value, present(cells.read(run, "c")).version) == ("b", 2)


def test_19_cells_and_kv_are_atomic(memory_db: DB, cells: shoal.StateCell, run: str) -> None:
    """A cell and a key of one transaction are written together or not at all."""
    kv = shoal.KVStore(memory_db)
    cells.init(run, "c", 0)
    with memory_db.transaction(run) as txn:
        txn.kv.put("k", txn.state.cas("c", 1, "a"))
    assert (kv.get(run, "k"), present(cells.read(run, "c")).version) == (2, 2)
    with pytest.raises(shoal.CASConflictError), memory_db.transaction(run) as txn:
        txn.kv.put("k", "never")
        txn.state.init("other", 1)
        txn.state.cas("c", 1, "never")
    assert (kv.get(run, "k"), present(cells.read(run, "c")).version, cells.list(run)) == (2, 2, ["c"])
