"""What a store says about itself, and a backup that opens as a store of its own: section 1 of the contract."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import shoal
from shoal import KVStore
from tests.support.present import present


class TestInfo:
    def test_fields(self, store: Path) -> None:
        """info() tells path, durability, coordinator, version, keys, bytes, clients and whether it is compiled."""
        with shoal.open(store, durability="memory", linger=0.1) as db:
            info = db.info()
            assert isinstance(info, shoal.StoreInfo)
            assert (info.path, info.durability) == (str(store), "memory")
            assert info.coordinator_pid not in (0, os.getpid())
            os.kill(info.coordinator_pid, 0)
            assert (info.commit_version, info.keys, info.clients) == (0, 0, 1)
            assert type(info.compiled) is bool
            kv = KVStore(db)
            kv.put("r", "a", b"x" * 100_000)
            kv.put("r", "b", 1)
            kv.put("r", "a", b"x" * 100_000)
            kv.put("other", "c", 1)
            kv.delete("r", "b")
            later = db.info()
            assert later.commit_version >= 5  # the coordinator makes some, too
            assert later.keys == 2
            assert later.bytes_used > info.bytes_used + 100_000
            assert later.coordinator_pid == info.coordinator_pid

    def test_clients_come_and_go(self, store: Path) -> None:
        """clients counts what is attached now."""
        with shoal.open(store, durability="memory", linger=0.1) as db:
            with shoal.open(store), shoal.open(store):
                assert db.info().clients == 3
            for _ in range(2000):  # the coordinator hears of it a moment later; each turn is a commit it answers
                if db.info().clients == 1:
                    break
                KVStore(db).put("r", "k", 1)
            assert db.info().clients == 1

    @pytest.mark.long
    def test_check_is_clean(self, db: shoal.Database) -> None:
        """check() of a store that was used is an empty list."""
        assert db.check() == []
        kv = KVStore(db)
        for number in range(700):
            kv.put("r", f"{number % 50}", b"x" * (number % 300), ttl=100 if number % 3 else None)
        for number in range(0, 50, 2):
            kv.delete("r", str(number))
        assert db.check() == []


class TestBackup:
    @pytest.mark.long
    def test_opens_and_equals(self, db: shoal.Database, tmp_path: Path) -> None:
        """A backup opens as a store of its own, with every run, key and version as it was at that moment."""
        kv = KVStore(db)
        with db.transaction("r") as txn:
            for number in range(300):
                txn.kv.put(f"{number:03}", {"n": number, "raw": b"x" * number})
            txn.on("other").kv.put("🦀", None)
        kv.put("r", "ttl", 1, ttl=1000)
        kv.delete("r", "007")
        kv.increment("r", "n", 5)
        expected = kv.list_with_values("r")
        version = db.info().commit_version
        db.backup(tmp_path / "copy")
        kv.put("r", "after", 1)
        with shoal.open(tmp_path / "copy", linger=0.05) as copy:
            copied = KVStore(copy)
            assert copied.list_with_values("r") == expected
            assert copied.list_with_values("other") == [("🦀", None)]
            assert 0 < present(copied.ttl("r", "ttl")) <= 1000
            assert copy.info().keys == len(expected) + 1
            assert copy.info().commit_version >= version
            assert copy.check() == []
            copied.put("r", "only here", 1)
        assert kv.get("r", "only here") is None
        assert kv.get("r", "after") == 1

    @pytest.mark.long
    def test_of_a_memory_store(self, store: Path, tmp_path: Path) -> None:
        """What a memory store holds can be kept by a backup, and an empty store can be backed up."""
        with shoal.open(store, durability="memory", linger=0.05) as db:
            db.backup(tmp_path / "empty")
            KVStore(db).put("r", "k", 1)
            db.backup(tmp_path / "copy")
        with shoal.open(tmp_path / "copy", linger=0.05) as copy:
            assert KVStore(copy).get("r", "k") == 1
        with shoal.open(tmp_path / "empty", linger=0.05) as empty:
            assert empty.info().keys == 0

    def test_does_not_touch_what_is_there(self, db: shoal.Database, tmp_path: Path) -> None:
        """A destination that is not empty is refused and left as it is."""
        dest = tmp_path / "copy"
        dest.mkdir()
        (dest / "mine").write_text("kept")
        with pytest.raises(shoal.AlreadyExistsError, match="copy"):
            db.backup(dest)
        assert [entry.name for entry in dest.iterdir()] == ["mine"]
