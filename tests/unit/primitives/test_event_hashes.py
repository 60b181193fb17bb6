"""What an event's hash is made of: canonical payloads, chains, and the hashed bytes."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, ClassVar

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from shoal import Event, LimitExceededError
from shoal.primitives.rules.event_rules import METADATA, decode_metadata
from shoal.primitives.rules.hash_chain import canonical, event_hash
from shoal.shm import codec
from tests.support.present import present
from tests.support.primitives.event_logs import keys_of, prefix_of


class TestHashes:
    """Hashes are the same for ever: every value here is pinned."""

    EVENTS: ClassVar[tuple[tuple[str, Any, int], ...]] = (
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
    def test_hashes_never_change(self, chain: str) -> None:
        """Each event's hash is what it was when the format was made."""
        head = shoal.GENESIS_HASH
        for i, (event_type, payload, timestamp) in enumerate(self.EVENTS):
            head = event_hash(chain, i, event_type, canonical(payload), timestamp, head)
            assert head.hex() == self.PINNED[chain][i]

    def test_hashes_are_what_the_description_says(self) -> None:
        """Anybody can compute them: the named digest of the described bytes, the padding behind a short one."""
        assert hashlib.sha256(self.FIRST_HASHED).hexdigest() == self.PINNED["sha256"][0]
        assert xxhash.xxh3_128_hexdigest(self.FIRST_HASHED) + 32 * "0" == self.PINNED["xxh3"][0]

    @pytest.mark.parametrize("chain", PINNED)
    def test_exported_events_of_the_pinned_chain_verify(self, chain: str) -> None:
        """What was exported under this format stays valid under it."""
        heads = [shoal.GENESIS_HASH, *map(bytes.fromhex, self.PINNED[chain])]
        events = [Event(i, *self.EVENTS[i], heads[i], heads[i + 1]) for i in range(3)]
        assert shoal.EventLog.verify(events) == shoal.ChainVerification(True, 3)

    def test_a_stored_event_has_the_described_hash(self, filled: shoal.EventLog, run: str) -> None:
        """What append stores and returns is event_hash of the event's own fields."""
        chain = decode_metadata(present(filled._db._store.auto_commit.find(prefix_of(run) + METADATA)).value).chain
        for event in filled.iter(run):
            fields = (event.sequence, event.event_type, canonical(event.payload), event.timestamp, event.prev_hash)
            assert event.hash == event_hash(chain, *fields)
            assert (event.hash[16:] == bytes(16)) == (chain == "xxh3")


class TestCanonicalPayloads:
    def test_the_bytes_never_change(self) -> None:
        """The canonical form of a value with everything in it is what it was."""
        moment = datetime(2026, 1, 2, 8, 34, 5, 678901, timezone(timedelta(hours=5, minutes=30)))
        value = {"b": [(1, {"z": -math.nan, "a": -0.0})], "a": moment, "\ud800": 1}
        assert canonical(value).hex() == (
            "c183a161d7ffa1dcd420695735a5a16291920182a161cb8000000000000000a17acb7ff8000000000000a3eda08001"
        )

    def test_types_differ_and_order_does_not(self) -> None:
        """1, 1.0 and True are three payloads, as are the zeros; the order of dicts, tuple or list, and NaNs are one."""
        groups: list[list[Any]] = [
            [1, 1.0, True, "1", b"1"],
            [0, 0.0, -0.0, False, None, ""],
            [{}, []],
            [{"a": 1}, [["a", 1]]],
        ]
        for different in groups:
            assert len({canonical({"in": [value]}) for value in different}) == len(different)
        for same in ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], [(1, [2]), [1, (2,)]], [math.nan, -math.nan]):
            assert len({canonical(value) for value in same}) == 1
            assert len({canonical({"in": [value]}) for value in same}) == 1

    def test_dicts_read_back_sorted(self, log: shoal.EventLog, run: str) -> None:
        """Keys come back in the order of their code points, at every depth."""
        log.append(run, "e", {"b": 1, "é": 2, "a": {"\U0010ffff": 1, "\uffff": 2, "": 3}})
        payload = present(log.read(run, 0)).payload
        assert list(payload) == ["a", "b", "é"]
        assert list(payload["a"]) == ["", "\uffff", "\U0010ffff"]

    @pytest.mark.long
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
    def test_what_is_read_back_has_the_same_form(self, value: Any) -> None:
        """A payload that was stored and read is the same payload: exported events verify."""
        raw = canonical(value)
        assert canonical(codec.decode(raw)) == raw

    def test_a_text_that_is_no_utf_8_and_a_datetime(self, log: shoal.EventLog, run: str) -> None:
        """Values msgpack alone does not know read back, and verify."""
        payload = {"path": "\udcff", "\ud800": datetime(2026, 1, 2, tzinfo=UTC)}
        log.append(run, "e", payload)
        assert present(log.read(run, 0)).payload == payload
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
    def test_what_cannot_be_stored_is_named(
        self, memory_db: shoal.Database, log: shoal.EventLog, run: str, value: Any, error: type[Exception], path: str
    ) -> None:
        """A payload that cannot be stored is refused with its place, and nothing of its append is there."""
        with pytest.raises(error, match=path):
            log.append(run, "e", value)
        with pytest.raises(error, match=path):
            log.append_many(run, [("good", 1), ("bad", value)])
        assert keys_of(memory_db, run) == []

    def test_nesting_without_end_is_refused(self, log: shoal.EventLog, run: str) -> None:
        """A value inside itself is a limit exceeded, not a stack exceeded."""
        endless: dict[str, Any] = {}
        endless["again"] = [endless]
        with pytest.raises(LimitExceededError, match="nesting"):
            log.append(run, "e", endless)


class TestChains:
    def test_the_first_append_fixes_the_chain(self, memory_db: shoal.Database, run: str) -> None:
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
    def test_an_unknown_chain_is_refused(self, memory_db: shoal.Database, chain: Any, error: type[Exception]) -> None:
        """Only the two there are, by name."""
        with pytest.raises(error, match="xxh3, sha256"):
            shoal.EventLog(memory_db, chain=chain)
