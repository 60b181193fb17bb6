"""EventLog: section 4 of the contract, and what can be asked of it beyond the plan's lists."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import hashlib
import math
import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, ClassVar

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from shoal import ConflictError, CorruptionError, Event, InvalidOperationError, LimitExceededError
from shoal.primitives import event_log, key_space
from shoal.shm import codec, event_operations, operations
from shoal.shm.event_operations import (
    EVENT,
    METADATA,
    TypeHead,
    decode_head,
    decode_metadata,
    decode_record,
    event_key,
    type_key,
)
from shoal.shm.hash_chain import CHAINS, canonical, event_hash
from shoal.shm.reader import Found

DB = shoal.Database
NASTY_TYPES = ["a", "a\0", "a\0\0\0", "\0", "__idx_", "/", "é" * 512, "t" * 1024, "🦀", "\U0010ffff", "\n", " "]
NO_TEXTS = [
    (None, TypeError),
    (7, TypeError),
    (b"raw", TypeError),
    ("", ValueError),
    ("\ud800", ValueError),
    ("x" * 1025, LimitExceededError),
    ("é" * 513, LimitExceededError),
]
NO_NUMBERS = [None, "0", 1.0, True, b"0", [0]]


@pytest.fixture
def log(memory_db: DB) -> shoal.EventLog:
    """A log facade of the shared store."""
    return shoal.EventLog(memory_db)


@pytest.fixture(params=["xxh3", "sha256"])
def filled(request: pytest.FixtureRequest, memory_db: DB, run: str) -> shoal.EventLog:
    """A log facade of either chain; the run has five events of three types."""
    log = shoal.EventLog(memory_db, chain=request.param)
    log.append_many(run, [(f"type-{i % 3}", {"i": i, "more": [i, None]}) for i in range(5)])
    return log


def prefix_of(run: str) -> bytes:
    """What the keys of a run's log begin with."""
    return shoal.Namespace().run_prefix(run) + bytes((key_space.Tag.EVENT,))


def keys_of(db: DB, run: str) -> list[bytes]:
    """Every key of a run's log."""
    return [key for key, _ in db.engine.scan(prefix_of(run), key_space.after(prefix_of(run)))]


class TestHashes:
    """Hashes are the same for ever: every value here is pinned."""

    EVENTS = (
        ("task_started", {"who": "agent", "task": 1}, 1_700_000_000_000),
        ("é\0🦀", (1, 1.0, True, None, b"\0", -0.0, -math.nan), 1_700_000_000_001),
        ("done", None, 1_700_000_000_001),
    )
    PINNED: ClassVar[dict[str, tuple[str, ...]]] = {
        "xxh3": (
            "6b4b102e9e2d0bd8bcc79e685c428dd400000000000000000000000000000000",
            "5ba99860bc148448f3768fa92b1c1acd00000000000000000000000000000000",
            "d2ad3461c65c9ca2e6c8e6524676d88c00000000000000000000000000000000",
        ),
        "sha256": (
            "0828900f098c0227348450d328b95886f71500e97cd02e1fcd785a43d9cdf104",
            "0fdddc4666003a3408f4f7032010e3626ac57d3df6c35766f262ef147dd35482",
            "98643af094cb5a7654083f79ab9acabc1a7eb4cbc63a987b9e0091587940cbae",
        ),
    }
    # msgpack of [1, 0, "task_started", the payload's bytes, 1700000000000, 32 zero bytes]
    FIRST_HASHED = bytes.fromhex(
        "960100ac7461736b5f73746172746564"
        "c41182a47461736b01a377686fa56167656e74"
        "cf0000018bcfe56800"
        "c4200000000000000000000000000000000000000000000000000000000000000000"
    )

    @pytest.mark.parametrize("chain", PINNED)
    def test_hashes_never_change(self, chain):
        """Each event's hash is what it was when the format was made."""
        head = shoal.GENESIS_HASH
        for i, (event_type, payload, timestamp) in enumerate(self.EVENTS):
            head = event_hash(chain, i, event_type, canonical(payload), timestamp, head)
            assert head.hex() == self.PINNED[chain][i]

    def test_hashes_are_what_the_description_says(self):
        """Anybody can compute them: the named digest of the described bytes, the padding behind a short one."""
        assert hashlib.sha256(self.FIRST_HASHED).hexdigest() == self.PINNED["sha256"][0]
        assert xxhash.xxh3_128_hexdigest(self.FIRST_HASHED) + 32 * "0" == self.PINNED["xxh3"][0]

    @pytest.mark.parametrize("chain", PINNED)
    def test_exported_events_of_the_pinned_chain_verify(self, chain):
        """What was exported under this format stays valid under it."""
        heads = [shoal.GENESIS_HASH, *map(bytes.fromhex, self.PINNED[chain])]
        events = [Event(i, *self.EVENTS[i], heads[i], heads[i + 1]) for i in range(3)]
        assert shoal.EventLog.verify(events) == shoal.ChainVerification(True, 3)

    def test_a_stored_event_has_the_described_hash(self, filled, run):
        """What append stores and returns is event_hash of the event's own fields."""
        chain = decode_metadata(filled._db.engine.find(prefix_of(run) + METADATA).value).chain
        for event in filled.iter(run):
            fields = (event.sequence, event.event_type, canonical(event.payload), event.timestamp, event.prev_hash)
            assert event.hash == event_hash(chain, *fields)
            assert (event.hash[16:] == bytes(16)) == (chain == "xxh3")


class TestCanonicalPayloads:
    def test_the_bytes_never_change(self):
        """The canonical form of a value with everything in it is what it was."""
        moment = datetime(2026, 1, 2, 8, 34, 5, 678901, timezone(timedelta(hours=5, minutes=30)))
        value = {"b": [(1, {"z": -math.nan, "a": -0.0})], "a": moment, "\ud800": 1}
        assert canonical(value).hex() == (
            "c183a161d7ffa1dcd420695735a5a16291920182a161cb8000000000000000a17acb7ff8000000000000a3eda08001"
        )

    def test_types_differ_and_order_does_not(self):
        """1, 1.0 and True are three payloads, as are the zeros; the order of dicts, tuple or list, and NaNs are one."""
        for different in ([1, 1.0, True, "1", b"1"], [0, 0.0, -0.0, False, None, ""], [{}, []], [{"a": 1}, [["a", 1]]]):
            assert len({canonical({"in": [value]}) for value in different}) == len(different)
        for same in ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], [(1, [2]), [1, (2,)]], [math.nan, -math.nan]):
            assert len({canonical(value) for value in same}) == 1
            assert len({canonical({"in": [value]}) for value in same}) == 1

    def test_dicts_read_back_sorted(self, log, run):
        """Keys come back in the order of their code points, at every depth."""
        log.append(run, "e", {"b": 1, "é": 2, "a": {"\U0010ffff": 1, "\uffff": 2, "": 3}})
        payload = log.read(run, 0).payload
        assert list(payload) == ["a", "b", "é"]
        assert list(payload["a"]) == ["", "\uffff", "\U0010ffff"]

    @given(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**64 - 1)
            | st.floats()
            | st.text()
            | st.binary()
            | st.datetimes(timezones=st.just(UTC)),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
            max_leaves=12,
        )
    )
    @settings(max_examples=60, deadline=None)
    def test_what_is_read_back_has_the_same_form(self, value):
        """A payload that was stored and read is the same payload: exported events verify."""
        raw = canonical(value)
        assert canonical(codec.decode(raw)) == raw

    def test_a_text_that_is_no_utf_8_and_a_datetime(self, log, run):
        """Values msgpack alone does not know read back, and verify."""
        payload = {"path": "\udcff", "\ud800": datetime(2026, 1, 2, tzinfo=UTC)}
        log.append(run, "e", payload)
        assert log.read(run, 0).payload == payload
        assert shoal.EventLog.verify(log.iter(run)).is_valid

    @pytest.mark.parametrize(
        ("value", "error", "path"),
        [
            (object(), TypeError, r"at \$ has"),
            ({"a": [1, {"b": {1, 2}}]}, TypeError, r"\$\.a\[1\]\.b"),
            ({1: "a"}, TypeError, r"at \$ has key 1"),
            ({"x": {1: "a", "b": 2}}, TypeError, r"\$\.x"),
            ([2**64], TypeError, r"\$\[0\]"),
            (datetime(2026, 1, 1), TypeError, "time zone"),
            (bytearray(b"a"), TypeError, "bytearray"),
            ("x" * (16 * 1024 * 1024 + 1), LimitExceededError, "16,777,216"),
        ],
        ids=lambda given: type(given).__name__,
    )
    def test_what_cannot_be_stored_is_named(self, memory_db, log, run, value, error, path):
        """A payload that cannot be stored is refused with its place, and nothing of its append is there."""
        with pytest.raises(error, match=path):
            log.append(run, "e", value)
        with pytest.raises(error, match=path):
            log.append_many(run, [("good", 1), ("bad", value)])
        assert keys_of(memory_db, run) == []

    def test_nesting_without_end_is_refused(self, log, run):
        """A value inside itself is a limit exceeded, not a stack exceeded."""
        endless: dict[str, Any] = {}
        endless["again"] = [endless]
        with pytest.raises(LimitExceededError, match="nesting"):
            log.append(run, "e", endless)


class TestAppend:
    def test_appended_is_a_pair(self, log, run):
        """What append returns can be taken apart."""
        sequence, event_hash = log.append(run, "e", 1)
        assert shoal.Appended(sequence, event_hash) == (0, log.head(run).hash)

    @pytest.mark.parametrize("event_type", NASTY_TYPES, ids=lambda text: ascii(text[:8]))
    def test_any_text_is_a_type(self, log, run, event_type):
        """Every text of 1 to 1,024 bytes is a type of its own."""
        log.append_many(run, [(text, text[:3]) for text in NASTY_TYPES])
        found = log.read_by_type(run, event_type)
        assert [(event.event_type, event.payload) for event in found] == [(event_type, event_type[:3])]
        assert log.verify_chain(run).is_valid

    @pytest.mark.parametrize(("event_type", "error"), NO_TEXTS, ids=lambda given: ascii(given)[:12])
    def test_what_is_no_type_is_refused(self, memory_db, log, run, event_type, error):
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

    def test_a_subclass_of_str_is_a_type(self, memory_db, log, run):
        """An enumeration's text is stored as that text, in a transaction, too."""
        text = type("Text", (str,), {"encode": None})
        with pytest.raises(TypeError), memory_db.transaction(run) as txn:
            txn.events.append(text("odd"), 1)
        kind = type("Kind", (str,), {})
        with memory_db.transaction(run) as txn:
            txn.events.append(kind("mine"), 1)
            assert type(txn.events.read(0).event_type) is str
        assert log.read_by_type(run, "mine")[0].event_type == "mine"

    def test_append_many_is_one_commit(self, memory_db, log, run):
        """All of them are there at once, in order, with the sequences and hashes that were returned."""
        log.append(run, "e", 0)
        before = memory_db.info().commit_version
        appended = log.append_many(run, (("e", i) for i in range(1, 4)))
        assert memory_db.info().commit_version == before + 1
        assert [each.sequence for each in appended] == [1, 2, 3]
        assert [event.hash for event in log.iter(run, 1)] == [each.hash for each in appended]
        assert len({event.timestamp for event in log.iter(run, 1)}) == 1

    def test_append_many_of_nothing_sends_nothing(self, memory_db, log, run):
        """An empty list makes no commit and no log."""
        before = memory_db.info().commit_version
        assert log.append_many(run, []) == []
        assert (memory_db.info().commit_version, keys_of(memory_db, run)) == (before, [])

    @pytest.mark.parametrize("events", [None, 7, "ab", b"ab", {"a": 1}, [None], ["ab"], [("a",)], [("a", 1, 2)], [{1}]])
    def test_what_is_no_list_of_pairs_is_refused(self, memory_db, log, run, events):
        """Anything but pairs is a TypeError that says so, with nothing written."""
        with pytest.raises(TypeError, match="pair"):
            log.append_many(run, events)
        assert keys_of(memory_db, run) == []

    def test_more_than_a_commit_holds_is_refused(self, memory_db, log, run, monkeypatch):
        """Small events take more room as records than on their way; what counts is what would be written."""
        monkeypatch.setattr(event_operations, "MAX_COMMIT_BYTES", 10_000)
        with (
            pytest.raises(LimitExceededError, match=r"commit in bytes is [0-9,]+; the limit is 10,000"),
            memory_db.transaction(run) as txn,
        ):
            txn.events.append_many([("e", None)] * 60)
        assert log.is_empty(run)
        memory_db.transact(run, lambda txn: txn.events.append_many([("e", None)] * 20))
        assert log.len(run) == 20

    def test_the_largest_payload(self, log, run):
        """A payload of 16 MiB is stored."""
        log.append(run, "e", b"x" * (16 * 1024 * 1024))
        assert len(log.read(run, 0).payload) == 16 * 1024 * 1024

    def test_timestamps_are_now_and_never_go_back(self, log, run):
        """ms since the epoch; when the clock goes back, the last one stays."""
        before = time.time_ns() // 1_000_000
        log.append(run, "e", None)
        assert before <= log.head(run).timestamp <= time.time_ns() // 1_000_000
        state: dict[bytes, bytes] = {}
        clock = [5_000, 4_000, 6_000, 0]
        for now_ms in clock:
            entries = [["e", canonical(now_ms)]]
            outcome = event_operations.append(_reader(state), now_ms, b"log\0", "xxh3", entries)
            state.update({write.key: write.value for write in outcome.writes})
        stored = [decode_record(i, state[event_key(b"log", i)]).timestamp for i in range(4)]
        assert stored == [5_000, 5_000, 6_000, 6_000]

    def test_namespaces_are_apart(self, memory_db, log, run):
        """The same run id in two namespaces has two logs."""
        log.append(run, "mine", 1)
        other = shoal.EventLog(memory_db, namespace=shoal.Namespace(tenant="other"))
        assert other.is_empty(run)
        with other.transaction(run) as txn:
            assert txn.events.append("theirs", 2).sequence == 0
        assert (log.head(run).event_type, other.head(run).event_type) == ("mine", "theirs")

    def test_a_log_is_not_in_other_primitives(self, memory_db, kv, log, run):
        """Appending leaves no key where users list theirs."""
        log.append(run, "e", 1)
        assert kv.list(run) == []


class TestChains:
    def test_the_first_append_fixes_the_chain(self, memory_db, run):
        """A facade of another chain, and a transaction, go on with the log's own."""
        sha256, xxh3 = shoal.EventLog(memory_db, chain="sha256"), shoal.EventLog(memory_db)
        sha256.append(run, "first", 1)
        appended = [xxh3.append(run, "second", 2), *xxh3.append_many(run, [("third", 3)])]
        with memory_db.transaction(run) as txn:
            appended.append(txn.events.append("fourth", 4))
        assert all(each.hash[16:] != bytes(16) for each in appended)
        assert xxh3.verify_chain(run) == sha256.verify_chain(run) == shoal.ChainVerification(True, 4)
        assert shoal.EventLog.verify(xxh3.iter(run)).is_valid

    @pytest.mark.parametrize(
        ("chain", "error"),
        [("md5", ValueError), ("", ValueError), ("XXH3", ValueError), (None, TypeError), (1, TypeError)],
    )
    def test_an_unknown_chain_is_refused(self, memory_db, chain, error):
        """Only the two there are, by name."""
        with pytest.raises(error, match="xxh3, sha256"):
            shoal.EventLog(memory_db, chain=chain)


class TestReads:
    @pytest.mark.parametrize("bad", NO_NUMBERS, ids=repr)
    def test_what_is_no_number_is_refused(self, memory_db, log, run, bad):
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
    def test_a_bad_run_id_is_refused(self, log, bad):
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

    def test_iter_is_lazy_and_holds_no_snapshot(self, memory_db, log, run):
        """Between two events of an iteration outside a transaction nothing is pinned."""
        log.append_many(run, [("e", i) for i in range(600)])
        events = log.iter(run)
        taken = [next(events).payload for _ in range(300)]
        slots = memory_db.engine._connection.current().slots
        assert not any(slots._slots[1:])
        assert taken == list(range(300))
        assert [event.payload for event in events] == list(range(300, 600))

    def test_iter_ends_with_what_was_there(self, memory_db, log, run):
        """Events appended meanwhile are not part of an iteration: it ends, however fast they come."""
        log.append_many(run, [("e", i) for i in range(3)])
        for event in log.iter(run):
            log.append(run, "echo", event.sequence)
        assert log.len(run) == 6
        with memory_db.transaction(run) as txn:
            for event in txn.events.iter():
                txn.events.append("echo", event.sequence)
        assert log.len(run) == 12

    def test_iter_from_outside_the_log(self, log, run):
        """A start beyond the end gives nothing, one before the beginning everything."""
        log.append_many(run, [("e", i) for i in range(3)])
        assert list(log.iter(run, 3)) == list(log.iter(run, 2**70)) == []
        assert len(list(log.iter(run, -1))) == 3

    def test_pages_end_at_their_bytes(self, log, run):
        """Large events come in small pages, all of them."""
        log.append_many(run, [("e", bytes(400_000)) for _ in range(7)])
        assert [event.sequence for event in log.iter(run)] == list(range(7))
        assert len(log._views[run].page(0, 7)) == 3

    @pytest.mark.parametrize(
        "raw", [b"", b"\xc1", b"\x90", codec.pack(7), codec.pack(["t", "p", 1, b"", b""])], ids=repr
    )
    def test_a_damaged_record_is_said(self, memory_db, log, run, raw):
        """A record that is none is CorruptionError on a read, and names the event."""
        log.append_many(run, [("e", 0), ("e", 1)])
        memory_db.engine.put(event_key(prefix_of(run), 1), raw)
        for call in (lambda: log.read(run, 1), lambda: log.head(run), lambda: list(log.iter(run))):
            with pytest.raises(CorruptionError, match="event 1"):
                call()
        assert log.read(run, 0).payload == 0

    def test_damaged_metadata_is_said(self, memory_db, log, run):
        """Nothing is appended to a log whose metadata is none, in a transaction or outside."""
        log.append(run, "e", 0)
        for raw in (b"", b"\xc1", codec.pack([1, bytes(32), "md5", 1]), codec.pack([0, bytes(32), "xxh3", 1])):
            memory_db.engine.put(prefix_of(run) + METADATA, raw)
            with pytest.raises(CorruptionError, match="metadata"):
                log.append(run, "e", 1)
            with pytest.raises(CorruptionError, match="metadata"), memory_db.transaction(run) as txn:
                txn.events.append("e", 1)
            with pytest.raises(CorruptionError, match="metadata"):
                log.len(run)
        assert log.read(run, 1) is None

    def test_an_index_key_without_an_event_is_said(self, memory_db, log, run):
        """read_by_type does not pass over an event that is gone."""
        log.append_many(run, [("e", 0), ("e", 1)])
        memory_db.engine.delete(event_key(prefix_of(run), 0))
        with pytest.raises(CorruptionError, match="event 0"):
            log.read_by_type(run, "e")


class TestFollow:
    def test_what_is_there_comes_first(self, log, run):
        """With timeout 0 follow gives what is there and ends."""
        log.append_many(run, [("e", i) for i in range(300)])
        assert [event.payload for event in log.follow(run, timeout=0)] == list(range(300))
        assert [event.payload for event in log.follow(run, 298, timeout=0)] == [298, 299]
        assert list(log.follow(run, 300, timeout=0)) == []
        assert len(list(log.follow(run, -3, timeout=0.0))) == 300

    def test_events_come_as_they_are_appended(self, log, run):
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

    def test_it_ends_when_nothing_comes(self, log, kv, run):
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
    def test_a_bad_timeout_is_refused_at_the_call(self, log, run, timeout, error):
        """Before anything is waited for."""
        with pytest.raises(error, match="timeout"):
            log.follow(run, timeout=timeout)

    def test_a_closed_database_ends_it(self, store):
        """Who follows a database that is closed is told, however long he would have waited."""
        with shoal.open(store, durability="memory", linger=0.1) as db:
            events = shoal.EventLog(db).follow("run")
            threading.Timer(0.05, db.close).start()
            with pytest.raises(InvalidOperationError, match="closed"):
                next(events)


class TestVerify:
    """Of exported events, with no store."""

    def test_a_log_and_any_slice_of_it(self, filled, run):
        """All of it verifies, and every slice after the hash before it, from any iterable, and after a pickle."""
        events = pickle.loads(pickle.dumps(list(filled.iter(run))))
        assert shoal.EventLog.verify(iter(events)) == shoal.ChainVerification(True, 5)
        for start in range(1, 5):
            before = events[start - 1].hash
            assert shoal.EventLog.verify(events[start:], prev_hash=before) == shoal.ChainVerification(True, 5 - start)
        assert filled.verify([]) == shoal.ChainVerification(True, 0)

    @pytest.mark.parametrize(
        "changed",
        [
            {"sequence": 3},
            {"sequence": True},
            {"sequence": None},
            {"sequence": 2**70},
            {"event_type": "type-1"},
            {"event_type": "\ud800"},
            {"event_type": b"type-2"},
            {"event_type": None},
            {"payload": {"i": 2}},
            {"payload": {"i": 2.0, "more": [2, None]}},
            {"payload": {"i": 2, "more": [2, None, None]}},
            {"payload": {1, 2}},
            {"payload": {1: 1}},
            {"timestamp": 0},
            {"timestamp": 2**62},
            {"timestamp": 2**70},
            {"timestamp": 1.0},
            {"timestamp": None},
            {"prev_hash": bytes(32)},
            {"prev_hash": None},
            {"prev_hash": b""},
            {"hash": bytes(32)},
            {"hash": b"\1" * 32},
            {"hash": None},
        ],
        ids=repr,
    )
    def test_every_change_is_found_where_it_is(self, filled, run, changed):
        """An event with any field changed is named; so is what is no event's field at all, and nothing is raised."""
        events = list(filled.iter(run))
        events[2] = replace(events[2], **changed)
        found = shoal.EventLog.verify(events)
        assert (found.is_valid, bool(found), found.length, found.first_invalid) == (False, False, 5, 2)
        assert "event 2" in found.error
        alone = shoal.EventLog.verify([events[2]], prev_hash=events[1].hash)
        assert not alone.is_valid or "sequence" in changed

    def test_a_changed_event_with_a_hash_that_fits_breaks_the_next(self, log, run):
        """Rewriting one event, hash and all, shows at the one that follows."""
        log.append_many(run, [("e", i) for i in range(4)])
        events = list(log.iter(run))
        forged = replace(events[1], payload="forged")
        fields = (forged.sequence, forged.event_type, canonical(forged.payload), forged.timestamp, forged.prev_hash)
        events[1] = replace(forged, hash=event_hash("xxh3", *fields))
        assert shoal.EventLog.verify(events).first_invalid == 2

    def test_events_that_do_not_follow_each_other(self, filled, run):
        """A gap, a duplicate, another order, a missing beginning and the wrong hash before are all found."""
        events = list(filled.iter(run))
        cases = [
            (events[:2] + events[3:], 2),
            (events[:3] + events[2:], 3),
            ([events[0], events[2], events[1], *events[3:]], 1),
            (events[1:], 0),
            (list(reversed(events)), 0),
        ]
        for given_events, first_invalid in cases:
            found = shoal.EventLog.verify(given_events)
            assert (found.is_valid, found.length, found.first_invalid) == (False, len(given_events), first_invalid)
        assert not shoal.EventLog.verify(events, prev_hash=events[0].hash).is_valid
        assert not shoal.EventLog.verify(events[2:], prev_hash=events[0].hash).is_valid

    def test_a_chain_cannot_change_on_the_way(self, memory_db, run):
        """Events of one chain do not go on with hashes of the other."""
        shoal.EventLog(memory_db, chain="sha256").append_many(run, [("e", 0), ("e", 1)])
        first, second = shoal.EventLog(memory_db).iter(run)
        fields = (1, "e", canonical(1), second.timestamp, first.hash)
        weak = replace(second, hash=event_hash("xxh3", *fields))
        assert shoal.EventLog.verify([first, weak]).first_invalid == 1
        assert shoal.EventLog.verify([weak], prev_hash=first.hash).first_invalid == 1

    def test_timestamps_that_go_back_are_found(self):
        """Even if every hash fits."""
        first = event_hash("xxh3", 0, "e", canonical(1), 2_000, shoal.GENESIS_HASH)
        second = event_hash("xxh3", 1, "e", canonical(2), 1_000, first)
        events = [Event(0, "e", 1, 2_000, shoal.GENESIS_HASH, first), Event(1, "e", 2, 1_000, first, second)]
        found = shoal.EventLog.verify(events)
        assert (found.is_valid, found.first_invalid) == (False, 1)
        assert "timestamp" in found.error

    def test_what_is_no_event_or_hash_is_refused(self, log, run):
        """Arguments of the wrong kind are errors, not findings."""
        log.append(run, "e", 1)
        for events in ([None], [("e", 1)], [log.head(run), {"sequence": 1}]):
            with pytest.raises(TypeError, match="Event"):
                shoal.EventLog.verify(events)
        for prev_hash, error in ((None, TypeError), ("00", TypeError), (b"", ValueError), (bytes(31), ValueError)):
            with pytest.raises(error, match="prev_hash"):
                shoal.EventLog.verify([], prev_hash=prev_hash)


class TestVerifyChain:
    """Of a log where it is stored; damage goes in beneath the log."""

    @staticmethod
    def rewrite(db: DB, run: str, sequence: int, **changed: Any) -> None:
        key = event_key(prefix_of(run), sequence)
        db.engine.put(key, codec.pack(decode_record(sequence, db.engine.find(key).value)._replace(**changed)))

    @staticmethod
    def rewrite_metadata(db: DB, run: str, **changed: Any) -> None:
        key = prefix_of(run) + METADATA
        db.engine.put(key, codec.pack(decode_metadata(db.engine.find(key).value)._replace(**changed)))

    @pytest.mark.parametrize(
        "changed",
        [
            {"event_type": "type-1"},
            {"payload": canonical({"i": 3})},
            {"payload": b""},
            {"timestamp": 0},
            {"timestamp": 2**60},
            {"prev_hash": bytes(32)},
            {"prev_hash": b""},
            {"hash": bytes(32)},
            {"hash": b"no hash"},
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("sequence", [0, 2, 4])
    def test_every_stored_field(self, memory_db, filled, run, sequence, changed):
        """Any field of any stored event changed is found there; a change that changes nothing is none."""
        before = memory_db.engine.find(event_key(prefix_of(run), sequence)).value
        self.rewrite(memory_db, run, sequence, **changed)
        unchanged = before == memory_db.engine.find(event_key(prefix_of(run), sequence)).value
        found = filled.verify_chain(run)
        assert (found.is_valid, found.length, found.first_invalid) == (unchanged, 5, None if unchanged else sequence)

    @pytest.mark.parametrize("raw", [b"", b"\xc1", b"\0" * 50, codec.pack([1, 2, 3, 4, 5]), codec.pack(None)], ids=repr)
    def test_damaged_records_are_reported(self, memory_db, filled, run, raw):
        """A record that is none is a finding, not an exception."""
        memory_db.engine.put(event_key(prefix_of(run), 1), raw)
        found = filled.verify_chain(run)
        assert (found.is_valid, found.length, found.first_invalid) == (False, 5, 1)

    @pytest.mark.parametrize("raw", [b"", b"\xc1", codec.pack(5), codec.pack([5, b"", "xxh3", 0])], ids=repr)
    def test_damaged_metadata_is_reported(self, memory_db, filled, run, raw):
        """Metadata that is none is a finding, not an exception."""
        memory_db.engine.put(prefix_of(run) + METADATA, raw)
        found = filled.verify_chain(run)
        assert (found.is_valid, found.length, found.first_invalid) == (False, 5, None)
        assert "metadata" in found.error

    @pytest.mark.parametrize(
        ("changed", "first_invalid"),
        [
            ({"next_sequence": 4}, 4),
            ({"next_sequence": 6}, 5),
            ({"next_sequence": 2**64 - 1}, 5),
            ({"head_hash": bytes(32)}, 4),
            ({"timestamp": 1}, 4),
        ],
        ids=repr,
    )
    def test_metadata_that_does_not_fit(self, memory_db, filled, run, changed, first_invalid):
        """Metadata says what the last event says, or it is found."""
        self.rewrite_metadata(memory_db, run, **changed)
        found = filled.verify_chain(run)
        assert (found.is_valid, found.first_invalid) == (False, first_invalid)
        assert "metadata" in found.error

    def test_the_other_chain_in_the_metadata(self, memory_db, filled, run):
        """The hashes are of the chain the metadata names."""
        own = decode_metadata(memory_db.engine.find(prefix_of(run) + METADATA).value).chain
        self.rewrite_metadata(memory_db, run, chain=next(chain for chain in CHAINS if chain != own))
        assert filled.verify_chain(run).first_invalid == 0

    def test_events_without_metadata(self, memory_db, filled, run):
        """A log whose metadata is gone is not an empty log."""
        memory_db.engine.delete(prefix_of(run) + METADATA)
        found = filled.verify_chain(run)
        assert (found.is_valid, found.length, found.first_invalid) == (False, 0, 0)

    def test_the_type_index(self, memory_db, filled, run):
        """A type's head that is missing, wrong, or of a type without events is found, and so is a broken link to it."""
        key = type_key(prefix_of(run), b"type-0")
        head = decode_head(memory_db.engine.find(key).value)
        memory_db.engine.delete(key)
        found = filled.verify_chain(run)
        assert (found.is_valid, found.first_invalid) == (False, head.newest - 1)
        assert "the type index has no events 'type-0'" in found.error
        for wrong in (
            head._replace(events=head.events - 1),
            head._replace(newest=head.newest - 1),
            [0, 0],
            ["", 1],
            [],
        ):
            memory_db.engine.put(key, codec.pack(wrong))
            found = filled.verify_chain(run)
            assert (found.is_valid, found.first_invalid) == (False, head.newest - 1)
            assert "type-0" in found.error
        memory_db.engine.put(key, codec.pack(head))
        for stranger in (b"", b"type-9", b"\xff"):
            memory_db.engine.put(type_key(prefix_of(run), stranger), codec.pack(TypeHead(1, 1)))
            assert not filled.verify_chain(run).is_valid
            memory_db.engine.delete(type_key(prefix_of(run), stranger))
        assert filled.verify_chain(run).is_valid
        event = event_key(prefix_of(run), head.newest - 1)
        record = decode_record(head.newest - 1, memory_db.engine.find(event).value)
        memory_db.engine.put(event, codec.pack(record._replace(before=record.before - 1)))
        found = filled.verify_chain(run)
        assert (found.is_valid, found.first_invalid) == (False, head.newest - 1)
        assert "in the index of its type" in found.error

    def test_keys_that_are_no_events(self, memory_db, filled, run):
        """A key of another length among the events is found."""
        for rest in (b"", b"\0", bytes(7) + b"\1\0", key_space.number(9)):
            memory_db.engine.put(prefix_of(run) + EVENT + rest, b"")
            assert not filled.verify_chain(run).is_valid
            memory_db.engine.delete(prefix_of(run) + EVENT + rest)
        assert filled.verify_chain(run).is_valid

    def test_in_a_transaction_own_events_count(self, memory_db, filled, run):
        """A transaction verifies what it sees."""
        with memory_db.transaction(run) as txn:
            txn.events.append("mine", 1)
            assert txn.events.verify_chain() == shoal.ChainVerification(True, 6)
        assert filled.verify_chain(run).length == 6


class TestAnchors:
    def test_an_anchor_holds_while_the_log_grows(self, filled, run):
        """Every earlier anchor stays good, that of the empty log, too; it can be kept as a value."""
        anchors = [shoal.Anchor(0, shoal.GENESIS_HASH), filled.anchor(run)]
        assert anchors[1] == (5, filled.head(run).hash)
        filled.append(run, "more", 1)
        anchors.append(shoal.Anchor(*codec.decode(codec.encode(filled.anchor(run)))))
        for anchor in anchors:
            assert filled.verify_chain(run, anchor=anchor) == shoal.ChainVerification(True, 6)

    def _forge(self, db: DB, run: str, payloads: list[Any]) -> None:
        """Another log in the place of the first, sound in itself."""
        db.engine.clear(prefix_of(run), key_space.after(prefix_of(run)))
        shoal.EventLog(db, chain="sha256").append_many(run, [("e", payload) for payload in payloads])

    def test_a_log_that_was_cut(self, memory_db, filled, run):
        """A sound log that is shorter than it was, or gone, is found by the anchor alone."""
        anchor = filled.anchor(run)
        self._forge(memory_db, run, [0, 1])
        assert filled.verify_chain(run).is_valid
        found = filled.verify_chain(run, anchor)
        assert (found.is_valid, found.length, found.first_invalid) == (False, 2, 2)
        assert "cut" in found.error
        self._forge(memory_db, run, [])
        assert filled.verify_chain(run, anchor).first_invalid == 0

    def test_a_log_that_was_rewritten(self, memory_db, filled, run):
        """A sound log of the same or greater length with another past is found by the anchor alone."""
        anchor = filled.anchor(run)
        for length in (5, 8):
            self._forge(memory_db, run, list(range(length)))
            assert filled.verify_chain(run).is_valid
            found = filled.verify_chain(run, anchor)
            assert (found.is_valid, found.first_invalid) == (False, 4)
            assert "rewritten" in found.error

    @pytest.mark.parametrize(
        ("anchor", "error"),
        [
            ((5, bytes(32)), TypeError),
            ("anchor", TypeError),
            (shoal.Anchor("5", bytes(32)), TypeError),
            (shoal.Anchor(True, bytes(32)), TypeError),
            (shoal.Anchor(-1, bytes(32)), ValueError),
            (shoal.Anchor(1, None), TypeError),
            (shoal.Anchor(1, b"short"), ValueError),
        ],
        ids=repr,
    )
    def test_what_is_no_anchor_is_refused(self, log, run, anchor, error):
        """Anything but an Anchor of a length and a hash."""
        with pytest.raises(error, match="anchor"):
            log.verify_chain(run, anchor=anchor)

    def test_an_anchor_of_no_log(self, log, run):
        """Length 0 with a hash was never given out."""
        assert not log.verify_chain(run, shoal.Anchor(0, b"\1" * 32)).is_valid


class TestTransactions:
    def test_all_reads_see_own_appends(self, memory_db, log, run):
        """Own events are part of the log in every read, scans and the type index included."""
        log.append_many(run, [("a", 0), ("b", 1)])
        with memory_db.transaction(run) as txn:
            events = txn.events
            appended = [events.append("a", 2), *events.append_many([("b", 3), ("a", 4)])]
            assert [each.sequence for each in appended] == [2, 3, 4]
            assert [event.payload for event in events.iter()] == [0, 1, 2, 3, 4]
            assert [event.payload for event in events.read_range(1, 4)] == [1, 2, 3]
            assert [event.payload for event in events.read_by_type("a")] == [0, 2, 4]
            assert (events.head().hash, events.len(), events.is_empty()) == (appended[2].hash, 5, False)
            assert events.anchor() == (5, appended[2].hash)
            stored = list(events.iter())
        assert list(log.iter(run)) == stored
        assert log.verify_chain(run).is_valid

    def test_an_append_meanwhile_is_a_conflict(self, memory_db, log, run):
        """The sequence a transaction was told is validated: it commits only if it is still its own."""
        with pytest.raises(ConflictError) as caught, memory_db.transaction(run) as txn:
            assert txn.events.append("mine", 1).sequence == 0
            log.append(run, "theirs", 2)
        assert caught.value.key == "events"
        assert [event.event_type for event in log.iter(run)] == ["theirs"]
        assert memory_db.transact(run, lambda txn: txn.events.append("mine", 1)).sequence == 1

    def test_reads_of_what_cannot_change_do_not_conflict(self, memory_db, log, kv, run):
        """Events that are there never change: reading them, and no further, conflicts with no append."""
        log.append_many(run, [("a", 0), ("b", 1), ("a", 2)])
        with memory_db.transaction(run) as txn:
            assert txn.events.read(1).payload == 1
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
    def test_reads_that_saw_the_end_conflict(self, memory_db, log, run, read):
        """A read that an append would have changed is a conflict at commit."""
        log.append_many(run, [("a", 0), ("b", 1), ("a", 2)])
        with pytest.raises(ConflictError), memory_db.transaction(run) as txn:
            read(txn.events)
            log.append(run, "a", 3)
            txn.kv.put("done", True)

    def test_a_snapshot_reads_and_refuses_to_write(self, memory_db, log, run):
        """A snapshot sees the log as it was; a write through it is refused."""
        log.append(run, "e", 0)
        with memory_db.snapshot(run) as view:
            log.append(run, "e", 1)
            assert (view.events.len(), len(list(view.events.iter()))) == (1, 1)
            assert view.events.verify_chain() == shoal.ChainVerification(True, 1)
            with pytest.raises(InvalidOperationError, match="snapshot"):
                view.events.append("e", 2)

    def test_the_facades_transaction(self, memory_db, run):
        """The facade's own transaction is one of its namespace."""
        log = shoal.EventLog(memory_db, namespace=shoal.Namespace(agent="other"))
        with log.transaction(run) as txn:
            txn.events.append("e", 1)
        assert (log.len(run), shoal.EventLog(memory_db).len(run)) == (1, 0)


class TestRestore:
    """What an import uses: events come back exactly as they were exported."""

    def restore(self, db: DB, run: str, events: Any) -> None:
        event_log.EventView(db.engine, shoal.Namespace(), run).restore(events)

    def test_a_log_comes_back_and_goes_on(self, memory_db, filled, run):
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

    def test_in_a_transaction(self, memory_db, filled, run):
        """Restored events commit with the rest of their transaction, or not at all."""
        events = list(filled.iter(run))
        with pytest.raises(RuntimeError), memory_db.transaction(run) as txn:
            txn.on(run + "-lost").events.restore(events)
            raise RuntimeError
        assert filled.is_empty(run + "-lost")
        with memory_db.transaction(run) as txn:
            txn.on(run + "-kept").events.restore(events)
            assert txn.on(run + "-kept").events.head() == events[-1]
        assert list(filled.iter(run + "-kept")) == events

    def test_what_does_not_fit_is_refused(self, memory_db, filled, run):
        """Events that are changed, or do not follow what is there, are refused whole."""
        events = list(filled.iter(run))
        other = run + "-other"
        self.restore(memory_db, other, events[:2])
        for wrong in (
            events,
            events[1:],
            events[3:],
            [events[2], events[4]],
            [replace(events[2], payload="forged")],
            [replace(events[2], timestamp=None)],
            [replace(events[2], event_type="")],
            [replace(events[2], hash=None)],
        ):
            with pytest.raises(ValueError, match=r"restore the events|event_type"):
                self.restore(memory_db, other, wrong)
        for wrong in ([None], [{"sequence": 2}], [*events[2:], None]):
            with pytest.raises(TypeError):
                self.restore(memory_db, other, wrong)
        self.restore(memory_db, other, [])
        assert list(filled.iter(other)) == events[:2]


class TestOperations:
    """What comes through a pipe may be anything."""

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            (operations.EVENT_APPEND, []),
            (operations.EVENT_APPEND, ["xxh3"]),
            (operations.EVENT_APPEND, ["md5", [["e", b"\xc0"]]]),
            (operations.EVENT_APPEND, ["xxh3", [["e"]]]),
            (operations.EVENT_APPEND, ["xxh3", [["", b"\xc0"]]]),
            (operations.EVENT_APPEND, ["xxh3", [["x" * 1025, b"\xc0"]]]),
            (operations.EVENT_APPEND, ["xxh3", [["e", "text"]]]),
            (operations.EVENT_APPEND, ["xxh3", [["e", None]]]),
            (operations.EVENT_APPEND, ["xxh3", [[7, b"\xc0"]]]),
            (operations.EVENT_APPEND, [None, None]),
            (operations.EVENT_RESTORE, []),
            (operations.EVENT_RESTORE, [[]]),
            (operations.EVENT_RESTORE, [[[0, "e", b"\xc0", 1, bytes(32), bytes(32)]]]),
            (operations.EVENT_RESTORE, [[[0, "e", b"\xc0", 1, bytes(32), None]]]),
            (operations.EVENT_RESTORE, [None]),
        ],
        ids=repr,
    )
    def test_bad_arguments_are_refused_and_nothing_is_written(self, memory_db, log, run, name, arguments):
        """The coordinator refuses what no facade sends, and goes on."""
        with pytest.raises((ValueError, TypeError)):
            memory_db.engine.perform(name, [prefix_of(run) + METADATA, *arguments])
        with pytest.raises((ValueError, TypeError)):
            memory_db.engine.perform(name, [b"k" * 4096, *arguments])
        assert keys_of(memory_db, run) == []
        assert log.append(run, "e", 1).sequence == 0

    def test_the_keys_are_those_of_the_key_space(self, memory_db, log, run):
        """Numbers and texts inside the keys have the form of every primitive's."""
        log.append(run, "e\0", 1)
        assert keys_of(memory_db, run) == [
            prefix_of(run) + b"\0",
            prefix_of(run) + b"\1" + key_space.number(0),
            prefix_of(run) + b"\2e\0",
        ]


def _reader(state: dict[bytes, bytes]) -> Callable[[bytes], Found | None]:
    return lambda key: Found(state[key], 1, 0) if key in state else None


def test_a_facades_transaction_begins_logs_with_its_chain(memory_db, run):
    """The first append in a facade's own transaction is hashed as the facade's single calls are, on any run."""
    log = shoal.EventLog(memory_db, chain="sha256")
    with log.transaction(run) as txn:
        hashes = [txn.events.append("a", 1).hash, txn.on(f"{run}-2").events.append("a", 1).hash]
    assert all(each[16:] != bytes(16) for each in hashes)
    with memory_db.transaction(f"{run}-3") as txn:
        assert txn.events.append("a", 1).hash[16:] == bytes(16)
