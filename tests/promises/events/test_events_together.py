"""Events that are appended together are stored together: nobody who reads or commits can tell."""

from __future__ import annotations

import random
from typing import Any

import pytest

import shoal
from shoal.primitives.rules.event_rules import EVENT, RECORD_BYTES, TYPE
from shoal.primitives.rules.hash_chain import GENESIS_HASH
from shoal.shm import codec
from tests.support.present import present
from tests.support.primitives.event_logs import keys_of, prefix_of, record_of


@pytest.fixture
def mixed(log: shoal.EventLog, run: str) -> list[tuple[str, Any]]:
    """A log of single events and of batches, of few and of many records; what was appended, in order."""
    rng = random.Random(7)
    events: list[tuple[str, Any]] = []
    for size in (1, 1, 3, 40, 1, 200, 1, 2, 100):
        batch = [
            (f"type-{rng.randrange(5)}", {"n": n, "text": "x" * rng.choice((0, 30, 900, RECORD_BYTES))})
            for n in range(len(events), len(events) + size)
        ]
        if size == 1:
            log.append(run, *batch[0])
        else:
            log.append_many(run, batch)
        events += batch
    return events


class TestReads:
    """Whichever way an event is read."""

    def test_each_by_its_sequence(self, log: shoal.EventLog, run: str, mixed: list[tuple[str, Any]]) -> None:
        """Every event is found, whether it is the first, in the middle or the last of its record; no other is."""
        for sequence, (event_type, payload) in enumerate(mixed):
            event = present(log.read(run, sequence))
            assert (event.sequence, event.event_type, event.payload) == (sequence, event_type, payload)
        assert log.read(run, len(mixed)) is log.read(run, 2**64 - 1) is None
        assert log.head(run) == log.read(run, len(mixed) - 1)

    def test_any_range(self, log: shoal.EventLog, run: str, mixed: list[tuple[str, Any]]) -> None:
        """A range begins and ends between any two events."""
        events = list(log.iter(run))
        assert [(event.event_type, event.payload) for event in events] == mixed
        rng = random.Random(8)
        for _ in range(200):
            start, end = rng.randrange(-3, len(mixed) + 5), rng.randrange(-3, len(mixed) + 5)
            assert log.read_range(run, start, end) == events[max(start, 0) : max(end, 0)]
        for start in (0, 1, 20, 45, len(mixed) - 1):
            assert list(log.iter(run, start)) == list(log.follow(run, start, timeout=0)) == events[start:]

    def test_the_events_of_a_type(self, log: shoal.EventLog, run: str, mixed: list[tuple[str, Any]]) -> None:
        """All of them, in order, from the last backward through records of all sizes."""
        for event_type in {event_type for event_type, _ in mixed}:
            expected = [(n, payload) for n, (found, payload) in enumerate(mixed) if found == event_type]
            assert [(event.sequence, event.payload) for event in log.read_by_type(run, event_type)] == expected

    def test_the_chain_goes_through(self, log: shoal.EventLog, run: str, mixed: list[tuple[str, Any]]) -> None:
        """Hashes chain from event to event, in a record and from one to the next."""
        assert log.verify_chain(run) == shoal.ChainVerification(True, len(mixed))
        assert shoal.EventLog.verify(log.iter(run), prev_hash=GENESIS_HASH).length == len(mixed)

    def test_in_the_transaction_that_appends(
        self, memory_db: shoal.Database, run: str, mixed: list[tuple[str, Any]]
    ) -> None:
        """A transaction reads its own events before they are stored anywhere, together with those that are."""
        with memory_db.transaction(run) as txn:
            txn.events.append_many([("mine", n) for n in range(100)])
            assert [event.payload for event in txn.events.read_by_type("mine")] == list(range(100))
            for n in (0, 50, 99):
                assert present(txn.events.read(len(mixed) + n)).payload == n
            found = txn.events.read_range(len(mixed) - 2, len(mixed) + 2)
            assert [event.sequence - len(mixed) for event in found] == [-2, -1, 0, 1]
            assert txn.events.verify_chain().is_valid


class TestRecords:
    """What is stored."""

    def test_no_record_is_large_unless_its_event_is(
        self, memory_db: shoal.Database, run: str, mixed: list[tuple[str, Any]]
    ) -> None:
        """A record holds as many events as fit it, one at least; so one event is not read with thousands."""
        sizes = []
        sequence = 0
        while sequence < len(mixed):
            key, events = record_of(memory_db, run, sequence)
            assert next(iter(events)) == sequence
            size = len(present(memory_db._store.auto_commit.find(key)).value)
            assert size <= RECORD_BYTES or len(events) == 1
            sizes.append(len(events))
            sequence += len(events)
        assert min(sizes) == 1
        assert max(sizes) > 10

    def test_a_batch_takes_few_keys(self, memory_db: shoal.Database, log: shoal.EventLog, run: str) -> None:
        """200 small events appended at once are a few records."""
        log.append_many(run, [("e", n) for n in range(200)])
        events = [key for key in keys_of(memory_db, run) if prefix_of(run) + EVENT <= key < prefix_of(run) + TYPE]
        assert len(events) < 10

    @pytest.mark.parametrize("count", [3, 5])
    def test_more_events_than_come_before_are_none(
        self, memory_db: shoal.Database, log: shoal.EventLog, run: str, count: int
    ) -> None:
        """A record that says it has events from before the first is damage, and told by a read and by verification."""
        log.append(run, "e", 0)
        log.append_many(run, [("e", n) for n in range(1, count)])
        key, events = record_of(memory_db, run, 1)
        memory_db._store.auto_commit.put(key, codec.pack(list(events.values()) * 3))
        assert not log.verify_chain(run).is_valid
        with pytest.raises(shoal.CorruptionError, match="the record of event"):
            log.read(run, 1)


class TestConflicts:
    """What a transaction has read changes with a batch as it would with single events."""

    @pytest.mark.parametrize(
        "read",
        [
            lambda events: events.read(5),
            lambda events: events.read_range(5, 7),
            lambda events: events.read_range(2, 9),
            lambda events: list(events.iter(1)),
            lambda events: events.read_by_type("new"),
            lambda events: events.len(),
        ],
        ids=["read", "range beyond", "range across", "iter", "type", "len"],
    )
    def test_what_was_not_there_is_a_phantom(
        self, memory_db: shoal.Database, log: shoal.EventLog, run: str, read: Any
    ) -> None:
        """Events 3 to 12 come in one record: whoever looked for one of them and found none conflicts."""
        log.append_many(run, [("old", n) for n in range(3)])

        def read_while_others_append(txn: Any) -> None:
            read(txn.events)
            log.append_many(run, [("new", n) for n in range(10)])
            txn.kv.put("k", 1)

        with pytest.raises(shoal.ConflictError):
            memory_db.transact(run, read_while_others_append, retries=0)

    @pytest.mark.parametrize(
        "read",
        [
            lambda events: events.read(0),
            lambda events: events.read(1),
            lambda events: events.read_range(0, 3),
            lambda events: events.read_range(1, 2),
            lambda events: events.read_by_type("old"),
        ],
        ids=["first", "middle", "all", "inner", "type"],
    )
    def test_what_was_there_stays(self, memory_db: shoal.Database, log: shoal.EventLog, run: str, read: Any) -> None:
        """Events that were read never change, nor does a type without new events: no conflict."""
        log.append_many(run, [("old", n) for n in range(3)])
        with memory_db.transaction(run) as txn:
            read(txn.events)
            log.append_many(run, [("new", n) for n in range(10)])
            txn.kv.put("k", 1)
