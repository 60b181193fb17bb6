"""Verification of a log, of an export, and against an anchor."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest

import shoal
from shoal import Event
from shoal.primitives import keys as key_space
from shoal.primitives.rules.event_rules import (
    EVENT,
    METADATA,
    TypeHead,
    decode_head,
    decode_metadata,
    event_key,
    type_key,
)
from shoal.primitives.rules.hash_chain import CHAINS, canonical, event_hash
from shoal.shm import codec
from tests.support.present import present
from tests.support.primitives.event_logs import DB, prefix_of, record_of, rewrite_event


class TestVerify:
    """Of exported events, with no store."""

    def test_a_log_and_any_slice_of_it(self, filled: shoal.EventLog, run: str) -> None:
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
    def test_every_change_is_found_where_it_is(self, filled: shoal.EventLog, run: str, changed: Any) -> None:
        """An event with any field changed is named; so is what is no event's field at all, and nothing is raised."""
        events = list(filled.iter(run))
        events[2] = replace(events[2], **changed)
        found = shoal.EventLog.verify(events)
        assert (found.is_valid, bool(found), found.length, found.first_invalid) == (False, False, 5, 2)
        assert "event 2" in present(found.error)
        alone = shoal.EventLog.verify([events[2]], prev_hash=events[1].hash)
        assert not alone.is_valid or "sequence" in changed

    def test_a_changed_event_with_a_hash_that_fits_breaks_the_next(self, log: shoal.EventLog, run: str) -> None:
        """Rewriting one event, hash and all, shows at the one that follows."""
        log.append_many(run, [("e", i) for i in range(4)])
        events = list(log.iter(run))
        forged = replace(events[1], payload="forged")
        fields = (forged.sequence, forged.event_type, canonical(forged.payload), forged.timestamp, forged.prev_hash)
        events[1] = replace(forged, hash=event_hash("xxh3", *fields))
        assert shoal.EventLog.verify(events).first_invalid == 2

    def test_events_that_do_not_follow_each_other(self, filled: shoal.EventLog, run: str) -> None:
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

    def test_a_chain_cannot_change_on_the_way(self, memory_db: shoal.Database, run: str) -> None:
        """Events of one chain do not go on with hashes of the other."""
        shoal.EventLog(memory_db, chain="sha256").append_many(run, [("e", 0), ("e", 1)])
        first, second = shoal.EventLog(memory_db).iter(run)
        fields = (1, "e", canonical(1), second.timestamp, first.hash)
        weak = replace(second, hash=event_hash("xxh3", *fields))
        assert shoal.EventLog.verify([first, weak]).first_invalid == 1
        assert shoal.EventLog.verify([weak], prev_hash=first.hash).first_invalid == 1

    def test_timestamps_that_go_back_are_found(self) -> None:
        """Even if every hash fits."""
        first = event_hash("xxh3", 0, "e", canonical(1), 2_000, shoal.GENESIS_HASH)
        second = event_hash("xxh3", 1, "e", canonical(2), 1_000, first)
        events = [Event(0, "e", 1, 2_000, shoal.GENESIS_HASH, first), Event(1, "e", 2, 1_000, first, second)]
        found = shoal.EventLog.verify(events)
        assert (found.is_valid, found.first_invalid) == (False, 1)
        assert "timestamp" in present(found.error)

    def test_what_is_no_event_or_hash_is_refused(self, log: shoal.EventLog, run: str) -> None:
        """Arguments of the wrong kind are errors, not findings."""
        log.append(run, "e", 1)
        no_events: list[Any] = [[None], [("e", 1)], [log.head(run), {"sequence": 1}]]
        for events in no_events:
            with pytest.raises(TypeError, match="Event"):
                shoal.EventLog.verify(events)
        no_hashes: list[tuple[Any, type[Exception]]] = [
            (None, TypeError),
            ("00", TypeError),
            (b"", ValueError),
            (bytes(31), ValueError),
        ]
        for prev_hash, error in no_hashes:
            with pytest.raises(error, match="prev_hash"):
                shoal.EventLog.verify([], prev_hash=prev_hash)


class TestVerifyChain:
    """Of a log where it is stored; damage goes in beneath the log."""

    @staticmethod
    def rewrite_metadata(db: DB, run: str, **changed: Any) -> None:
        key = prefix_of(run) + METADATA
        db._store.auto_commit.put(
            key, codec.pack(decode_metadata(present(db._store.auto_commit.find(key)).value)._replace(**changed))
        )

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
    def test_every_stored_field(
        self, memory_db: shoal.Database, filled: shoal.EventLog, run: str, sequence: int, changed: Any
    ) -> None:
        """Any field of any stored event changed is found there; a change that changes nothing is none."""
        before = record_of(memory_db, run, sequence)
        rewrite_event(memory_db, run, sequence, **changed)
        unchanged = before == record_of(memory_db, run, sequence)
        found = filled.verify_chain(run)
        assert (found.is_valid, found.length, found.first_invalid) == (unchanged, 5, None if unchanged else sequence)

    @pytest.mark.parametrize(
        "raw", [b"", b"\xc1", b"\0" * 50, codec.pack([1, 2, 3, 4, 5]), codec.pack([]), codec.pack(None)], ids=repr
    )
    def test_damaged_records_are_reported(
        self, memory_db: shoal.Database, filled: shoal.EventLog, run: str, raw: Any
    ) -> None:
        """A record that is none is a finding, not an exception."""
        memory_db._store.auto_commit.put(event_key(prefix_of(run), 1), raw)
        found = filled.verify_chain(run)
        assert (found.is_valid, found.length, found.first_invalid) == (False, 5, 1)

    @pytest.mark.parametrize("raw", [b"", b"\xc1", codec.pack(5), codec.pack([5, b"", "xxh3", 0])], ids=repr)
    def test_damaged_metadata_is_reported(
        self, memory_db: shoal.Database, filled: shoal.EventLog, run: str, raw: Any
    ) -> None:
        """Metadata that is none is a finding, not an exception."""
        memory_db._store.auto_commit.put(prefix_of(run) + METADATA, raw)
        found = filled.verify_chain(run)
        assert (found.is_valid, found.length, found.first_invalid) == (False, 5, None)
        assert "metadata" in present(found.error)

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
    def test_metadata_that_does_not_fit(
        self, memory_db: shoal.Database, filled: shoal.EventLog, run: str, changed: Any, first_invalid: int
    ) -> None:
        """Metadata says what the last event says, or it is found."""
        self.rewrite_metadata(memory_db, run, **changed)
        found = filled.verify_chain(run)
        assert (found.is_valid, found.first_invalid) == (False, first_invalid)
        assert "metadata" in present(found.error)

    def test_the_other_chain_in_the_metadata(self, memory_db: shoal.Database, filled: shoal.EventLog, run: str) -> None:
        """The hashes are of the chain the metadata names."""
        own = decode_metadata(present(memory_db._store.auto_commit.find(prefix_of(run) + METADATA)).value).chain
        self.rewrite_metadata(memory_db, run, chain=next(chain for chain in CHAINS if chain != own))
        assert filled.verify_chain(run).first_invalid == 0

    def test_events_without_metadata(self, memory_db: shoal.Database, filled: shoal.EventLog, run: str) -> None:
        """A log whose metadata is gone is not an empty log."""
        memory_db._store.auto_commit.delete(prefix_of(run) + METADATA)
        found = filled.verify_chain(run)
        assert (found.is_valid, found.length, found.first_invalid) == (False, 0, 0)

    def test_the_type_index(self, memory_db: shoal.Database, filled: shoal.EventLog, run: str) -> None:
        """A type's head that is missing, wrong, or of a type without events is found, and so is a broken link to it."""
        key = type_key(prefix_of(run), b"type-0")
        head = decode_head(present(memory_db._store.auto_commit.find(key)).value)
        memory_db._store.auto_commit.delete(key)
        found = filled.verify_chain(run)
        assert (found.is_valid, found.first_invalid) == (False, head.newest - 1)
        assert "the type index has no events 'type-0'" in present(found.error)
        for wrong in (
            head._replace(events=head.events - 1),
            head._replace(newest=head.newest - 1),
            [0, 0],
            ["", 1],
            [],
        ):
            memory_db._store.auto_commit.put(key, codec.pack(wrong))
            found = filled.verify_chain(run)
            assert (found.is_valid, found.first_invalid) == (False, head.newest - 1)
            assert "type-0" in present(found.error)
        memory_db._store.auto_commit.put(key, codec.pack(head))
        for stranger in (b"", b"type-9", b"\xff"):
            memory_db._store.auto_commit.put(type_key(prefix_of(run), stranger), codec.pack(TypeHead(1, 1)))
            assert not filled.verify_chain(run).is_valid
            memory_db._store.auto_commit.delete(type_key(prefix_of(run), stranger))
        assert filled.verify_chain(run).is_valid
        _, events = record_of(memory_db, run, head.newest - 1)
        rewrite_event(memory_db, run, head.newest - 1, before=events[head.newest - 1].before - 1)
        found = filled.verify_chain(run)
        assert (found.is_valid, found.first_invalid) == (False, head.newest - 1)
        assert "in the index of its type" in present(found.error)

    def test_keys_that_are_no_events(self, memory_db: shoal.Database, filled: shoal.EventLog, run: str) -> None:
        """A key of another length among the events is found."""
        for rest in (b"", b"\0", bytes(7) + b"\1\0", key_space.number(9)):
            memory_db._store.auto_commit.put(prefix_of(run) + EVENT + rest, b"")
            assert not filled.verify_chain(run).is_valid
            memory_db._store.auto_commit.delete(prefix_of(run) + EVENT + rest)
        assert filled.verify_chain(run).is_valid

    def test_in_a_transaction_own_events_count(
        self, memory_db: shoal.Database, filled: shoal.EventLog, run: str
    ) -> None:
        """A transaction verifies what it sees."""
        with memory_db.transaction(run) as txn:
            txn.events.append("mine", 1)
            assert txn.events.verify_chain() == shoal.ChainVerification(True, 6)
        assert filled.verify_chain(run).length == 6


class TestAnchors:
    def test_an_anchor_holds_while_the_log_grows(self, filled: shoal.EventLog, run: str) -> None:
        """Every earlier anchor stays good, that of the empty log, too; it can be kept as a value."""
        anchors = [shoal.Anchor(0, shoal.GENESIS_HASH), filled.anchor(run)]
        assert anchors[1] == (5, present(filled.head(run)).hash)
        filled.append(run, "more", 1)
        anchors.append(shoal.Anchor(*codec.decode(codec.encode(filled.anchor(run)))))
        for anchor in anchors:
            assert filled.verify_chain(run, anchor=anchor) == shoal.ChainVerification(True, 6)

    def _forge(self, db: DB, run: str, payloads: list[Any]) -> None:
        """Another log in the place of the first, sound in itself."""
        db._store.auto_commit.clear(prefix_of(run), key_space.after(prefix_of(run)))
        shoal.EventLog(db, chain="sha256").append_many(run, [("e", payload) for payload in payloads])

    def test_a_log_that_was_cut(self, memory_db: shoal.Database, filled: shoal.EventLog, run: str) -> None:
        """A sound log that is shorter than it was, or gone, is found by the anchor alone."""
        anchor = filled.anchor(run)
        self._forge(memory_db, run, [0, 1])
        assert filled.verify_chain(run).is_valid
        found = filled.verify_chain(run, anchor)
        assert (found.is_valid, found.length, found.first_invalid) == (False, 2, 2)
        assert "cut" in present(found.error)
        self._forge(memory_db, run, [])
        assert filled.verify_chain(run, anchor).first_invalid == 0

    def test_a_log_that_was_rewritten(self, memory_db: shoal.Database, filled: shoal.EventLog, run: str) -> None:
        """A sound log of the same or greater length with another past is found by the anchor alone."""
        anchor = filled.anchor(run)
        for length in (5, 8):
            self._forge(memory_db, run, list(range(length)))
            assert filled.verify_chain(run).is_valid
            found = filled.verify_chain(run, anchor)
            assert (found.is_valid, found.first_invalid) == (False, 4)
            assert "rewritten" in present(found.error)

    @pytest.mark.parametrize(
        ("anchor", "error"),
        [
            ((5, bytes(32)), TypeError),
            ("anchor", TypeError),
            (shoal.Anchor("5", bytes(32)), TypeError),  # type: ignore[arg-type]  # it is refused
            (shoal.Anchor(True, bytes(32)), TypeError),
            (shoal.Anchor(-1, bytes(32)), ValueError),
            (shoal.Anchor(1, None), TypeError),  # type: ignore[arg-type]  # it is refused
            (shoal.Anchor(1, b"short"), ValueError),
        ],
        ids=repr,
    )
    def test_what_is_no_anchor_is_refused(
        self, log: shoal.EventLog, run: str, anchor: Any, error: type[Exception]
    ) -> None:
        """Anything but an Anchor of a length and a hash."""
        with pytest.raises(error, match="anchor"):
            log.verify_chain(run, anchor=anchor)

    def test_an_anchor_of_no_log(self, log: shoal.EventLog, run: str) -> None:
        """Length 0 with a hash was never given out."""
        assert not log.verify_chain(run, shoal.Anchor(0, b"\1" * 32)).is_valid
