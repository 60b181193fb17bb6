"""KVStore: section 3 of the contract, outside transactions, without ttl (test_ttl) and values (test_kv_values)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import shoal

WEIRD_KEYS = [
    "\0",
    "a\0b",
    "__idx_",
    "__idx_a",
    "a__b",
    "/",
    "//a/",
    "a/b/c",
    ":",
    "🦀",
    "🦀/🐟",
    "é",
    "\n",
    " ",
    "\uffff",
    "\U0010ffff",
    "k" * 1024,
    "é" * 512,
]


class TestKeys:
    @pytest.mark.parametrize("key", WEIRD_KEYS, ids=lambda key: ascii(key[:12]))
    def test_any_character_is_a_key(self, kv: shoal.KVStore, run: str, key: str) -> None:
        """A key of any characters, NUL and ``__idx_`` included, can be put, listed, found and deleted."""
        kv.put(run, key, key)
        assert kv.get(run, key) == key
        assert kv.list(run) == [key]
        assert kv.list(run, key) == [key]
        assert kv.delete(run, key) is True
        assert kv.list(run) == []

    def test_weird_keys_do_not_collide(self, kv: shoal.KVStore, run: str) -> None:
        """All of them at once are as many keys, listed sorted as Python sorts strings."""
        for number, key in enumerate(WEIRD_KEYS):
            kv.put(run, key, number)
        assert kv.list(run) == sorted(WEIRD_KEYS)
        assert dict(kv.list_with_values(run)) == {key: number for number, key in enumerate(WEIRD_KEYS)}

    @pytest.mark.parametrize("run_id", ["r", "\0", "__idx_", "a/b", "🦀", "x" * 128, "é" * 64], ids=ascii)
    def test_any_text_of_128_bytes_is_a_run_id(self, memory_db: shoal.Database, run_id: str) -> None:
        """Run ids are 1 to 128 bytes of UTF-8, any character."""
        kv = shoal.KVStore(memory_db, namespace=shoal.Namespace("any run id"))  # other tests have a run "r", too
        kv.put(run_id, "k", run_id)
        assert kv.list_with_values(run_id) == [("k", run_id)]
        assert kv.delete(run_id, "k")

    def test_runs_whose_names_run_into_each_other(self, kv: shoal.KVStore, run: str) -> None:
        """A run never sees the keys of one whose id is a prefix, or ends in what looks like a key."""
        runs = [run, run + "k", run + "\0", run + "\x01k", run + "/", run + "\x01"]
        for name in runs:
            kv.put(name, "k", name)
        for name in runs:
            assert kv.list_with_values(name) == [("k", name)]


class TestDeleteAndExists:
    def test_delete_says_whether_it_was_there(self, kv: shoal.KVStore, run: str) -> None:
        """True the first time, False the second, and the key is gone."""
        kv.put(run, "k", 1)
        assert kv.delete(run, "k") is True
        assert kv.delete(run, "k") is False
        assert kv.get(run, "k") is None
        assert kv.exists(run, "k") is False

    def test_delete_of_a_key_that_never_was(self, kv: shoal.KVStore, run: str) -> None:
        """False, and nothing is committed for it."""
        assert kv.delete(run, "never") is False

    def test_put_after_delete(self, kv: shoal.KVStore, run: str) -> None:
        """A deleted key can be put again."""
        kv.put(run, "k", 1)
        kv.delete(run, "k")
        kv.put(run, "k", 2)
        assert kv.get(run, "k") == 2
        assert kv.list(run) == ["k"]


class TestList:
    def test_sorted_whatever_the_order_of_writing(self, kv: shoal.KVStore, run: str) -> None:
        """list is sorted as Python sorts, list_with_values by key with each key's value."""
        keys = ["b", "a", "B", "aa", "a/", "a0", "🦀", "é", "z"]
        for key in keys:
            kv.put(run, key, key * 2)
        assert kv.list(run) == sorted(keys)
        assert kv.list_with_values(run) == [(key, key * 2) for key in sorted(keys)]

    def test_prefix_is_a_plain_prefix(self, kv: shoal.KVStore, run: str) -> None:
        """Prefix means str.startswith: no delimiter has a meaning, the prefix itself is included."""
        keys = ["task", "task/", "task/1", "task/10", "task/2", "tasks", "tas", "\uffff", "\uffff\uffff", "\U0010ffff"]
        for key in keys:
            kv.put(run, key, None)
        for prefix in ["", "t", "task", "task/", "task/1", "tasks", "x", "\uffff", "\U0010ffff", "task/1\0"]:
            expected = sorted(key for key in keys if key.startswith(prefix))
            assert kv.list(run, prefix) == expected
            assert kv.list_with_values(run, prefix) == [(key, None) for key in expected]

    def test_many_keys(self, kv: shoal.KVStore, run: str) -> None:
        """A thousand keys, put in one transaction and half of them deleted, list exactly."""
        with kv.transaction(run) as txn:
            for number in range(1000):
                txn.kv.put(f"{number:04}", number)
        with kv.transaction(run) as txn:
            for number in range(0, 1000, 2):
                assert txn.kv.delete(f"{number:04}")
        assert kv.list_with_values(run) == [(f"{number:04}", number) for number in range(1, 1000, 2)]
        assert kv.list(run, "01") == [f"{number:04}" for number in range(101, 200, 2)]

    def test_empty_run(self, kv: shoal.KVStore, run: str) -> None:
        """A run nothing was ever put in lists as empty."""
        assert kv.list(run) == []
        assert kv.list_with_values(run, "a") == []


class TestIncrement:
    def test_from_nothing_and_by_anything(self, kv: shoal.KVStore, run: str) -> None:
        """Absent counts as 0; the sum is returned and stored."""
        assert kv.increment(run, "n") == 1
        assert kv.increment(run, "n", 41) == 42
        assert kv.increment(run, "n", by=-50) == -8
        assert kv.increment(run, "n", 0) == -8
        assert kv.get(run, "n") == -8

    def test_of_what_was_put(self, kv: shoal.KVStore, run: str) -> None:
        """It adds to an int that was put, up to the largest."""
        kv.put(run, "n", 2**64 - 2)
        assert kv.increment(run, "n") == 2**64 - 1

    @pytest.mark.parametrize("value", ["1", 1.0, True, None, [1]], ids=repr)
    def test_of_anything_but_an_int_is_a_type_error(self, kv: shoal.KVStore, run: str, value: Any) -> None:
        """A value of another type is TypeError that names it, and stays as it is."""
        kv.put(run, "n", value)
        with pytest.raises(TypeError, match=type(value).__name__):
            kv.increment(run, "n")
        assert kv.get(run, "n") == value

    @pytest.mark.parametrize("by", [1.0, "1", None, True], ids=repr)
    def test_by_anything_but_an_int_is_a_type_error(self, kv: shoal.KVStore, run: str, by: Any) -> None:
        """A bad step is refused before anything is sent."""
        with pytest.raises(TypeError, match="by has type"):
            kv.increment(run, "n", by)
        assert not kv.exists(run, "n")

    @pytest.mark.parametrize(("start", "by"), [(2**64 - 1, 1), (-(2**63), -1), (2**64 - 1, 2**64 - 1)])
    def test_beyond_the_bounds_is_refused_and_the_store_goes_on(self, store: Path, start: Any, by: Any) -> None:
        """A sum shoal cannot store is LimitExceededError; the counter and the coordinator stay as they were."""
        with shoal.open(store, durability="memory", linger=0.2) as db:
            kv = shoal.KVStore(db)
            kv.put("r", "n", start)
            with pytest.raises(shoal.LimitExceededError):
                kv.increment("r", "n", by)
            assert kv.get("r", "n") == start

    def test_beyond_the_bounds_inside_a_transaction(self, memory_db: shoal.Database, run: str) -> None:
        """Inside a transaction the same sum is refused at once."""
        with memory_db.transaction(run) as txn:
            txn.kv.put("n", 2**64 - 1)
            with pytest.raises(shoal.LimitExceededError):
                txn.kv.increment("n")
            txn.kv.put("n", 5)
        assert memory_db.snapshot(run).kv.get("n") == 5


class TestNamespaces:
    def test_same_run_id_in_two_namespaces_is_two_runs(self, memory_db: shoal.Database, run: str) -> None:
        """Every part of a namespace keeps runs apart, also where parts run into each other."""
        spaces = [
            shoal.Namespace(),
            shoal.Namespace(tenant="a"),
            shoal.Namespace(app="a"),
            shoal.Namespace(agent="a"),
            shoal.Namespace(tenant="a", app="bc"),
            shoal.Namespace(tenant="ab", app="c"),
            shoal.Namespace(tenant="default/default", app="default"),
            shoal.Namespace(agent="\0"),
        ]
        for number, space in enumerate(spaces):
            shoal.KVStore(memory_db, namespace=space).put(run, "k", number)
        for number, space in enumerate(spaces):
            assert shoal.KVStore(memory_db, namespace=space).list_with_values(run) == [("k", number)]

    def test_transactions_and_snapshots_take_a_namespace(self, memory_db: shoal.Database, run: str) -> None:
        """transaction, transact and snapshot use the namespace named; a facade's transaction its own; on() the same."""
        space = shoal.Namespace(tenant="acme")
        kv = shoal.KVStore(memory_db, namespace=space)
        with memory_db.transaction(run, namespace=space) as txn:
            txn.kv.put("a", 1)
            txn.on(run + "-other").kv.put("b", 2)
        memory_db.transact(run, lambda txn: txn.kv.put("c", 3), namespace=space)
        with kv.transaction(run) as txn:
            txn.kv.put("d", 4)
        assert kv.list(run) == ["a", "c", "d"]
        assert kv.list(run + "-other") == ["b"]
        with memory_db.snapshot(run, namespace=space) as view:
            assert view.kv.list() == ["a", "c", "d"]
        assert shoal.KVStore(memory_db).list(run) == []

    def test_default_namespace(self) -> None:
        """Namespace() is default, default, default; equal parts are equal namespaces."""
        space = shoal.Namespace()
        assert (space.tenant, space.app, space.agent) == ("default", "default", "default")
        assert space == shoal.Namespace(tenant="default", app="default", agent="default")
        assert hash(space) == hash(shoal.Namespace())
        assert space != shoal.Namespace(agent="other")


class TestFacade:
    def test_any_number_of_facades_see_the_same(self, memory_db: shoal.Database, run: str) -> None:
        """A facade holds nothing: what one wrote another reads."""
        shoal.KVStore(memory_db).put(run, "k", 1)
        assert shoal.KVStore(memory_db).get(run, "k") == 1

    def test_of_something_else_is_a_type_error(self, memory_db: shoal.Database) -> None:
        """A facade wants a database and a Namespace, and says what it got."""
        with pytest.raises(TypeError, match="type str"):
            shoal.KVStore("fleet.db")
        with pytest.raises(TypeError, match="type str"):
            shoal.KVStore(memory_db, namespace="acme")  # type: ignore[arg-type]  # it is refused
