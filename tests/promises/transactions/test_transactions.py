"""Transactions: atomic, isolated, at one snapshot; seen through the KV primitive."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import ConflictError, InvalidOperationError
from shoal.shm import limits
from tests.support.shared_memory import store_of


class TestAtomicity:
    def test_all_writes_or_none(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """Nothing of a transaction is seen before its commit, all of it afterwards."""
        with memory_db.transaction(run) as txn:
            txn.kv.put("a", 1)
            txn.kv.put("b", 2)
            assert kv.list(run) == []
        assert kv.list_with_values(run) == [("a", 1), ("b", 2)]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
    def test_an_exception_writes_nothing(
        self,
        memory_db: shoal.Database,
        kv: shoal.KVStore,
        run: str,
        error: type[Exception],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Any exception in the with block passes through, and nothing is written: the coordinator hears nothing."""
        kv.put(run, "kept", 1)
        monkeypatch.setattr(store_of(memory_db).connection, "submit", lambda *request: pytest.fail(f"sent {request}"))
        with pytest.raises(error), memory_db.transaction(run) as txn:
            txn.kv.put("a", 1)
            txn.kv.delete("kept")
            txn.kv.increment("n")
            raise error
        assert kv.list_with_values(run) == [("kept", 1)]

    def test_on_another_run(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """on() writes another run in the same atomic transaction, and reads it at the same snapshot."""
        other = run + "-other"
        with memory_db.transaction(run) as txn:
            txn.kv.put("k", "mine")
            txn.on(other).kv.put("k", "theirs")
            assert txn.on(other).kv.get("k") == "theirs"
            assert txn.kv.get("k") == "mine"
        assert (kv.get(run, "k"), kv.get(other, "k")) == ("mine", "theirs")
        with pytest.raises(RuntimeError), memory_db.transaction(run) as txn:
            txn.kv.put("k", "changed")
            txn.on(other).kv.put("k", "changed")
            raise RuntimeError
        assert (kv.get(run, "k"), kv.get(other, "k")) == ("mine", "theirs")

    def test_a_read_on_another_run_is_validated(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """What was read through on() conflicts like what was read of the own run."""
        other = run + "-other"
        with pytest.raises(ConflictError) as caught, memory_db.transaction(run) as txn:
            txn.on(other).kv.get("k")
            txn.kv.put("outcome", 1)
            kv.put(other, "k", 1)
        assert caught.value.key == "k"
        assert kv.get(run, "outcome") is None


class TestSnapshotReads:
    def test_reads_stay_at_the_entry(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """Whatever others commit, a transaction goes on seeing the state of its entry."""
        kv.put(run, "a", 1)
        kv.put(run, "b", 1)
        with memory_db.transaction(run) as txn:
            kv.put(run, "a", 2)
            kv.delete(run, "b")
            kv.put(run, "c", 1)
            assert txn.kv.list_with_values() == [("a", 1), ("b", 1)]
            assert txn.kv.get("a") == 1
            assert txn.kv.exists("c") is False
        assert kv.list_with_values(run) == [("a", 2), ("c", 1)]

    def test_snapshot_is_taken_at_entry_not_at_creation(
        self, memory_db: shoal.Database, kv: shoal.KVStore, run: str
    ) -> None:
        """db.transaction() by itself reads nothing: the snapshot is the with statement's."""
        waiting = memory_db.transaction(run)
        kv.put(run, "k", 1)
        with waiting as txn:
            assert txn.kv.get("k") == 1

    def test_view_stays_and_never_conflicts(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """A snapshot sees its moment until it is closed, through more commits than are reclaimed at once."""
        kv.put(run, "k", "then")
        view = memory_db.snapshot(run)
        version = view.version
        for number in range(limits.RECLAIM_EVERY + 100):
            kv.put(run, "k", number)
        kv.put(run, "later", 1)
        assert view.kv.get("k") == "then"
        assert view.kv.list_with_values() == [("k", "then")]
        assert view.version == version
        view.close()
        assert kv.get(run, "k") == limits.RECLAIM_EVERY + 99

    def test_read_your_own_writes(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """Own puts, deletes and increments show in get, exists, list, list_with_values and ttl, in order."""
        for key in "bdf":
            kv.put(run, key, "old")
        with memory_db.transaction(run) as txn:
            txn.kv.put("a", 1)
            txn.kv.put("b", 2)
            assert txn.kv.delete("d") is True
            assert txn.kv.delete("d") is False
            assert txn.kv.delete("a") is True
            assert txn.kv.delete("never") is False
            txn.kv.put("e", 5)
            txn.kv.put("g", 7)
            assert txn.kv.increment("n", 2) == 2
            assert txn.kv.increment("n", 3) == 5
            expected = [("b", 2), ("e", 5), ("f", "old"), ("g", 7), ("n", 5)]
            assert txn.kv.list_with_values() == expected
            assert txn.kv.list() == [key for key, _ in expected]
            assert txn.kv.list("g") == ["g"]
            assert txn.kv.get("a") is None
            assert txn.kv.exists("d") is False
            assert txn.kv.get("b") == 2
            txn.kv.put("d", "again")
            assert txn.kv.list("d") == ["d"]
            txn.kv.delete("d")
        assert kv.list_with_values(run) == expected

    def test_what_was_put_is_as_it_will_be_read(self, memory_db: shoal.Database, run: str) -> None:
        """An own put reads back as others will read it: a copy, tuples as lists."""
        value: dict[str, Any] = {"t": (1, 2)}
        with memory_db.transaction(run) as txn:
            txn.kv.put("k", value)
            value["t"] = "changed"
            assert txn.kv.get("k") == {"t": [1, 2]}


class TestVersion:
    def test_is_unique_and_rises(self, memory_db: shoal.Database, run: str) -> None:
        """Each commit has a version of its own above all before, and info() shows the newest."""
        for number in range(20):
            before = memory_db.info().commit_version
            with memory_db.transaction(run) as txn:
                txn.kv.put("k", number)
            assert before < txn.version <= memory_db.info().commit_version  # the coordinator makes some, too

    def test_is_unknown_before_the_commit(self, memory_db: shoal.Database, run: str) -> None:
        """version inside the with block of a transaction is InvalidOperationError."""
        with memory_db.transaction(run) as txn, pytest.raises(InvalidOperationError, match="not committed"):
            _ = txn.version

    def test_of_a_snapshot(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """A snapshot's version is that of the newest commit it sees, known from the start."""
        kv.put(run, "k", 1)
        before = memory_db.info().commit_version
        with memory_db.snapshot(run) as view:
            assert before <= view.version <= memory_db.info().commit_version
            assert view.kv.get("k") == 1
            kv.put(run, "k", 2)
            assert view.version < memory_db.info().commit_version

    @pytest.mark.long
    @pytest.mark.parametrize("durability", ["buffered", "strict"])
    def test_goes_on_after_a_restart(self, store: Path, wait_for_end: Callable[[int], None], durability: str) -> None:
        """Versions are kept over restarts: the first after is above the last before."""
        with shoal.open(store, durability=durability, linger=0.05) as db:
            pid = db.info().coordinator_pid
            for _ in range(5):
                with db.transaction("r") as txn:
                    txn.kv.put("k", 1)
            last = txn.version
            assert last >= 5
        wait_for_end(pid)
        with shoal.open(store, linger=0.05) as db:
            assert db.info().coordinator_pid != pid
            recovered = db.info().commit_version
            assert recovered >= last
            with db.transaction("r") as txn:
                txn.kv.put("k", 2)
            assert txn.version > recovered


class TestUse:
    def test_use_after_the_end(self, memory_db: shoal.Database, run: str) -> None:
        """A committed transaction refuses every call."""
        with memory_db.transaction(run) as txn:
            view = txn.kv
            other = txn.on("other")
            txn.kv.put("k", 1)
        for call in (
            lambda: txn.kv.get("k"),
            lambda: txn.kv.put("k", 2),
            lambda: view.list(),
            lambda: view.list_with_values(),
            lambda: view.delete("k"),
            lambda: view.increment("n"),
            lambda: view.ttl("k"),
            lambda: view.exists("k"),
            lambda: other.kv.get("k"),
            lambda: txn.on("third").kv.put("k", 1),
        ):
            with pytest.raises(InvalidOperationError, match="has committed"):
                call()

    def test_use_after_an_exception_and_after_a_conflict(
        self, memory_db: shoal.Database, kv: shoal.KVStore, run: str
    ) -> None:
        """So does one that was left by an exception, or that conflicted."""
        with pytest.raises(RuntimeError), memory_db.transaction(run) as txn:
            raise RuntimeError
        with pytest.raises(InvalidOperationError):
            txn.kv.get("k")
        with pytest.raises(ConflictError), memory_db.transaction(run) as txn:
            txn.kv.increment("k")
            kv.put(run, "k", 5)
        with pytest.raises(InvalidOperationError):
            txn.kv.get("k")

    def test_entering_twice(self, memory_db: shoal.Database, run: str) -> None:
        """A transaction is entered once."""
        with memory_db.transaction(run) as txn:
            pass
        with pytest.raises(InvalidOperationError), txn:
            pass

    def test_use_without_with(self, memory_db: shoal.Database, run: str) -> None:
        """A transaction that was never entered says so."""
        with pytest.raises(InvalidOperationError, match="with"):
            memory_db.transaction(run).kv.get("k")

    @pytest.mark.parametrize(
        "write",
        [
            lambda view: view.put("k", 1),
            lambda view: view.put_with_ttl("k", 1, 5),
            lambda view: view.delete("k"),
            lambda view: view.increment("k"),
        ],
        ids=["put", "put_with_ttl", "delete", "increment"],
    )
    def test_a_snapshot_does_not_write(
        self, memory_db: shoal.Database, kv: shoal.KVStore, run: str, write: Any
    ) -> None:
        """Every write through a snapshot is InvalidOperationError, also of another run, and it can still be read."""
        kv.put(run, "k", 7)
        with memory_db.snapshot(run) as view:
            with pytest.raises(InvalidOperationError, match="snapshot"):
                write(view.kv)
            with pytest.raises(InvalidOperationError, match="snapshot"):
                write(view.on("other").kv)
            assert view.kv.get("k") == 7
        assert kv.get(run, "k") == 7

    def test_snapshot_after_its_end(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """A closed snapshot refuses reads, whichever way it was closed; closing twice does nothing."""
        kv.put(run, "k", 1)
        with memory_db.snapshot(run) as left:
            assert left.kv.get("k") == 1
        closed = memory_db.snapshot(run)
        closed.close()
        closed.close()
        for view in (left, closed):
            with pytest.raises(InvalidOperationError, match="the snapshot has ended"), view:
                pass
            with pytest.raises(InvalidOperationError):
                view.kv.get("k")
            with pytest.raises(InvalidOperationError):
                view.kv.list()

    def test_caught_error_inside_leaves_it_usable(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """A bad argument refused inside a transaction leaves what was written before it as it was."""
        with memory_db.transaction(run) as txn:
            txn.kv.put("a", 1)
            with pytest.raises(TypeError):
                txn.kv.put("b", object())
            with pytest.raises(ValueError, match="empty"):
                txn.kv.put("", 1)
            txn.kv.put("c", 3)
        assert kv.list_with_values(run) == [("a", 1), ("c", 3)]

    def test_it_is_no_database(self, memory_db: shoal.Database, run: str) -> None:
        """A facade of a transaction is refused: what it wrote would not be part of the transaction."""
        untyped: Any = memory_db.transaction(run)
        with untyped, pytest.raises(TypeError, match=r"has type Transaction of shoal; give what shoal\.open returns"):
            shoal.KVStore(untyped)
