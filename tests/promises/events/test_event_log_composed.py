"""Event logs in transactions, restored from an export, and as the operations the coordinator decides."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest

import shoal
from shoal import ConflictError, InvalidOperationError
from shoal.primitives import keys as key_space
from shoal.primitives.rules import registry as operations
from shoal.primitives.rules.event_rules import METADATA
from shoal.primitives.views import events as event_view
from tests.support.present import present
from tests.support.primitives.event_logs import DB, keys_of, prefix_of


class TestTransactions:
    def test_all_reads_see_own_appends(self, memory_db: shoal.Database, log: shoal.EventLog, run: str) -> None:
        """Own events are part of the log in every read, scans and the type index included."""
        log.append_many(run, [("a", 0), ("b", 1)])
        with memory_db.transaction(run) as txn:
            events = txn.events
            appended = [events.append("a", 2), *events.append_many([("b", 3), ("a", 4)])]
            assert [each.sequence for each in appended] == [2, 3, 4]
            assert [event.payload for event in events.iter()] == [0, 1, 2, 3, 4]
            assert [event.payload for event in events.read_range(1, 4)] == [1, 2, 3]
            assert [event.payload for event in events.read_by_type("a")] == [0, 2, 4]
            assert (present(events.head()).hash, events.len(), events.is_empty()) == (appended[2].hash, 5, False)
            assert events.anchor() == (5, appended[2].hash)
            stored = list(events.iter())
        assert list(log.iter(run)) == stored
        assert log.verify_chain(run).is_valid

    def test_an_append_meanwhile_is_a_conflict(self, memory_db: shoal.Database, log: shoal.EventLog, run: str) -> None:
        """The sequence a transaction was told is validated: it commits only if it is still its own."""
        with pytest.raises(ConflictError) as caught, memory_db.transaction(run) as txn:
            assert txn.events.append("mine", 1).sequence == 0
            log.append(run, "theirs", 2)
        assert caught.value.key == "events"
        assert [event.event_type for event in log.iter(run)] == ["theirs"]
        assert memory_db.transact(run, lambda txn: txn.events.append("mine", 1)).sequence == 1

    def test_reads_of_what_cannot_change_do_not_conflict(
        self, memory_db: shoal.Database, log: shoal.EventLog, kv: shoal.KVStore, run: str
    ) -> None:
        """Events that are there never change: reading them, and no further, conflicts with no append."""
        log.append_many(run, [("a", 0), ("b", 1), ("a", 2)])
        with memory_db.transaction(run) as txn:
            assert present(txn.events.read(1)).payload == 1
            assert len(txn.events.read_range(0, 3)) == 3
            assert [event.event_type for event in txn.events.read_by_type("b")] == ["b"]
            for event in txn.events.iter():
                if event.sequence == 1:
                    break
            log.append(run, "a", 3)
            txn.kv.put("done", True)
        assert kv.get(run, "done")

    @pytest.mark.parametrize(
        "read",
        [
            lambda events: events.read(3),
            lambda events: events.read_range(2, 4),
            lambda events: events.read_range(3, 10**30),
            lambda events: list(events.iter(1)),
            lambda events: events.read_by_type("a"),
            lambda events: events.head(),
            lambda events: events.len(),
            lambda events: events.anchor(),
            lambda events: events.verify_chain(),
        ],
    )
    def test_reads_that_saw_the_end_conflict(
        self, memory_db: shoal.Database, log: shoal.EventLog, run: str, read: Any
    ) -> None:
        """A read that an append would have changed is a conflict at commit."""
        log.append_many(run, [("a", 0), ("b", 1), ("a", 2)])
        with pytest.raises(ConflictError), memory_db.transaction(run) as txn:
            read(txn.events)
            log.append(run, "a", 3)
            txn.kv.put("done", True)

    @pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])
    def test_an_iterator_ends_with_its_transaction(
        self, memory_db: shoal.Database, log: shoal.EventLog, run: str, together: bool
    ) -> None:
        """What is left of it is refused, though it was read with what came before: nothing would validate it."""
        for events in [[("e", i) for i in range(5)]] if together else [[("e", i)] for i in range(5)]:
            log.append_many(run, events)
        view = memory_db.snapshot(run)
        of_snapshot = view.events.iter()
        assert next(of_snapshot).sequence == 0
        view.close()
        with memory_db.transaction(run) as txn:
            of_transaction = txn.events.iter()
            assert next(of_transaction).sequence == 0
        for events_left, ended in ((of_snapshot, "has ended"), (of_transaction, "has committed")):
            with pytest.raises(InvalidOperationError, match=ended):
                next(events_left)

    def test_a_snapshot_reads_and_refuses_to_write(
        self, memory_db: shoal.Database, log: shoal.EventLog, run: str
    ) -> None:
        """A snapshot sees the log as it was; a write through it is refused."""
        log.append(run, "e", 0)
        with memory_db.snapshot(run) as view:
            log.append(run, "e", 1)
            assert (view.events.len(), len(list(view.events.iter()))) == (1, 1)
            assert view.events.verify_chain() == shoal.ChainVerification(True, 1)
            with pytest.raises(InvalidOperationError, match="snapshot"):
                view.events.append("e", 2)

    def test_the_facades_transaction(self, memory_db: shoal.Database, run: str) -> None:
        """The facade's own transaction is one of its namespace."""
        log = shoal.EventLog(memory_db, namespace=shoal.Namespace(agent="other"))
        with log.transaction(run) as txn:
            txn.events.append("e", 1)
        assert (log.len(run), shoal.EventLog(memory_db).len(run)) == (1, 0)


class TestRestore:
    """What an import uses: events come back exactly as they were exported."""

    def restore(self, db: DB, run: str, events: Any) -> None:
        event_view.restore(event_view.EventView(db._store.auto_commit, shoal.Namespace(), run), events)

    def test_a_log_comes_back_and_goes_on(self, memory_db: shoal.Database, filled: shoal.EventLog, run: str) -> None:
        """Hashes, timestamps, chain and index are those of the exported log; in any slices; it goes on from there."""
        events = pickle.loads(pickle.dumps(list(filled.iter(run))))
        other = run + "-restored"
        self.restore(memory_db, other, events[:3])
        self.restore(memory_db, other, iter(events[3:]))
        assert list(filled.iter(other)) == events
        assert filled.verify_chain(other, filled.anchor(run)) == shoal.ChainVerification(True, 5)
        assert filled.read_by_type(other, "type-1") == filled.read_by_type(run, "type-1")
        appended = filled.append(other, "more", 1)
        assert appended.sequence == 5
        assert (appended.hash[16:] == bytes(16)) == (events[0].hash[16:] == bytes(16))
        assert shoal.EventLog.verify(filled.iter(other)).is_valid

    def test_in_a_transaction(self, memory_db: shoal.Database, filled: shoal.EventLog, run: str) -> None:
        """Restored events commit with the rest of their transaction, or not at all."""
        events = list(filled.iter(run))
        with pytest.raises(RuntimeError), memory_db.transaction(run) as txn:
            event_view.restore(txn.on(run + "-lost").events, events)
            raise RuntimeError
        assert filled.is_empty(run + "-lost")
        with memory_db.transaction(run) as txn:
            event_view.restore(txn.on(run + "-kept").events, events)
            assert txn.on(run + "-kept").events.head() == events[-1]
        assert list(filled.iter(run + "-kept")) == events

    def test_what_does_not_fit_is_refused(self, memory_db: shoal.Database, filled: shoal.EventLog, run: str) -> None:
        """Events that are changed, or do not follow what is there, are refused whole."""
        events = list(filled.iter(run))
        other = run + "-other"
        self.restore(memory_db, other, events[:2])
        changed: Any = replace  # to fields of any type
        for wrong in (
            events,
            events[1:],
            events[3:],
            [events[2], events[4]],
            [replace(events[2], payload="forged")],
            [changed(events[2], timestamp=None)],
            [replace(events[2], event_type="")],
            [changed(events[2], hash=None)],
        ):
            with pytest.raises(ValueError, match=r"restore the events|event_type"):
                self.restore(memory_db, other, wrong)
        no_events: list[Any] = [[None], [{"sequence": 2}], [*events[2:], None]]
        for no_event in no_events:
            with pytest.raises(TypeError):
                self.restore(memory_db, other, no_event)
        self.restore(memory_db, other, [])
        assert list(filled.iter(other)) == events[:2]


class TestOperations:
    """What comes through a pipe may be anything."""

    @pytest.mark.parametrize(
        ("name", "arguments", "error"),
        [
            (operations.EVENT_APPEND, [], TypeError),
            (operations.EVENT_APPEND, ["xxh3"], TypeError),
            (operations.EVENT_APPEND, ["md5", [["e", b"\xc0"]]], ValueError),
            (operations.EVENT_APPEND, ["xxh3", [["e"]]], ValueError),
            (operations.EVENT_APPEND, ["xxh3", [["", b"\xc0"]]], ValueError),
            (operations.EVENT_APPEND, ["xxh3", [["x" * 1025, b"\xc0"]]], ValueError),
            (operations.EVENT_APPEND, ["xxh3", [["e", "text"]]], ValueError),
            (operations.EVENT_APPEND, ["xxh3", [["e", None]]], TypeError),
            (operations.EVENT_APPEND, ["xxh3", [[7, b"\xc0"]]], ValueError),
            (operations.EVENT_APPEND, [None, None], ValueError),
            (operations.EVENT_RESTORE, [], TypeError),
            (operations.EVENT_RESTORE, [[]], ValueError),
            (operations.EVENT_RESTORE, [[[0, "e", b"\xc0", 1, bytes(32), bytes(32)]]], ValueError),
            (operations.EVENT_RESTORE, [[[0, "e", b"\xc0", 1, bytes(32), None]]], TypeError),
            (operations.EVENT_RESTORE, [None], TypeError),
        ],
        ids=repr,
    )
    def test_bad_arguments_are_refused_and_nothing_is_written(
        self,
        memory_db: shoal.Database,
        log: shoal.EventLog,
        run: str,
        name: Any,
        arguments: Any,
        error: type[Exception],
    ) -> None:
        """The coordinator refuses what no facade sends, and goes on."""
        with pytest.raises(error) as caught:
            memory_db._store.auto_commit.perform(name, [prefix_of(run) + METADATA, *arguments])
        with pytest.raises(TypeError if "positional argument" in str(caught.value) else ValueError):
            memory_db._store.auto_commit.perform(name, [b"k" * 4096, *arguments])
        assert keys_of(memory_db, run) == []
        assert log.append(run, "e", 1).sequence == 0

    def test_the_keys_are_those_of_the_key_space(
        self, memory_db: shoal.Database, log: shoal.EventLog, run: str
    ) -> None:
        """Numbers and texts inside the keys have the form of every primitive's."""
        log.append(run, "e\0", 1)
        assert keys_of(memory_db, run) == [
            prefix_of(run) + b"\0",
            prefix_of(run) + b"\1" + key_space.number(0),
            prefix_of(run) + b"\2e\0",
        ]


def test_a_facades_transaction_begins_logs_with_its_chain(memory_db: shoal.Database, run: str) -> None:
    """The first append in a facade's own transaction is hashed as the facade's single calls are, on any run."""
    log = shoal.EventLog(memory_db, chain="sha256")
    with log.transaction(run) as txn:
        hashes = [txn.events.append("a", 1).hash, txn.on(f"{run}-2").events.append("a", 1).hash]
    assert all(each[16:] != bytes(16) for each in hashes)
    with memory_db.transaction(f"{run}-3") as txn:
        assert txn.events.append("a", 1).hash[16:] == bytes(16)
