"""Acceptance of ``KVStore``. Each test is a line of docs/acceptance.md."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import time

import pytest

import shoal
from shoal import Namespace, TraceType
from shoal.primitives.keys import after
from shoal.primitives.rules.tags import Tag
from tests.support.present import present

DB = shoal.Database


def test_04_new_creates_instance(memory_db: DB) -> None:
    """``KVStore`` takes a database and, if wanted, a namespace; anything else is refused."""
    assert shoal.KVStore(memory_db).namespace == Namespace()
    assert shoal.KVStore(memory_db, namespace=Namespace("acme")).namespace.tenant == "acme"
    with pytest.raises(TypeError, match=r"shoal\.open"):
        shoal.KVStore(None)


def test_04_multiple_instances_coexist(memory_db: DB, run: str) -> None:
    """Facades keep nothing: what one ``KVStore`` writes, every other one reads."""
    one, other = shoal.KVStore(memory_db), shoal.KVStore(memory_db)
    one.put(run, "k", 1)
    other.put(run, "k", other.get(run, "k") + 1)
    assert one.get(run, "k") == 2


def test_04_namespace_of_a_run(memory_db: DB, run: str) -> None:
    """A run's keys lie in the facade's namespace and nowhere else."""
    here, there = Namespace(agent="a"), Namespace(agent="b")
    shoal.KVStore(memory_db, namespace=here).put(run, "k", 1)
    for namespace, expected in ((here, 1), (there, 0), (Namespace(), 0)):
        prefix = namespace._run_prefix(run)
        assert len(list(memory_db._store.auto_commit.scan(prefix, after(prefix)))) == expected


def test_04_key_has_the_tag_of_kv(memory_db: DB, kv: shoal.KVStore, run: str) -> None:
    """A key is stored under namespace, run, the tag of KV and the user's key."""
    kv.put(run, "user", "value")
    assert memory_db._store.auto_commit.find(Namespace()._run_prefix(run) + bytes((Tag.KV,)) + b"user") is not None


def test_05_put_stores_value(kv: shoal.KVStore, run: str) -> None:
    """``put`` writes a value, and replaces the one that is there."""
    kv.put(run, "k", 1)
    kv.put(run, "k", {"two": [2]})
    assert kv.list_with_values(run) == [("k", {"two": [2]})]


def test_05_get_retrieves_stored_value(kv: shoal.KVStore, run: str) -> None:
    """``get`` returns what was put, with its type."""
    for value in (None, True, 1, 1.0, "text", b"raw", [1, [2]], {"a": {"b": None}}):
        kv.put(run, "k", value)
        assert (kv.get(run, "k"), type(kv.get(run, "k"))) == (value, type(value))


def test_05_get_returns_none_for_missing_key(kv: shoal.KVStore, run: str) -> None:
    """``get`` of a missing key returns None, or the default that was given."""
    assert kv.get(run, "missing") is None
    assert kv.get(run, "missing", "default") == "default"


def test_05_delete_removes_key(kv: shoal.KVStore, run: str) -> None:
    """``delete`` removes the key it names and says whether it was there."""
    kv.put(run, "k", 1)
    kv.put(run, "kept", 2)
    assert [kv.delete(run, "k"), kv.delete(run, "k")] == [True, False]
    assert kv.list(run) == ["kept"]


def test_05_get_returns_none_after_delete(kv: shoal.KVStore, run: str) -> None:
    """A deleted key reads as absent until it is put again."""
    kv.put(run, "k", 1)
    kv.delete(run, "k")
    assert kv.get(run, "k") is None
    assert not kv.exists(run, "k")
    kv.put(run, "k", 2)
    assert kv.get(run, "k") == 2


def test_05_put_with_ttl_stores_expiration(kv: shoal.KVStore, run: str) -> None:
    """A value put with a time to live reads back with the time left; afterwards the key is absent everywhere."""
    kv.put_with_ttl(run, "long", {"v": 1}, 60)
    assert kv.get(run, "long") == {"v": 1}
    assert 0 < present(kv.ttl(run, "long")) <= 60
    kv.put_with_ttl(run, "short", 1, 0.02)
    give_up = time.monotonic() + 10
    while kv.exists(run, "short") and time.monotonic() < give_up:
        time.sleep(0.005)
    assert (kv.get(run, "short"), kv.ttl(run, "short"), kv.list(run)) == (None, None, ["long"])


def test_05_runs_do_not_see_each_others_keys(kv: shoal.KVStore, run: str) -> None:
    """The same key in two runs is two keys, for reads, writes and deletes."""
    other = f"{run}-other"
    kv.put(run, "k", "mine")
    assert kv.get(other, "k") is None
    kv.put(other, "k", "theirs")
    assert kv.get(run, "k") == "mine"
    kv.delete(other, "k")
    assert kv.get(run, "k") == "mine"


def test_06_multi_key_put_is_atomic(memory_db: DB, kv: shoal.KVStore, run: str) -> None:
    """Puts of one transaction appear together, at one version."""
    before = memory_db.snapshot(run)
    with kv.transaction(run) as txn:
        for i in range(20):
            txn.kv.put(f"k{i}", i)
        assert kv.list(run) == []
    assert len(kv.list(run)) == 20
    assert before.kv.list() == []
    before.close()


def test_06_multi_key_delete_is_atomic(memory_db: DB, kv: shoal.KVStore, run: str) -> None:
    """Deletes of one transaction take effect together."""
    for i in range(20):
        kv.put(run, f"k{i}", i)
    before = memory_db.snapshot(run)
    with kv.transaction(run) as txn:
        assert all(txn.kv.delete(f"k{i}") for i in range(20))
        assert len(kv.list(run)) == 20
    assert kv.list(run) == []
    assert len(before.kv.list()) == 20
    before.close()


def test_06_transaction_rolls_back_on_error(kv: shoal.KVStore, run: str) -> None:
    """An exception in a transaction writes nothing and reaches the caller as it is."""
    kv.put(run, "kept", 1)
    with pytest.raises(RuntimeError), kv.transaction(run) as txn:
        txn.kv.put("new", 1)
        txn.kv.put("kept", 2)
        txn.kv.delete("kept")
        raise RuntimeError
    assert kv.list_with_values(run) == [("kept", 1)]


def test_06_reads_its_own_writes(kv: shoal.KVStore, run: str) -> None:
    """A transaction sees what it has written and deleted, in every kind of read."""
    kv.put(run, "old", 0)
    with kv.transaction(run) as txn:
        txn.kv.put("a", 1)
        txn.kv.put("a", 2)
        txn.kv.delete("old")
        assert (txn.kv.get("a"), txn.kv.exists("old")) == (2, False)
        assert txn.kv.increment("a") == 3
        assert txn.kv.list_with_values() == [("a", 3)]
    assert kv.list_with_values(run) == [("a", 3)]


def test_07_list_returns_all_keys(kv: shoal.KVStore, run: str) -> None:
    """``list`` returns every key once, sorted as Python sorts strings."""
    keys = ["b", "a", "a/b", "__idx_", "\0", "é", "🦀"]
    for key in keys:
        kv.put(run, key, 1)
    assert kv.list(run) == sorted(keys)


def test_07_list_with_prefix_filters(kv: shoal.KVStore, run: str) -> None:
    """``list`` with a prefix returns the keys that begin with it, the one that equals it included."""
    keys = ["task", "task/1", "task/2", "tasks", "tas", "other"]
    for key in keys:
        kv.put(run, key, 1)
    for prefix in ("task", "task/", "t", "other", "x"):
        assert kv.list(run, prefix) == sorted(key for key in keys if key.startswith(prefix))


def test_07_list_with_values_returns_pairs(kv: shoal.KVStore, run: str) -> None:
    """``list_with_values`` returns keys with their values, sorted by key."""
    kv.put(run, "b", [2])
    kv.put(run, "a", 1)
    kv.put(run, "c", None)
    assert kv.list_with_values(run) == [("a", 1), ("b", [2]), ("c", None)]
    assert kv.list_with_values(run, "b") == [("b", [2])]


def test_07_empty_list_when_no_keys_match(kv: shoal.KVStore, run: str) -> None:
    """``list`` returns an empty list if no key has the prefix, or if there is no key."""
    assert (kv.list(run), kv.list_with_values(run)) == ([], [])
    kv.put(run, "a", 1)
    assert (kv.list(run, "b"), kv.list_with_values(run, "aa")) == ([], [])


def test_07_runs_are_apart_in_list(kv: shoal.KVStore, run: str) -> None:
    """``list`` shows the run's own keys, also next to runs whose names begin alike."""
    for name in (run, f"{run}a", f"{run}\x01"):
        kv.put(name, "a", name)
    assert kv.list(run) == ["a"]
    assert kv.list_with_values(run) == [("a", run)]


def _others(txn: shoal.Transaction) -> None:
    txn.events.append("e", 1)
    txn.state.set("cell", 1)
    txn.traces.record(TraceType.Thought("t"))


def _counts(db: DB, run: str) -> tuple[int, list[str], int]:
    return shoal.EventLog(db).len(run), shoal.StateCell(db).list(run), shoal.TraceStore(db).count(run)


def test_08_get_in_a_cross_primitive_transaction(memory_db: DB, kv: shoal.KVStore, run: str) -> None:
    """``txn.kv.get`` reads beside the other primitives, and its reads are validated with theirs."""
    kv.put(run, "k", 1)
    with pytest.raises(shoal.ConflictError), memory_db.transaction(run) as txn:
        _others(txn)
        assert txn.kv.get("k") == 1
        kv.put(run, "k", 2)
    assert _counts(memory_db, run) == (0, [], 0)


def test_08_put_in_a_cross_primitive_transaction(memory_db: DB, kv: shoal.KVStore, run: str) -> None:
    """``txn.kv.put`` commits with the other primitives."""
    with memory_db.transaction(run) as txn:
        _others(txn)
        txn.kv.put("k", 1)
    assert kv.get(run, "k") == 1
    assert _counts(memory_db, run) == (1, ["cell"], 1)


def test_08_delete_in_a_cross_primitive_transaction(memory_db: DB, kv: shoal.KVStore, run: str) -> None:
    """``txn.kv.delete`` commits with the other primitives."""
    kv.put(run, "k", 1)
    with memory_db.transaction(run) as txn:
        assert txn.kv.delete("k") is True
        _others(txn)
    assert not kv.exists(run, "k")
    assert _counts(memory_db, run) == (1, ["cell"], 1)


def test_08_kv_and_other_primitives_are_atomic(memory_db: DB, kv: shoal.KVStore, run: str) -> None:
    """A transaction that fails after it wrote to every primitive leaves nothing in any of them."""
    with pytest.raises(shoal.NotFoundError), memory_db.transaction(run) as txn:
        txn.kv.put("k", 1)
        _others(txn)
        txn.state.cas("never", 1, 2)
    assert kv.list(run) == []
    assert _counts(memory_db, run) == (0, [], 0)
