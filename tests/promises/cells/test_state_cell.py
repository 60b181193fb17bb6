"""StateCell: section 5 of the contract, beyond the plan's own list; among others see test_state_cell_concurrency."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from shoal.primitives.keys import Namespace
from shoal.primitives.rules import cell_rules
from shoal.primitives.rules.cell_rules import CellRecord, decode_record, encode_record
from shoal.primitives.rules.tags import Tag
from shoal.primitives.views.cells import records as records_of
from shoal.primitives.views.cells import restore
from shoal.shm import codec
from shoal.shm.limits import MAX_VALUE_BYTES
from shoal.shm.operation import Decision, VersionedValue
from tests.support.present import present

DB = shoal.Database
WEIRD_NAMES = ["\0", "a\0b", "__idx_", "a__b", "/", "a/b", "🦀", "é", "\n", " ", "\uffff", "k" * 1024, "é" * 512]


def engine_key(run: str, name: str) -> bytes:
    return Namespace()._run_prefix(run) + bytes((Tag.STATE,)) + name.encode()


class TestVersions:
    def test_never_repeat(self, cells: shoal.StateCell, run: str) -> None:
        """Whatever is done to a name, however often it is deleted and made again: every version is above the last."""
        versions = []
        for _ in range(3):
            versions.append(cells.init(run, "c", 0))
            versions.append(cells.cas(run, "c", versions[-1], 1))
            cells.delete(run, "c")
            versions.append(cells.set(run, "c", 2))
            cells.delete(run, "c")
            cells.delete(run, "c")
        assert versions == list(range(1, 10))

    def test_never_repeat_in_a_transaction(self, memory_db: DB, cells: shoal.StateCell, run: str) -> None:
        """The same inside one transaction, from one to the next, and back outside."""
        for first in (1, 3):
            with memory_db.transaction(run) as txn:
                assert txn.state.init("c", 0) == first
                assert txn.state.delete("c") is True
                assert txn.state.read("c") is None
                assert txn.state.init("c", 1) == first + 1
                assert txn.state.delete("c") is True
        assert cells.init(run, "c", 2) == 5

    def test_a_cas_from_before_a_delete_never_hits(self, cells: shoal.StateCell, run: str) -> None:
        """Who has read a version cannot take the cell of the same name made since for it."""
        read = cells.init(run, "c", "mine")
        cells.delete(run, "c")
        cells.init(run, "c", "another")
        with pytest.raises(shoal.CASConflictError):
            cells.cas(run, "c", read, "overwritten")

    def test_a_deleted_run_forgets_them(self, memory_db: DB, cells: shoal.StateCell, run: str) -> None:
        """delete_run forgets everything: a name begins with 1 again."""
        cells.set(run, "c", 0)
        cells.set(run, "c", 1)
        cells.delete(run, "c")
        shoal.RunIndex(memory_db).delete_run(run)
        assert cells.init(run, "c", 0) == 1

    def test_are_each_name_s_own(self, cells: shoal.StateCell, memory_db: DB, run: str) -> None:
        """Names, runs and namespaces count for themselves."""
        other = shoal.StateCell(memory_db, namespace=shoal.Namespace(agent="other"))
        cells.set(run, "c", 1)
        assert cells.set(run, "c", 2) == 2
        assert [cells.set(run, "d", 1), cells.set(f"{run}-2", "c", 1), other.set(run, "c", 1)] == [1, 1, 1]
        assert other.list(run) == ["c"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("init", "cas", "set", "delete", "read", "transition")), st.integers(0, 4), st.booleans()
    ),
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(STEPS, st.integers(1, 5))
def test_as_a_model(memory_db: DB, steps: list[tuple[str, int, bool]], per_transaction: int) -> None:
    """Any calls, single ones and in transactions, give what a dictionary of (value, last version) says."""
    run = f"model-{time.monotonic_ns()}"
    cells = shoal.StateCell(memory_db)
    model: dict[str, tuple[int | None, int]] = {}  # name -> value or None if deleted, last version

    def expected(step: str, name: str, version: int, value: int) -> Any:
        now, last = model.get(name, (None, 0))
        if step == "read":
            return None if now is None else (now, last)
        if step == "delete":
            model[name] = (None, last)
            return now is not None
        if step == "init" and now is not None:
            return shoal.AlreadyExistsError
        if step in ("cas", "transition") and now is None:
            return shoal.NotFoundError
        if step == "cas" and version != last:
            return shoal.CASConflictError
        model[name] = (value, last + 1)
        return last if step == "transition" else last + 1

    def found(view: Any, step: str, name: str, version: int, value: int) -> Any:
        try:
            if step == "cas":
                return view.cas(name, version, value)
            if step == "transition":
                return view.transition(name, lambda state: (value, state.version))
            if step in ("init", "set"):
                return getattr(view, step)(name, value)
            result = getattr(view, step)(name)
        except shoal.ShoalError as error:
            return type(error)
        return (result.value, result.version) if isinstance(result, shoal.State) else result

    for start in range(0, len(steps), per_transaction):
        in_transaction = steps[start][2]
        with memory_db.transaction(run) if in_transaction else nullcontext() as txn:
            view = txn.state if txn is not None else cells._views[run]
            for i, (step, version, which) in enumerate(steps[start : start + per_transaction], start):
                arguments = (step, "a" if which else "b", version, i)
                assert found(view, *arguments) == expected(*arguments)
                assert view.list() == sorted(name for name, (value, _) in model.items() if value is not None)
    kept = {name: (record.value, record.version) for name, record in records_of(cells._views[run])}
    assert kept == {
        name: (None if value is None else codec.encode(value), last) for name, (value, last) in model.items() if last
    }


class TestNamesAndValues:
    @pytest.mark.parametrize("name", WEIRD_NAMES, ids=lambda name: ascii(name[:12]))
    def test_any_character_is_a_name(self, cells: shoal.StateCell, run: str, name: str) -> None:
        """A name of any characters goes through every call, and into every error as it is."""
        assert cells.init(run, name, name) == 1
        assert cells.cas(run, name, 1, [name]) == 2
        assert present(cells.read(run, name)).value == [name]
        assert cells.list(run) == cells.list(run, name) == [name]
        with pytest.raises(shoal.AlreadyExistsError) as exists:
            cells.init(run, name, 1)
        assert repr(name) in str(exists.value)
        with pytest.raises(shoal.CASConflictError) as conflict:
            cells.cas(run, name, 1, 1)
        assert conflict.value.key == name
        assert cells.delete(run, name) is True
        call: Callable[[], object]
        for call in (lambda: cells.cas(run, name, 1, 1), lambda: cells.transition(run, name, lambda s: (1, 1))):
            with pytest.raises(shoal.NotFoundError) as missing:
                call()
            assert repr(name) in str(missing.value)

    def test_all_of_them_at_once(self, cells: shoal.StateCell, run: str) -> None:
        """They are as many cells, sorted as Python sorts; keys of the same names are no cells."""
        for i, name in enumerate(WEIRD_NAMES):
            cells.set(run, name, i)
        assert cells.list(run) == sorted(WEIRD_NAMES)
        assert [present(cells.read(run, name)).value for name in WEIRD_NAMES] == list(range(len(WEIRD_NAMES)))

    def test_a_cell_is_no_key(self, memory_db: DB, cells: shoal.StateCell, run: str) -> None:
        """A key and a cell of one name have nothing to do with each other."""
        kv = shoal.KVStore(memory_db)
        kv.put(run, "x", 1)
        assert cells.read(run, "x") is None
        cells.set(run, "x", 2)
        assert (kv.get(run, "x"), kv.list(run)) == (1, ["x"])

    @pytest.mark.parametrize(
        "value", [None, False, 0, -(2**63), 2**64 - 1, 1.5, "", b"", b"\xc0", [], {}, [{"a": b"x"}]]
    )
    def test_every_kind_of_value(self, cells: shoal.StateCell, run: str, value: Any) -> None:
        """A value reads back equal, with its type; None is a value and not a deleted cell."""
        for version, write in enumerate((cells.init, cells.set), 1):
            write(run, "c", value)
            state = present(cells.read(run, "c"))
            assert (state.value, type(state.value), state.version) == (value, type(value), version)
        assert cells.exists(run, "c")
        assert cells.transition(run, "c", lambda state: (state.value, type(state.value))) is type(value)

    def test_the_largest_value(self, cells: shoal.StateCell, run: str) -> None:
        """16 MiB go in and come back; one byte more is refused and changes nothing."""
        value = bytes(MAX_VALUE_BYTES)
        assert cells.set(run, "c", value) == 1
        assert present(cells.read(run, "c")).value == value
        with pytest.raises(shoal.LimitExceededError, match="size of the value in bytes is 16,777,217"):
            cells.cas(run, "c", 1, value + b"x")
        assert present(cells.read(run, "c")).version == 1
        cells.set(run, "c", None)

    def test_what_is_read_is_a_copy(self, cells: shoal.StateCell, run: str) -> None:
        """Changing a value that was read changes nothing in the store, and fn may change the one it is given."""
        cells.init(run, "c", {"list": [1]})
        present(cells.read(run, "c")).value["list"].append(2)
        assert present(cells.read(run, "c")).value == {"list": [1]}

        def append(state: shoal.State) -> tuple[Any, None]:
            state.value["list"].append(3)
            return state.value, None

        cells.transition(run, "c", append)
        assert present(cells.read(run, "c")).value == {"list": [1, 3]}


class TestRecords:
    """The rules by themselves, and what they do with a record that is none."""

    def decide(
        self, rule: Callable[..., Decision], record: CellRecord | None, now_ms: int, *arguments: Any
    ) -> CellRecord:
        found = None if record is None else VersionedValue(encode_record(record), 1, 0)
        (write,) = rule(lambda key: found, now_ms, b"key", *arguments).writes
        assert (write.key, write.expires_ms) == (b"key", 0)
        return decode_record(write.value)

    def test_moments_never_go_back(self) -> None:
        """A clock that was set back does not set a cell back, deleted ones neither."""
        first = self.decide(cell_rules.init, None, 5_000, "c", b"\xc0")
        assert first == CellRecord(1, 5_000, b"\xc0")
        second = self.decide(cell_rules.put, first, 3_000, b"\x01")
        assert second == CellRecord(2, 5_000, b"\x01")
        third = self.decide(cell_rules.cas, second, 6_000, "c", 2, b"\x02")
        assert third == CellRecord(3, 6_000, b"\x02")
        gone = self.decide(cell_rules.delete, third, 1_000)
        assert gone == CellRecord(3, 6_000, None)
        assert self.decide(cell_rules.init, gone, 2_000, "c", b"\x03") == CellRecord(4, 6_000, b"\x03")

    def test_a_value_that_is_none_is_refused(self) -> None:
        """What comes through a pipe is looked at: only bytes within the limit become a record."""
        refused: list[Any] = ["text", 1, [b""], bytes(MAX_VALUE_BYTES + 100_000)]
        for value in refused:
            with pytest.raises(ValueError, match="not bytes within the limit"):
                cell_rules.put(lambda key: None, 0, b"key", value)

    @pytest.mark.parametrize(
        "raw", [b"", b"\xc1", b"\xc0", b"\x93\x01\x02", codec.pack([1, 2]), codec.pack([0, 1, b""])]
    )
    def test_a_damaged_record_is_told(self, memory_db: DB, cells: shoal.StateCell, run: str, raw: bytes) -> None:
        """CorruptionError from every call that meets it, never a wrong state; the coordinator goes on."""
        memory_db._store.auto_commit.put(engine_key(run, "c"), raw)
        for call in (
            lambda: cells.read(run, "c"),
            lambda: cells.list(run),
            lambda: cells.set(run, "c", 1),
            lambda: cells.cas(run, "c", 1, 1),
            lambda: cells.delete(run, "c"),
        ):
            with pytest.raises(shoal.CorruptionError, match="record of a cell"):
                call()
        assert cells.set(run, "d", 1) == 1

    def test_export_and_restore(self, memory_db: DB, cells: shoal.StateCell, run: str) -> None:
        """Every record comes back as it was, deleted ones included; a name ever used is refused."""
        copy = f"{run}-copy"
        cells.set(run, "a", {"x": 1})
        cells.set(run, "a", {"x": 2})
        cells.set(run, "gone", 1)
        cells.delete(run, "gone")
        with memory_db.snapshot(run) as view:
            records = list(records_of(view.state))
        assert [(name, record.version, record.value) for name, record in records] == [
            ("a", 2, codec.encode({"x": 2})),
            ("gone", 1, None),
        ]
        with memory_db.transaction(copy) as txn:
            for name, record in records:
                restore(txn.state, name, record)
        assert cells.read(copy, "a") == cells.read(run, "a")
        assert (cells.list(copy), list(records_of(cells._views[copy]))) == (["a"], records)
        assert cells.init(copy, "gone", 2) == 2
        for name, record in records:
            with pytest.raises(shoal.AlreadyExistsError, match=name):
                restore(cells._views[copy], name, record)
        with pytest.raises(shoal.CorruptionError):
            restore(cells._views[copy], "new", CellRecord(0, 0, None))
