"""What ``shoal.primitives.engine`` promises to the five primitives, of every engine: the port itself, no primitive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import shoal
from shoal.primitives.rules import registry
from shoal.shm import codec
from shoal.shm.clock import now_ms
from shoal.shm.key_location_cache import KeyLocationCache
from tests.contract.conftest import contents


class TestAutoCommit:
    def test_every_call_is_committed(self, store: Any, prefix: bytes) -> None:
        """A write is there when it returns, in all ways of reading, and its version is greater than those before."""
        engine = store.auto_commit
        versions = []
        for value in (b"1", b"2"):
            engine.put(prefix + b"k", value)
            found = engine.find(prefix + b"k")
            assert (found.value, found.expires_ms) == (value, 0)
            assert engine.get_named(KeyLocationCache(prefix), "k") == value
            assert contents(engine, prefix) == {b"k": value}
            versions.append(found.version)
        assert versions[0] < versions[1] <= store.stats().commit_version
        engine.delete(prefix + b"k")
        assert engine.find(prefix + b"k") is None
        assert engine.get_named(KeyLocationCache(prefix), "k") is None

    def test_scans_are_in_order_and_of_one_moment(self, store: Any, prefix: bytes) -> None:
        """Lower bound included, upper excluded, in the order of bytes; a later commit is not in a scan that began."""
        engine = store.auto_commit
        for name in (b"b", b"", b"a\xff", b"a", b"a\0"):
            engine.put(prefix + name, name)
        scan = engine.scan(prefix, prefix + b"b")
        assert next(scan)[0] == prefix
        engine.put(prefix + b"aa", b"later")
        assert [key[len(prefix) :] for key, _ in scan] == [b"a", b"a\0", b"a\xff"]

    def test_clear(self, store: Any, prefix: bytes) -> None:
        """A range goes at once; what is written there afterwards stays."""
        engine = store.auto_commit
        for name in (b"a", b"b", b"c"):
            engine.put(prefix + name, b"v")
        engine.clear(prefix + b"a", prefix + b"c")
        assert contents(engine, prefix) == {b"c": b"v"}
        engine.put(prefix + b"a", b"again")
        assert contents(engine, prefix) == {b"a": b"again", b"c": b"v"}

    def test_expiry(self, store: Any, prefix: bytes) -> None:
        """A key reads as absent everywhere from its moment on."""
        engine = store.auto_commit
        engine.put(prefix + b"short", b"v", now_ms() + 100)
        engine.put(prefix + b"long", b"v", now_ms() + 3_600_000)
        assert engine.find(prefix + b"long").expires_ms > now_ms()
        deadline = time.monotonic() + 20
        while engine.find(prefix + b"short") is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert engine.get_named(KeyLocationCache(prefix), "short") is None
        assert contents(engine, prefix) == {b"long": b"v"}

    def test_operations_never_conflict(self, store: Any, prefix: bytes) -> None:
        """Threads that count in one key lose nothing."""
        engine, threads = store.auto_commit, []
        for _ in range(4):
            count = [registry.INCREMENT, [prefix + b"n", 1]]
            work = threading.Thread(target=lambda count=count: [engine.perform(*count) for _ in range(50)])
            threads.append(work)
            work.start()
        for thread in threads:
            thread.join()
        assert codec.decode(engine.find(prefix + b"n").value) == 200

    def test_what_an_operation_raises_writes_nothing(self, store: Any, prefix: bytes) -> None:
        """Its error comes back with type and arguments."""
        engine = store.auto_commit
        engine.put(prefix + b"there", b"v")
        with pytest.raises(shoal.AlreadyExistsError, match="is taken"):
            engine.perform(registry.INSERT, [prefix + b"there", "it is taken", [], [prefix + b"new", b"v"]])
        with pytest.raises(shoal.NotFoundError, match="no parent"):
            engine.perform(registry.INSERT, [prefix + b"x", "", [prefix + b"y", "no parent"], [prefix + b"x", b"v"]])
        assert contents(engine, prefix) == {b"there": b"v"}

    def test_wait_for(self, store: Any, prefix: bytes) -> None:
        """It looks at once, after commits, and once more when the time is up."""
        engine = store.auto_commit
        ranges = [(prefix + b"k", prefix + b"k\0")]
        assert engine.wait_for(lambda: "now", ranges, time.monotonic() - 1) == "now"
        assert engine.wait_for(lambda: None, ranges, time.monotonic() + 0.05) is None
        timer = threading.Timer(0.1, engine.put, (prefix + b"k", b"v"))
        timer.start()
        assert engine.wait_for(lambda: engine.find(prefix + b"k"), ranges, time.monotonic() + 30).value == b"v"
        timer.join()


class TestTransaction:
    def test_reads_stay_as_they_were(self, store: Any, prefix: bytes) -> None:
        """One snapshot for all reads, and its own writes on top of it."""
        engine = store.auto_commit
        for name in (b"a", b"b", b"c"):
            engine.put(prefix + name, b"old")
        view, transaction = store.begin(read_only=True), store.begin()
        transaction.put(prefix + b"a", b"mine")
        transaction.clear(prefix + b"b", prefix + b"c")
        transaction.put(prefix + b"bb", b"after the clear")
        transaction.delete(prefix + b"c")
        engine.put(prefix + b"a", b"new")
        engine.put(prefix + b"d", b"new")
        assert contents(transaction, prefix) == {b"a": b"mine", b"bb": b"after the clear"}
        assert [transaction.find(prefix + name) for name in (b"b", b"c", b"d")] == [None] * 3
        assert transaction.get_named(KeyLocationCache(prefix), "a") == b"mine"
        assert contents(view, prefix) == {b"a": b"old", b"b": b"old", b"c": b"old"}
        transaction.abandon()
        view.abandon()
        assert contents(engine, prefix) == {b"a": b"new", b"b": b"old", b"c": b"old", b"d": b"new"}

    def test_commits_all_or_nothing(self, store: Any, prefix: bytes) -> None:
        """Nothing is there before the commit, all of it after, with one version, which is the transaction's."""
        engine, transaction = store.auto_commit, store.begin()
        engine.put(prefix + b"gone", b"v")
        transaction.put(prefix + b"a", b"1")
        transaction.put(prefix + b"b", b"2")
        transaction.clear(prefix + b"g", prefix + b"h")  # also what was written since the snapshot
        assert transaction.version is None
        assert contents(engine, prefix) == {b"gone": b"v"}
        version = transaction.commit()
        assert contents(engine, prefix) == {b"a": b"1", b"b": b"2"}
        assert {engine.find(prefix + name).version for name in (b"a", b"b")} == {version} == {transaction.version}

    @pytest.mark.parametrize("changed", [b"a", b"absent", b"scanned/new", b"scanned/old"])
    def test_a_change_to_what_was_read_is_a_conflict(self, store: Any, prefix: bytes, changed: bytes) -> None:
        """Of keys, absent keys, and of what appears in, goes from or changes in a range; nothing is written."""
        engine = store.auto_commit
        engine.put(prefix + b"a", b"v")
        engine.put(prefix + b"scanned/old", b"v")
        transaction = store.begin()
        assert transaction.find(prefix + b"a") is not None
        assert transaction.find(prefix + b"absent") is None
        assert len(list(transaction.scan(prefix + b"scanned/", prefix + b"scanned0"))) == 1
        transaction.put(prefix + b"mine", b"v")
        if changed.endswith(b"old"):
            engine.clear(prefix + b"scanned/", prefix + b"scanned0")
        else:
            engine.put(prefix + changed, b"new")
        with pytest.raises(shoal.ConflictError) as caught:
            transaction.commit()
        assert caught.value.read_version < caught.value.found_version
        assert engine.find(prefix + b"mine") is None

    def test_what_does_not_conflict(self, store: Any, prefix: bytes) -> None:
        """Blind writes, reads alone, and what lies beyond the part of a range that was read."""
        engine = store.auto_commit
        for name in (b"a", b"b", b"c"):
            engine.put(prefix + name, b"v")
        blind, reading, partly = store.begin(), store.begin(), store.begin()
        blind.put(prefix + b"a", b"blind")
        assert len(contents(reading, prefix)) == 3
        scan = partly.scan(prefix, prefix + b"\xff")
        assert next(scan)[0] == prefix + b"a"
        scan.close()
        partly.put(prefix + b"z", b"partly")
        engine.put(prefix + b"b", b"changed")
        assert partly.commit() < blind.commit()
        assert reading.commit() < partly.version
        assert contents(engine, prefix) == {b"a": b"blind", b"b": b"changed", b"c": b"v", b"z": b"partly"}

    def test_operations_are_decided_at_once_and_validated(self, store: Any, prefix: bytes) -> None:
        """Their result is of the snapshot with own writes; a change since is a conflict."""
        engine, key = store.auto_commit, prefix + b"n"
        engine.perform(registry.INCREMENT, [key, 5])
        transaction, loser = store.begin(), store.begin()
        assert [transaction.perform(registry.INCREMENT, [key, 1]) for _ in range(2)] == [6, 7]
        assert loser.perform(registry.INCREMENT, [key, 1]) == 6
        transaction.commit()
        with pytest.raises(shoal.ConflictError):
            loser.commit()
        assert codec.decode(engine.find(key).value) == 7

    @pytest.mark.long
    def test_a_key_that_expires_meanwhile_is_a_conflict(self, store: Any, prefix: bytes) -> None:
        """What was read as live must be live at the commit."""
        store.auto_commit.put(prefix + b"k", b"v", now_ms() + 300)
        transaction = store.begin()
        if transaction.find(prefix + b"k") is None:
            pytest.skip("the machine is too busy: the key has expired already")
        transaction.put(prefix + b"mine", b"v")
        time.sleep(0.4)
        with pytest.raises(shoal.ConflictError):
            transaction.commit()

    def test_read_only(self, store: Any, prefix: bytes) -> None:
        """Its version is the snapshot's from the start; every write is refused."""
        store.auto_commit.put(prefix + b"k", b"v")
        view = store.begin(read_only=True)
        assert view.read_only
        assert view.version >= store.auto_commit.find(prefix + b"k").version
        write: Callable[[], object]
        for write in (
            lambda: view.put(prefix, b""),
            lambda: view.delete(prefix),
            lambda: view.clear(prefix, prefix + b"\xff"),
            lambda: view.perform(registry.DELETE, [prefix + b"k"]),
        ):
            with pytest.raises(shoal.InvalidOperationError):
                write()
        assert view.find(prefix + b"k").value == b"v"
        view.abandon()

    @pytest.mark.parametrize("end", ["commit", "abandon"])
    def test_the_end(self, store: Any, prefix: bytes, end: str) -> None:
        """No call is taken after it, but a second abandon."""
        transaction = store.begin()
        getattr(transaction, end)()
        for call in (
            lambda: transaction.find(prefix),
            lambda: next(transaction.scan(prefix, prefix + b"\xff")),
            lambda: transaction.put(prefix, b""),
            lambda: transaction.perform(registry.DELETE, [prefix]),
            transaction.commit,
        ):
            with pytest.raises(shoal.InvalidOperationError):
                call()
        transaction.abandon()
