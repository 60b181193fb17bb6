"""Transactions that conflict, and running them again; seen through the KV primitive."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import shoal
from shoal import ConflictError, KVStore
from shoal.shm import limits


def interleaved(
    db: shoal.Database, run: str, read: Callable[[Any], Any], meanwhile: Callable[[KVStore], Any]
) -> ConflictError:
    """Run ``read`` in a transaction that also writes, with ``meanwhile`` committed in between; the ConflictError."""
    with pytest.raises(ConflictError) as caught, db.transaction(run) as txn:
        read(txn.kv)
        txn.kv.put("outcome", "written")
        meanwhile(KVStore(db))
    assert KVStore(db).get(run, "outcome") is None
    return caught.value


class TestConflicts:
    def test_point_read(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """A read key that changed is a conflict with the user's key and both versions; nothing is written."""
        versions = []

        def meanwhile(other: KVStore) -> None:
            versions.append(memory_db.info().commit_version)
            other.put(run, "k", 1)
            versions.append(memory_db.info().commit_version)

        kv.put(run, "k", 0)
        before = memory_db.info().commit_version
        error = interleaved(memory_db, run, lambda view: view.get("k"), meanwhile)
        assert isinstance(error, shoal.ShoalError)
        assert error.key == "k"
        assert before <= error.read_version <= versions[0] < error.found_version <= versions[1]
        assert str(error) == (
            f"'k' was read at version {error.read_version} and changed at version {error.found_version}; "
            "run the transaction again (db.transact does)"
        )

    @pytest.mark.parametrize(
        "read",
        [
            lambda view: view.get("k"),
            lambda view: view.exists("k"),
            lambda view: view.ttl("k"),
            lambda view: view.delete("k"),
            lambda view: view.increment("k"),
            lambda view: view.list("k"),
            lambda view: view.list(),
            lambda view: view.list_with_values("k"),
        ],
        ids=["get", "exists", "ttl", "delete", "increment", "list", "list-all", "list_with_values"],
    )
    @pytest.mark.parametrize("there", [True, False], ids=["there", "absent"])
    def test_every_way_to_read_is_validated(
        self, memory_db: shoal.Database, kv: shoal.KVStore, run: str, read: Callable[[Any], Any], there: bool
    ) -> None:
        """Each call that tells something of a key conflicts when the key changes, or appears (a phantom)."""
        if there:
            kv.put(run, "k", 1)
        error = interleaved(memory_db, run, read, lambda other: other.put(run, "k", 2))
        assert error.key == "k"
        assert error.found_version > error.read_version
        assert kv.get(run, "k") == 2

    @pytest.mark.parametrize("key", ["a\0b", "🦀/x", "__idx_", "k" * 1024])
    def test_key_is_the_users(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str, key: str) -> None:
        """The key of a conflict is the user's text, whatever it holds."""
        error = interleaved(memory_db, run, lambda view: view.get(key), lambda other: other.put(run, key, 1))
        assert error.key == key

    @pytest.mark.parametrize("read", [lambda view: view.get("k"), lambda view: view.list("k")], ids=["get", "list"])
    def test_deletion_of_what_was_read(
        self, memory_db: shoal.Database, kv: shoal.KVStore, run: str, read: Callable[[Any], Any]
    ) -> None:
        """A key that was read and is deleted is a conflict."""
        kv.put(run, "k", 1)
        error = interleaved(memory_db, run, read, lambda other: other.delete(run, "k"))
        assert error.key == "k"

    def test_put_of_the_same_value_and_back(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """Versions count, not values: deleted and put again as it was is a conflict (no ABA)."""

        def there_and_back(other: KVStore) -> None:
            other.delete(run, "k")
            other.put(run, "k", 1)

        kv.put(run, "k", 1)
        assert interleaved(memory_db, run, lambda view: view.get("k"), there_and_back).key == "k"

    @pytest.mark.parametrize("outside", ["j", "l", "k", "ka0", "kb"])
    def test_a_change_outside_the_range_is_none(
        self, memory_db: shoal.Database, kv: shoal.KVStore, run: str, outside: str
    ) -> None:
        """A scan of a prefix conflicts with keys of that prefix and with no other."""
        with memory_db.transaction(run) as txn:
            assert txn.kv.list("ka/") == []
            txn.kv.put("outcome", 1)
            kv.put(run, outside, 1)
            kv.put(run + "-other", "ka/1", 1)
        assert kv.get(run, "outcome") == 1

    def test_a_delete_of_nothing_is_no_change(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """Somebody's delete of an absent key changes nothing, so a reader of it does not conflict."""
        with memory_db.transaction(run) as txn:
            assert txn.kv.get("k") is None
            txn.kv.put("outcome", 1)
            assert kv.delete(run, "k") is False
        assert kv.get(run, "outcome") == 1

    def test_phantom_between_present_keys(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """A key that appears between those a scan saw is a conflict naming that key."""
        kv.put(run, "p/1", 1)
        kv.put(run, "p/3", 3)
        error = interleaved(memory_db, run, lambda view: view.list("p/"), lambda other: other.put(run, "p/2", 2))
        assert error.key == "p/2"

    def test_write_skew_is_impossible(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """Two that each read what the other writes: one commits, one conflicts (strictly serializable)."""
        kv.put(run, "a", 1)
        kv.put(run, "b", 1)
        with pytest.raises(ConflictError) as caught, memory_db.transaction(run) as first:
            with memory_db.transaction(run) as second:
                assert first.kv.get("a") + first.kv.get("b") == 2
                assert second.kv.get("a") + second.kv.get("b") == 2
                second.kv.put("b", 0)
            first.kv.put("a", 0)
        assert caught.value.key == "b"
        assert kv.list_with_values(run) == [("a", 1), ("b", 0)]

    def test_blind_writes_never_conflict(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """A transaction that only puts commits whatever others do; the last commit wins."""
        with memory_db.transaction(run) as txn:
            txn.kv.put("k", "mine")
            assert txn.kv.get("k") == "mine"  # of itself, not of the store
            kv.put(run, "k", "theirs")
        assert kv.get(run, "k") == "mine"

    def test_read_only_transactions_never_conflict(
        self, memory_db: shoal.Database, kv: shoal.KVStore, run: str
    ) -> None:
        """A transaction that wrote nothing commits whatever changed; its version is its snapshot's."""
        kv.put(run, "k", 1)
        with memory_db.transaction(run) as txn:
            assert txn.kv.get("k") == 1
            assert txn.kv.list() == ["k"]
            before = memory_db.info().commit_version
            kv.put(run, "k", 2)
            assert txn.kv.get("k") == 1
        assert txn.version <= before
        engine: Any = txn._engine
        assert txn.version == engine.snapshot

    def test_old_snapshot_with_fresh_reads(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """A conflict is found however many commits came between."""
        kv.put(run, "k", 0)

        def meanwhile(other: KVStore) -> None:
            other.put(run, "k", 1)
            for number in range(limits.RECLAIM_EVERY + 100):
                other.put(run, f"other/{number % 7}", number)

        assert interleaved(memory_db, run, lambda view: view.get("k"), meanwhile).key == "k"


class TestTransact:
    def test_returns_what_fn_returns(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """The value of fn is the value of transact, and what it wrote is committed."""
        marker = object()

        def fn(txn: shoal.Transaction) -> Any:
            txn.kv.put("k", 1)
            return marker

        assert memory_db.transact(run, fn) is marker
        assert kv.get(run, "k") == 1

    @pytest.mark.parametrize("retries", [0, 1, 3])
    def test_runs_retries_plus_one_times_at_most(
        self, memory_db: shoal.Database, kv: shoal.KVStore, run: str, retries: int
    ) -> None:
        """fn runs once and ``retries`` more times, then the last ConflictError comes out."""
        runs = []

        def fn(txn: shoal.Transaction) -> None:
            runs.append(txn.kv.get("k"))
            txn.kv.put("outcome", 1)
            kv.put(run, "k", len(runs))

        with pytest.raises(ConflictError) as caught:
            memory_db.transact(run, fn, retries=retries)
        assert runs == [None, *range(1, retries + 1)]
        assert caught.value.key == "k"
        assert kv.get(run, "outcome") is None

    @pytest.mark.long
    def test_default_is_100_more(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """Without retries= there are 101 runs."""
        runs = []

        def fn(txn: shoal.Transaction) -> None:
            runs.append(txn.kv.get("k"))
            txn.kv.put("outcome", 1)
            kv.put(run, "k", len(runs))

        with pytest.raises(ConflictError):
            memory_db.transact(run, fn)
        assert len(runs) == 101

    def test_stops_at_the_first_success(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """It runs again until it commits, each time on a fresh snapshot, and no more."""
        runs = []

        def fn(txn: shoal.Transaction) -> None:
            runs.append(txn.kv.get("k", 0))
            txn.kv.put("outcome", runs[-1])
            if len(runs) < 3:
                kv.increment(run, "k")

        memory_db.transact(run, fn)
        assert runs == [0, 1, 2]
        assert kv.get(run, "outcome") == 2

    @pytest.mark.parametrize("error", [ValueError("x"), shoal.NotFoundError("x"), KeyboardInterrupt()], ids=repr)
    def test_an_exception_comes_out_at_once(
        self, memory_db: shoal.Database, kv: shoal.KVStore, run: str, error: BaseException
    ) -> None:
        """What fn raises is raised, the same object, after one run, with nothing written."""
        runs = []

        def fn(txn: shoal.Transaction) -> None:
            runs.append(1)
            txn.kv.put("k", 1)
            raise error

        with pytest.raises(type(error)) as caught:
            memory_db.transact(run, fn)
        assert caught.value is error
        assert len(runs) == 1
        assert kv.get(run, "k") is None

    @pytest.mark.parametrize("retries", [-1, 1.5, None, True])
    def test_bad_retries(self, memory_db: shoal.Database, run: str, retries: Any) -> None:
        """A count that is none is refused before fn runs."""
        with pytest.raises(ValueError, match="retries is"):
            memory_db.transact(run, lambda txn: pytest.fail("fn ran"), retries=retries)

    def test_contended_threads_all_get_through(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """Read-modify-writes of several threads on one key are as if they came one after the other."""

        def add() -> None:
            for _ in range(25):
                memory_db.transact(run, lambda txn: txn.kv.put("n", txn.kv.get("n", 0) + 1), retries=1000)

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert kv.get(run, "n") == 100
