"""Expiry: seconds or timedelta, absent everywhere afterwards, swept in the background."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.support.present import present

SHORT = 0.03


def let_it_expire() -> None:
    """Return when a ttl of SHORT, given before the call, has passed on the wall clock."""
    until_ms = time.time_ns() // 1_000_000 + round(SHORT * 1000) + 2
    while (now_ms := time.time_ns() // 1_000_000) < until_ms:
        time.sleep((until_ms - now_ms) / 1000)


class TestTtlValue:
    def test_seconds_left(self, kv: shoal.KVStore, run: str) -> None:
        """ttl() is above 0 and at most what was given, None without one and for an absent key."""
        kv.put(run, "k", 1, ttl=100)
        assert 0 < present(kv.ttl(run, "k")) <= 100
        kv.put(run, "forever", 1)
        assert kv.ttl(run, "forever") is None
        assert kv.ttl(run, "absent") is None

    def test_timedelta_and_fraction(self, kv: shoal.KVStore, run: str) -> None:
        """A timedelta, an int and a float are all a ttl; put_with_ttl is put with one."""
        kv.put(run, "delta", 1, ttl=timedelta(hours=1))
        kv.put_with_ttl(run, "fraction", 2, 1800.5)
        kv.put_with_ttl(run, "other", 3, timedelta(days=2))
        assert 3500 < present(kv.ttl(run, "delta")) <= 3600
        assert 1700 < present(kv.ttl(run, "fraction")) <= 1800.5
        assert 172_000 < present(kv.ttl(run, "other")) <= 172_800
        assert kv.get(run, "fraction") == 2

    def test_value_is_not_wrapped(self, kv: shoal.KVStore, run: str) -> None:
        """A value with a ttl reads as any other, in get and in list_with_values."""
        kv.put(run, "k", {"a": [1]}, ttl=100)
        assert kv.get(run, "k") == {"a": [1]}
        assert kv.list_with_values(run) == [("k", {"a": [1]})]

    def test_a_later_put_without_ttl_is_permanent(self, kv: shoal.KVStore, run: str) -> None:
        """put without ttl makes a key permanent: it outlives its old moment."""
        kv.put(run, "k", 1, ttl=SHORT)
        kv.put(run, "k", 2)
        assert kv.ttl(run, "k") is None
        let_it_expire()
        assert kv.get(run, "k") == 2

    def test_a_later_ttl_replaces_the_first(self, kv: shoal.KVStore, run: str) -> None:
        """The last put's ttl is the one that counts, longer or shorter."""
        kv.put(run, "longer", 1, ttl=SHORT)
        kv.put(run, "longer", 2, ttl=100)
        kv.put(run, "shorter", 1, ttl=100)
        kv.put(run, "shorter", 2, ttl=SHORT)
        let_it_expire()
        assert kv.get(run, "longer") == 2
        assert kv.exists(run, "shorter") is False

    @pytest.mark.parametrize(
        "ttl", [0, 0.0, -1, -0.5, math.nan, -math.inf, timedelta(0), timedelta(seconds=-1)], ids=repr
    )
    def test_nothing_or_less_is_a_value_error(self, kv: shoal.KVStore, run: str, ttl: Any) -> None:
        """ttl <= 0 (or one that is no time) is ValueError naming the value, before anything is written."""
        with pytest.raises(ValueError, match="ttl is"):
            kv.put(run, "k", 1, ttl=ttl)
        with pytest.raises(ValueError, match="ttl is"):
            kv.put_with_ttl(run, "k", 1, ttl)
        assert not kv.exists(run, "k")

    @pytest.mark.parametrize("ttl", ["1", [1], True, b"1"], ids=repr)
    def test_another_type_is_a_type_error(self, kv: shoal.KVStore, run: str, ttl: Any) -> None:
        """A ttl that is no number and no timedelta is TypeError naming the type."""
        with pytest.raises(TypeError, match=f"ttl has type {type(ttl).__name__}"):
            kv.put(run, "k", 1, ttl=ttl)
        assert not kv.exists(run, "k")

    def test_put_with_ttl_wants_one(self, kv: shoal.KVStore, run: str) -> None:
        """put_with_ttl without a ttl is TypeError."""
        with pytest.raises(TypeError):
            kv.put_with_ttl(run, "k", 1, None)  # type: ignore[arg-type]  # it is refused

    def test_increment_keeps_the_ttl(self, kv: shoal.KVStore, run: str) -> None:
        """A counter with a ttl still expires after it was incremented."""
        kv.put(run, "n", 1, ttl=100)
        assert kv.increment(run, "n") == 2
        assert 0 < present(kv.ttl(run, "n")) <= 100


class TestExpired:
    def test_reads_as_absent_everywhere(self, kv: shoal.KVStore, run: str) -> None:
        """After expiry get, exists, ttl, list, list_with_values and delete say that there is nothing."""
        kv.put(run, "gone", 1, ttl=SHORT)
        kv.put(run, "stays", 2)
        let_it_expire()
        assert kv.get(run, "gone", "default") == "default"
        assert kv.exists(run, "gone") is False
        assert kv.ttl(run, "gone") is None
        assert kv.list(run) == ["stays"]
        assert kv.list(run, "gone") == []
        assert kv.list_with_values(run) == [("stays", 2)]
        assert kv.delete(run, "gone") is False

    def test_increment_begins_anew(self, kv: shoal.KVStore, run: str) -> None:
        """An expired counter counts as 0, and the new one is permanent."""
        kv.put(run, "n", 41, ttl=SHORT)
        let_it_expire()
        assert kv.increment(run, "n") == 1
        assert kv.ttl(run, "n") is None

    def test_put_after_expiry(self, kv: shoal.KVStore, run: str) -> None:
        """An expired key can be put again, and stays."""
        kv.put(run, "k", 1, ttl=SHORT)
        let_it_expire()
        kv.put(run, "k", 2)
        assert kv.list_with_values(run) == [("k", 2)]

    def test_inside_transactions(self, memory_db: shoal.Database, kv: shoal.KVStore, run: str) -> None:
        """A transaction and a snapshot begun after expiry see nothing of the key, and delete says so."""
        kv.put(run, "k", 1, ttl=SHORT)
        let_it_expire()
        with memory_db.snapshot(run) as view:
            assert view.kv.get("k") is None
            assert view.kv.list() == []

        def look(txn: shoal.Transaction) -> Any:
            return txn.kv.get("k"), txn.kv.exists("k"), txn.kv.list(), txn.kv.delete("k"), txn.kv.increment("k")

        assert memory_db.transact(run, look) == (None, False, [], False, 1)

    def test_own_write_in_a_transaction_has_its_ttl(
        self, memory_db: shoal.Database, kv: shoal.KVStore, run: str
    ) -> None:
        """A put with ttl inside a transaction reads back with ttl(), and has it after the commit."""
        with memory_db.transaction(run) as txn:
            txn.kv.put("k", 1, ttl=100)
            txn.kv.put_with_ttl("l", 1, timedelta(seconds=50))
            assert 0 < present(txn.kv.ttl("k")) <= 100
            assert 0 < present(txn.kv.ttl("l")) <= 50
            txn.kv.put("l", 2)
            assert txn.kv.ttl("l") is None
        assert 0 < present(kv.ttl(run, "k")) <= 100
        assert kv.ttl(run, "l") is None

    def test_commit_after_what_was_read_has_expired_conflicts(
        self, memory_db: shoal.Database, kv: shoal.KVStore, run: str
    ) -> None:
        """What a transaction read must still hold at commit: a key that expired meanwhile is a conflict."""
        kv.put(run, "k", 1, ttl=0.25)
        with pytest.raises(shoal.ConflictError) as caught, memory_db.transaction(run) as txn:
            assert txn.kv.get("k") == 1
            txn.kv.put("seen", True)
            deadline = time.monotonic() + 10
            while kv.exists(run, "k"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert caught.value.key == "k"
        assert kv.get(run, "seen") is None

    def test_sweeping_what_was_found_expired_is_no_conflict(
        self, memory_db: shoal.Database, kv: shoal.KVStore, run: str
    ) -> None:
        """Who found a key expired, and so absent, commits: the sweeper's deletion of it changes nothing."""
        kv.put(run, "k", 1, ttl=SHORT)
        with memory_db.transaction(run) as txn:
            txn.kv.put("seen", True)
            let_it_expire()
            assert txn.kv.get("k") is None
            assert txn.kv.list() == ["seen"]
            begun, deadline = memory_db.info().commit_version, time.monotonic() + 15
            while memory_db.info().commit_version == begun:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert kv.list(run) == ["seen"]

    @pytest.mark.long
    def test_sweeper_reclaims(self, store: Path) -> None:
        """Expired keys are deleted by themselves: info().keys goes down to what is alive, and check() is clean."""
        with shoal.open(store, durability="memory", linger=0.2) as db:
            with db.transaction("r") as txn:
                for number in range(600):
                    txn.kv.put(f"short/{number}", b"x" * 100, ttl=SHORT)
                txn.kv.put("long", 1, ttl=1000)
                txn.kv.put("forever", 1)
            deadline = time.monotonic() + 15
            while (keys := db.info().keys) != 2:
                assert time.monotonic() < deadline, f"{keys} keys left, 2 are alive"
                time.sleep(0.01)
            assert db.info().commit_version > txn.version == 1
            assert shoal.KVStore(db).list("r") == ["forever", "long"]
            assert db.check() == []

    @pytest.mark.long
    def test_expiry_outlives_a_restart(self, store: Path, wait_for_end: Callable[[int], None]) -> None:
        """A ttl is a moment: it is the same after a restart, and what expired meanwhile is absent."""
        with shoal.open(store, linger=0.05) as db:
            pid = db.info().coordinator_pid
            kv = shoal.KVStore(db)
            kv.put("r", "long", 1, ttl=1000)
            kv.put("r", "short", 1, ttl=SHORT)
            before = kv.ttl("r", "long")
        wait_for_end(pid)
        let_it_expire()
        with shoal.open(store, linger=0.05) as db:
            kv = shoal.KVStore(db)
            assert 0 < present(kv.ttl("r", "long")) <= present(before)
            assert kv.list("r") == ["long"]
            assert db.check() == []
