"""What the primitives do to each other in a transaction, over every engine."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import shoal
from shoal import ConflictError, RunStatus, TraceType
from tests.contract.primitives.conftest import Stores
from tests.contract.toy_engine import ToyStore
from tests.support.present import present

THOUGHT = TraceType.Thought("so")


def in_threads(count: int, work: Callable[[int], object]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


class TestTransactions:
    def test_all_primitives_commit_together(self, of: Stores) -> None:
        """Nothing is there before the end, all of it with one version afterwards, on other runs as well."""
        with of.transaction() as txn:
            txn.runs.create_run(run_id="r")
            txn.kv.put("k", 1)
            assert txn.events.append("e", 1).sequence == 0
            assert txn.state.init("c", 1) == 1
            trace = txn.traces.record(THOUGHT)
            txn.on("other").kv.put("k", 2)
            assert (of.kv.list("r"), of.events.len("r"), of.runs.list_runs()) == ([], 0, [])
        assert (of.kv.get("r", "k"), of.kv.get("other", "k"), of.events.len("r")) == (1, 2, 1)
        assert (present(of.state.read("r", "c")).value, present(of.traces.get("r", trace)).trace_type) == (1, THOUGHT)
        assert present(of.runs.get_run("r")).status is RunStatus.Active
        assert txn.version <= of.db.info().commit_version

    def test_an_exception_writes_nothing(self, of: Stores) -> None:
        """Whatever was written before it."""
        with pytest.raises(shoal.CASConflictError), of.transaction() as txn:
            txn.kv.put("k", 1)
            txn.events.append("e", 1)
            txn.traces.record(THOUGHT)
            txn.runs.create_run(run_id="r")
            txn.state.init("c", 1)
            txn.state.cas("c", 7, 2)
        assert (of.kv.list("r"), of.events.len("r"), of.traces.count("r"), of.runs.list_runs()) == ([], 0, 0, [])

    @pytest.mark.parametrize(
        ("read", "change", "key"),
        [
            (lambda t: t.kv.get("k"), lambda of: of.kv.put("r", "k", 1), "k"),
            (lambda t: t.kv.list("k"), lambda of: of.kv.put("r", "kk", 1), "kk"),
            (lambda t: t.kv.increment("n"), lambda of: of.kv.increment("r", "n"), "n"),
            (lambda t: t.events.len(), lambda of: of.events.append("r", "e", 1), "events"),
            (lambda t: t.events.append("e", 1), lambda of: of.events.append("r", "e", 1), "events"),
            (lambda t: t.state.set("c", 1), lambda of: of.state.set("r", "c", 1), "c"),
            (lambda t: t.traces.query_by_tag("t"), lambda of: of.traces.record("r", THOUGHT, tags=["t"]), "traces"),
            (lambda t: t.runs.list_runs(), lambda of: of.runs.create_run(), "runs"),
            (lambda t: t.on("other").kv.exists("k"), lambda of: of.kv.put("other", "k", 1), "k"),
        ],
    )
    def test_what_was_read_is_validated(
        self, of: Stores, read: Callable[[Any], Any], change: Callable[[Stores], Any], key: str
    ) -> None:
        """A change since the snapshot is a conflict that names the user's key; nothing is written."""
        with pytest.raises(ConflictError) as caught, of.transaction() as txn:
            read(txn)
            change(of)
            txn.kv.put("mine", 1)
        assert caught.value.key.split(" ")[0] == key
        assert not of.kv.exists("r", "mine")

    def test_a_snapshot_stays_and_only_reads(self, of: Stores) -> None:
        """Whatever is committed meanwhile, through all primitives."""
        of.kv.put("r", "k", "then")
        with of.db.snapshot("r", namespace=of.space) as view:
            of.kv.put("r", "k", "now")
            of.events.append("r", "e", 1)
            of.runs.create_run(run_id="r")
            assert (view.kv.get("k"), view.events.len(), view.runs.list_runs()) == ("then", 0, [])
            for write in (lambda: view.kv.put("k", 1), lambda: view.events.append("e", 1), view.runs.create_run):
                with pytest.raises(shoal.InvalidOperationError):
                    write()
        with pytest.raises(shoal.InvalidOperationError):
            view.kv.get("k")

    def test_transact_runs_again(self, of: Stores) -> None:
        """Read-modify-writes of threads that conflict all take effect once."""

        def add(txn: shoal.Transaction) -> int:
            total: int = txn.kv.get("n", 0) + 1
            txn.kv.put("n", total)
            txn.events.append("added", total)
            return total

        in_threads(4, lambda _: [of.db.transact("r", add, namespace=of.space) for _ in range(15)])
        assert of.kv.get("r", "n") == 60
        assert [event.payload for event in of.events.iter("r")] == list(range(1, 61))

    def test_a_closed_database(self) -> None:
        """Every call says so; closing twice does nothing."""
        store: Any = ToyStore()
        db = shoal.Database(store)
        db.close()
        db.close()
        with pytest.raises(shoal.InvalidOperationError):
            shoal.KVStore(db).get("r", "k")
