"""EventLog: section 4 of the contract, and what can be asked of it beyond the plan's lists."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import CorruptionError, InvalidOperationError, LimitExceededError
from shoal.primitives.rules import event_rules
from shoal.primitives.rules.event_rules import METADATA, TYPE, decode_events, event_key
from shoal.primitives.rules.hash_chain import canonical
from shoal.primitives.views.events import page
from shoal.shm import codec
from tests.support.present import present
from tests.support.primitives.event_logs import (
    NASTY_TYPES,
    NO_NUMBERS,
    NO_TEXTS,
    keys_of,
    prefix_of,
    reader_of,
    remove_event,
)
from tests.support.shared_memory import store_of
from tests.support.stores.versions import versions_taken


class TestAppend:
    def test_appended_is_a_pair(self, log: shoal.EventLog, run: str) -> None:
        """What append returns can be taken apart."""
        sequence, event_hash = log.append(run, "e", 1)
        assert shoal.Appended(sequence, event_hash) == (0, present(log.head(run)).hash)

    @pytest.mark.parametrize("event_type", NASTY_TYPES, ids=lambda text: ascii(text[:8]))
    def test_any_text_is_a_type(self, log: shoal.EventLog, run: str, event_type: str) -> None:
        """Every text of 1 to 1,024 bytes is a type of its own."""
        log.append_many(run, [(text, text[:3]) for text in NASTY_TYPES])
        found = log.read_by_type(run, event_type)
        assert [(event.event_type, event.payload) for event in found] == [(event_type, event_type[:3])]
        assert log.verify_chain(run).is_valid

    @pytest.mark.parametrize(("event_type", "error"), NO_TEXTS, ids=lambda given: ascii(given)[:12])
    def test_what_is_no_type_is_refused(
        self, memory_db: shoal.Database, log: shoal.EventLog, run: str, event_type: Any, error: type[Exception]
    ) -> None:
        """A bad type is refused everywhere, by its name, with nothing written."""
        with pytest.raises(error, match="event_type"):
            log.append(run, event_type, 1)
        with pytest.raises(error, match="event_type"):
            log.append_many(run, [("good", 1), (event_type, 1)])
        with pytest.raises(error, match="event_type"):
            log.read_by_type(run, event_type)
        with pytest.raises(error, match="event_type"), memory_db.transaction(run) as txn:
            txn.events.append("good", 1)
            txn.events.append(event_type, 1)
        assert keys_of(memory_db, run) == []

    def test_a_subclass_of_str_is_a_type(self, memory_db: shoal.Database, log: shoal.EventLog, run: str) -> None:
        """An enumeration's text is stored as that text, in a transaction, too."""
        text = type("Text", (str,), {"encode": None})
        with pytest.raises(TypeError), memory_db.transaction(run) as txn:
            txn.events.append(text("odd"), 1)
        kind = type("Kind", (str,), {})
        with memory_db.transaction(run) as txn:
            txn.events.append(kind("mine"), 1)
            assert type(present(txn.events.read(0)).event_type) is str
        assert log.read_by_type(run, "mine")[0].event_type == "mine"

    def test_append_many_is_one_commit(self, memory_db: shoal.Database, log: shoal.EventLog, run: str) -> None:
        """All of them are there at once, in order, with the sequences and hashes that were returned."""
        log.append(run, "e", 0)
        appended = log.append_many(run, (("e", i) for i in range(1, 4)))
        assert [each.sequence for each in appended] == [1, 2, 3]
        assert [event.hash for event in log.iter(run, 1)] == [each.hash for each in appended]
        assert len({event.timestamp for event in log.iter(run, 1)}) == 1
        assert versions_taken(memory_db, lambda: log.append_many(run, [("e", bytes(3_000))] * 4)) == 1

    def test_append_many_of_nothing_sends_nothing(
        self, memory_db: shoal.Database, log: shoal.EventLog, run: str
    ) -> None:
        """An empty list makes no commit and no log."""
        assert log.append_many(run, []) == []
        assert versions_taken(memory_db, lambda: log.append_many(run, [])) == 0
        assert keys_of(memory_db, run) == []

    @pytest.mark.parametrize("events", [None, 7, "ab", b"ab", {"a": 1}, [None], ["ab"], [("a",)], [("a", 1, 2)], [{1}]])
    def test_what_is_no_list_of_pairs_is_refused(
        self, memory_db: shoal.Database, log: shoal.EventLog, run: str, events: Any
    ) -> None:
        """Anything but pairs is a TypeError that says so, with nothing written."""
        with pytest.raises(TypeError, match="pair"):
            log.append_many(run, events)
        assert keys_of(memory_db, run) == []

    def test_more_than_a_commit_holds_is_refused(
        self, memory_db: shoal.Database, log: shoal.EventLog, run: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Small events take more room as records than on their way; what counts is all that would be written."""
        monkeypatch.setattr(event_rules, "MAX_COMMIT_BYTES", 10_000)
        with (
            pytest.raises(LimitExceededError, match=r"commit in bytes is 20,[0-9]+; the limit is 10,000"),
            memory_db.transaction(run) as txn,
        ):
            txn.events.append_many([("e", None)] * 200)
        assert log.is_empty(run)
        memory_db.transact(run, lambda txn: txn.events.append_many([("e", None)] * 60))
        assert log.len(run) == 60

    def test_the_largest_payload(self, log: shoal.EventLog, run: str) -> None:
        """A payload of 16 MiB is stored."""
        log.append(run, "e", b"x" * (16 * 1024 * 1024))
        assert len(present(log.read(run, 0)).payload) == 16 * 1024 * 1024

    def test_timestamps_are_now_and_never_go_back(self, log: shoal.EventLog, run: str) -> None:
        """ms since the epoch; when the clock goes back, the last one stays."""
        before = time.time_ns() // 1_000_000
        log.append(run, "e", None)
        assert before <= present(log.head(run)).timestamp <= time.time_ns() // 1_000_000
        state: dict[bytes, bytes] = {}
        clock = [5_000, 4_000, 6_000, 0]
        for now_ms in clock:
            entries = [["e", canonical(now_ms)]]
            outcome = event_rules.append(reader_of(state), now_ms, b"log\0", "xxh3", entries)
            state.update({write.key: present(write.value) for write in outcome.writes})
        stored = [decode_events(i, state[event_key(b"log", i)])[i].timestamp for i in range(4)]
        assert stored == [5_000, 5_000, 6_000, 6_000]

    def test_namespaces_are_apart(self, memory_db: shoal.Database, log: shoal.EventLog, run: str) -> None:
        """The same run id in two namespaces has two logs."""
        log.append(run, "mine", 1)
        other = shoal.EventLog(memory_db, namespace=shoal.Namespace(tenant="other"))
        assert other.is_empty(run)
        with other.transaction(run) as txn:
            assert txn.events.append("theirs", 2).sequence == 0
        assert (present(log.head(run)).event_type, present(other.head(run)).event_type) == ("mine", "theirs")

    def test_a_log_is_not_in_other_primitives(
        self, memory_db: shoal.Database, kv: shoal.KVStore, log: shoal.EventLog, run: str
    ) -> None:
        """Appending leaves no key where users list theirs."""
        log.append(run, "e", 1)
        assert kv.list(run) == []


class TestReads:
    @pytest.mark.parametrize("bad", NO_NUMBERS, ids=repr)
    def test_what_is_no_number_is_refused(
        self, memory_db: shoal.Database, log: shoal.EventLog, run: str, bad: Any
    ) -> None:
        """Sequences and bounds are ints: anything else is a TypeError at the call."""
        for call in (log.read, log.iter, log.follow):
            with pytest.raises(TypeError, match="give an int"):
                call(run, bad)
        with pytest.raises(TypeError, match="start"):
            log.read_range(run, bad, 1)
        with pytest.raises(TypeError, match="end"):
            log.read_range(run, 0, bad)
        with memory_db.snapshot(run) as view, pytest.raises(TypeError, match="start"):
            view.events.iter(bad)

    @pytest.mark.parametrize("bad", [None, 1, b"run", "", "r" * 129, "\ud800"], ids=repr)
    def test_a_bad_run_id_is_refused(self, log: shoal.EventLog, bad: Any) -> None:
        """Every call checks the run id, those that return iterators at the call."""
        kinds = (TypeError, ValueError, LimitExceededError)
        calls: list[Callable[[], object]] = [
            lambda: log.append(bad, "e", 1),
            lambda: log.append_many(bad, []),
            lambda: log.read(bad, 0),
            lambda: log.head(bad),
            lambda: log.iter(bad),
            lambda: log.follow(bad),
            lambda: log.verify_chain(bad),
            lambda: log.anchor(bad),
        ]
        for call in calls:
            with pytest.raises(kinds, match="run_id"):
                call()

    def test_iter_is_lazy_and_holds_no_snapshot(self, memory_db: shoal.Database, log: shoal.EventLog, run: str) -> None:
        """Between two events of an iteration outside a transaction nothing is pinned."""
        log.append_many(run, [("e", i) for i in range(600)])
        events = log.iter(run)
        taken = [next(events).payload for _ in range(300)]
        slots = store_of(memory_db).connection.current().slots
        assert not any(slots._slots[1:])
        assert taken == list(range(300))
        assert [event.payload for event in events] == list(range(300, 600))

    def test_iter_ends_with_what_was_there(self, memory_db: shoal.Database, log: shoal.EventLog, run: str) -> None:
        """Events appended meanwhile are not part of an iteration: it ends, however fast they come."""
        log.append_many(run, [("e", i) for i in range(3)])
        for event in log.iter(run):
            log.append(run, "echo", event.sequence)
        assert log.len(run) == 6
        with memory_db.transaction(run) as txn:
            for event in txn.events.iter():
                txn.events.append("echo", event.sequence)
        assert log.len(run) == 12

    def test_iter_from_outside_the_log(self, log: shoal.EventLog, run: str) -> None:
        """A start beyond the end gives nothing, one before the beginning everything."""
        log.append_many(run, [("e", i) for i in range(3)])
        assert list(log.iter(run, 3)) == list(log.iter(run, 2**70)) == []
        assert len(list(log.iter(run, -1))) == 3

    def test_pages_end_at_their_bytes(self, log: shoal.EventLog, run: str) -> None:
        """Large events come in small pages, all of them."""
        log.append_many(run, [("e", bytes(400_000)) for _ in range(7)])
        assert [event.sequence for event in log.iter(run)] == list(range(7))
        assert len(page(log._views[run], 0, 7)) == 3

    @pytest.mark.parametrize(
        "raw", [b"", b"\xc1", b"\x90", codec.pack(7), codec.pack(["t", "p", 1, b"", b""])], ids=repr
    )
    def test_a_damaged_record_is_said(self, memory_db: shoal.Database, log: shoal.EventLog, run: str, raw: Any) -> None:
        """A record that is none is CorruptionError on a read, and names the event."""
        for i in range(2):
            log.append(run, "e", i)
        engine, key = memory_db._store.auto_commit, event_key(prefix_of(run), 1)
        engine.put(key, raw)
        calls: dict[str, Callable[[], object]] = {
            "read": lambda: log.read(run, 1),
            "head": lambda: log.head(run),
            "iter": lambda: list(log.iter(run)),
        }
        for name, call in calls.items():
            try:
                found = call()
            except CorruptionError as error:
                said = str(error)
            else:
                again = engine.find(key)  # first: what is wrong may not stay
                everything = {key: engine.find(key) for key in keys_of(memory_db, run)}
                metadata = engine.find(prefix_of(run) + METADATA)
                pytest.fail(f"{name} returned {found!r}. Then {again=}, {metadata=}, {everything=}, {memory_db.info()}")
            assert "event 1" in said
        assert present(log.read(run, 0)).payload == 0

    def test_damaged_metadata_is_said(self, memory_db: shoal.Database, log: shoal.EventLog, run: str) -> None:
        """Nothing is appended to a log whose metadata is none, in a transaction or outside."""
        log.append(run, "e", 0)
        for raw in (b"", b"\xc1", codec.pack([1, bytes(32), "md5", 1]), codec.pack([0, bytes(32), "xxh3", 1])):
            memory_db._store.auto_commit.put(prefix_of(run) + METADATA, raw)
            with pytest.raises(CorruptionError, match="metadata"):
                log.append(run, "e", 1)
            with pytest.raises(CorruptionError, match="metadata"), memory_db.transaction(run) as txn:
                txn.events.append("e", 1)
            with pytest.raises(CorruptionError, match="metadata"):
                log.len(run)
        assert log.read(run, 1) is None

    def test_numbers_that_no_log_reaches_are_said(
        self, memory_db: shoal.Database, log: shoal.EventLog, run: str
    ) -> None:
        """Nothing is appended to what counts to the end of what can be stored: the metadata, or the head of a type."""
        log.append(run, "e", 0)
        keys, raws = (
            (METADATA, TYPE + b"e"),
            (codec.pack([2**64 - 1, bytes(32), "xxh3", 1]), codec.pack([2**64 - 1] * 2)),
        )
        for key, raw, what in zip(keys, raws, ("metadata", "head of an event type"), strict=True):
            engine = memory_db._store.auto_commit
            before = present(engine.find(prefix_of(run) + key)).value
            engine.put(prefix_of(run) + key, raw)
            with pytest.raises(CorruptionError, match=what):
                log.append(run, "e", 1)
            engine.put(prefix_of(run) + key, before)
        assert log.append(run, "e", 1).sequence == 1

    def test_an_index_key_without_an_event_is_said(
        self, memory_db: shoal.Database, log: shoal.EventLog, run: str
    ) -> None:
        """read_by_type does not pass over an event that is gone."""
        log.append_many(run, [("e", 0), ("e", 1)])
        remove_event(memory_db, run, 0)
        with pytest.raises(CorruptionError, match="event 0"):
            log.read_by_type(run, "e")


class TestFollow:
    def test_what_is_there_comes_first(self, log: shoal.EventLog, run: str) -> None:
        """With timeout 0 follow gives what is there and ends."""
        log.append_many(run, [("e", i) for i in range(300)])
        assert [event.payload for event in log.follow(run, timeout=0)] == list(range(300))
        assert [event.payload for event in log.follow(run, 298, timeout=0)] == [298, 299]
        assert list(log.follow(run, 300, timeout=0)) == []
        assert len(list(log.follow(run, -3, timeout=0.0))) == 300

    def test_events_come_as_they_are_appended(self, log: shoal.EventLog, run: str) -> None:
        """A follower that waits gets every later event, in order; from a start not reached yet, those from there on."""
        log.append(run, "e", 0)
        events = log.follow(run)
        later = log.follow(run, 3)
        assert next(events).payload == 0
        appender = threading.Thread(target=lambda: [log.append(run, "e", i) for i in range(1, 6)])
        appender.start()
        assert [next(events).payload for _ in range(5)] == [1, 2, 3, 4, 5]
        assert [next(later).payload for _ in range(3)] == [3, 4, 5]
        appender.join()

    def test_it_ends_when_nothing_comes(self, log: shoal.EventLog, kv: shoal.KVStore, run: str) -> None:
        """The timeout is for the next event: others' commits do not put it off."""
        busy = threading.Event()

        def write() -> None:
            while not busy.is_set():
                kv.put(run, "k", 1)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            log.append(run, "e", 0)
            assert [event.payload for event in log.follow(run, timeout=0.05)] == [0]
        finally:
            busy.set()
            writer.join()

    @pytest.mark.parametrize(
        ("timeout", "error"), [("1", TypeError), (True, TypeError), (-1, ValueError), (math.nan, ValueError)]
    )
    def test_a_bad_timeout_is_refused_at_the_call(
        self, log: shoal.EventLog, run: str, timeout: Any, error: type[Exception]
    ) -> None:
        """Before anything is waited for."""
        with pytest.raises(error, match="timeout"):
            log.follow(run, timeout=timeout)

    def test_a_closed_database_ends_it(self, store: Path) -> None:
        """An iterator that follows a log raises when the database is closed, however long it would have waited."""
        with shoal.open(store, durability="memory", linger=0.1) as db:
            events = shoal.EventLog(db).follow("run")
            threading.Timer(0.05, db.close).start()
            with pytest.raises(InvalidOperationError, match="closed"):
                next(events)
