"""Acceptance of ``EventLog``. Each test is a line of docs/acceptance.md."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
from typing import Any

import pytest

import shoal
from shoal.primitives.rules.event_rules import Metadata, append
from shoal.primitives.rules.hash_chain import canonical
from shoal.shm.operation import Read
from tests.support.present import present
from tests.support.primitives.event_logs import remove_event, rewrite_event

DB = shoal.Database
_FORK = multiprocessing.get_context("fork")
_WRITERS = 4
_APPENDS = 25


@pytest.fixture
def log(memory_db: DB) -> shoal.EventLog:
    """A log facade of the shared store."""
    return shoal.EventLog(memory_db)


def test_09_event_struct_serializes_and_deserializes(log: shoal.EventLog, run: str) -> None:
    """Every field of an event reads back from the store and survives a pickle; an event cannot be changed."""
    appended = log.append(run, "started", {"b": [1, 1.5, None], "a": b"raw"})
    event = present(log.read(run, 0))
    assert event == shoal.Event(
        0, "started", {"a": b"raw", "b": [1, 1.5, None]}, event.timestamp, shoal.GENESIS_HASH, appended.hash
    )
    assert pickle.loads(pickle.dumps(event)) == event
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.payload = None  # type: ignore[misc]  # frozen


def test_09_metadata_default_has_genesis_hash(log: shoal.EventLog, run: str) -> None:
    """A log without events is at sequence 0 and at the genesis hash, 32 zero bytes."""
    assert Metadata()[:2] == (0, bytes(32))
    assert bytes(32) == shoal.GENESIS_HASH
    assert log.anchor(run) == shoal.Anchor(0, shoal.GENESIS_HASH)


def test_09_new_creates_instance(memory_db: DB) -> None:
    """``EventLog`` takes a database and, if wanted, a namespace; anything else is refused."""
    assert shoal.EventLog(memory_db).namespace == shoal.Namespace()
    assert shoal.EventLog(memory_db, namespace=shoal.Namespace("t")).namespace.tenant == "t"
    with pytest.raises(TypeError, match=r"shoal\.open"):
        shoal.EventLog(None)


def test_10_append_returns_sequence_0_for_first_event(log: shoal.EventLog, run: str) -> None:
    """The first event of a log has sequence 0 and follows the genesis hash."""
    sequence, event_hash = log.append(run, "first", None)
    assert sequence == 0
    assert len(event_hash) == 32
    assert present(log.read(run, 0)).prev_hash == shoal.GENESIS_HASH


def test_10_append_increments_sequence(log: shoal.EventLog, run: str) -> None:
    """Each event has the next sequence; each run has sequences of its own."""
    assert [log.append(run, "e", i).sequence for i in range(5)] == [0, 1, 2, 3, 4]
    assert log.append(run + "-other", "e", 0).sequence == 0


def test_10_append_chains_hashes_correctly(log: shoal.EventLog, run: str) -> None:
    """Each event holds the hash of the event before it, and ``append`` returns the event's own hash."""
    appended = [log.append(run, "e", i) for i in range(5)]
    events = log.read_range(run, 0, 5)
    assert [event.hash for event in events] == [each.hash for each in appended]
    assert [event.prev_hash for event in events] == [shoal.GENESIS_HASH] + [each.hash for each in appended[:-1]]
    assert len({event.hash for event in events}) == 5


def _append_many_times(log: shoal.EventLog, run: str, writer: int) -> None:
    for i in range(_APPENDS):
        log.append(run, f"writer-{writer}", i)


def test_10_parallel_appends_serialize_without_sequence_gaps(log: shoal.EventLog, run: str) -> None:
    """Four processes append to one log: no gap, no duplicate, no conflict, and each process's events in its order."""
    writers = [_FORK.Process(target=_append_many_times, args=(log, run, i)) for i in range(_WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * _WRITERS
    events = list(log.iter(run))
    assert [event.sequence for event in events] == list(range(_WRITERS * _APPENDS))
    for i in range(_WRITERS):
        assert [event.payload for event in log.read_by_type(run, f"writer-{i}")] == list(range(_APPENDS))
    assert log.verify_chain(run) == shoal.ChainVerification(True, _WRITERS * _APPENDS)


def test_10_hash_chain_is_deterministic() -> None:
    """The same events at the same times have the same hashes, whatever the order of the keys in their payloads."""

    def nothing(key: bytes) -> None:
        return None

    def hashes(*payloads: Any) -> list[Any]:
        read: Read = nothing
        entries = [["e", canonical(payload)] for payload in payloads]
        found: list[Any] = append(read, 1_000, b"log\0", "xxh3", entries).result
        return found

    assert hashes({"a": 1, "b": {"c": 2, "d": 3}}, 5) == hashes({"b": {"d": 3, "c": 2}, "a": 1}, 5)
    assert hashes(1)[0] != hashes(2)[0]


def test_11_read_returns_event_by_sequence(log: shoal.EventLog, run: str) -> None:
    """``read`` returns the event that ``append`` stored at that sequence."""
    for i in range(3):
        log.append(run, f"type-{i}", {"i": i})
    event = present(log.read(run, 1))
    assert (event.sequence, event.event_type, event.payload) == (1, "type-1", {"i": 1})


def test_11_read_returns_none_for_invalid_sequence(log: shoal.EventLog, run: str) -> None:
    """``read`` returns None for a sequence beyond the log, below 0, or beyond 64 bits."""
    log.append(run, "e", 1)
    assert [log.read(run, sequence) for sequence in (1, -1, 2**64 - 1, 2**64, -(10**30))] == [None] * 5
    assert log.read(run + "-none", 0) is None


def test_11_read_range_returns_events_in_order(log: shoal.EventLog, run: str) -> None:
    """``read_range`` returns the events of ``[start, end)`` that are there, in order."""
    log.append_many(run, [("e", i) for i in range(300)])

    def payloads(start: int, end: int) -> list[Any]:
        return [event.payload for event in log.read_range(run, start, end)]

    assert payloads(2, 5) == [2, 3, 4]
    assert payloads(0, 300) == list(range(300))
    assert payloads(298, 10**30) == [298, 299]
    assert payloads(-5, 2) == [0, 1]
    assert payloads(5, 5) == payloads(5, 2) == payloads(300, 400) == []


def test_11_head_returns_latest_event(log: shoal.EventLog, run: str) -> None:
    """``head`` returns the event that was appended last."""
    for i in range(3):
        log.append(run, "e", i)
        assert (present(log.head(run)).sequence, present(log.head(run)).payload) == (i, i)


def test_11_head_returns_none_for_empty_log(log: shoal.EventLog, run: str) -> None:
    """``head`` of a log without events is None."""
    assert log.head(run) is None


def test_11_len_returns_correct_count(log: shoal.EventLog, run: str) -> None:
    """``len`` counts all events, also those that were appended together."""
    assert log.len(run) == 0
    log.append(run, "e", 1)
    log.append_many(run, [("e", 2), ("e", 3)])
    assert log.len(run) == 3


def test_11_is_empty_works_correctly(log: shoal.EventLog, run: str) -> None:
    """A log is empty until something is appended."""
    assert log.is_empty(run) is True
    log.append(run, "e", None)
    assert log.is_empty(run) is False


def test_12_verify_chain_returns_valid_for_correct_chain(log: shoal.EventLog, run: str) -> None:
    """A log that nobody changed verifies as valid."""
    log.append_many(run, [(f"type-{i % 3}", {"i": i}) for i in range(20)])
    assert log.verify_chain(run) == shoal.ChainVerification(True, 20, None, None)


def test_12_verify_chain_detects_missing_event(memory_db: DB, log: shoal.EventLog, run: str) -> None:
    """Verification names a missing event."""
    log.append_many(run, [("e", i) for i in range(5)])
    remove_event(memory_db, run, 2)
    found = log.verify_chain(run)
    assert (found.is_valid, found.length, found.first_invalid) == (False, 5, 2)
    assert "event 2 is missing" in present(found.error)


def test_12_verify_chain_detects_prev_hash_mismatch(memory_db: DB, log: shoal.EventLog, run: str) -> None:
    """Verification names an event whose previous hash is not the hash of the event before it."""
    log.append_many(run, [("e", i) for i in range(5)])
    rewrite_event(memory_db, run, 3, prev_hash=bytes(31) + b"\1")
    found = log.verify_chain(run)
    assert (found.is_valid, found.first_invalid) == (False, 3)
    assert "prev_hash" in present(found.error)


@pytest.mark.parametrize("changed", [{"hash": b"\7" * 32}, {"payload": canonical("forged")}], ids=repr)
def test_12_verify_chain_detects_hash_corruption(
    memory_db: DB, log: shoal.EventLog, run: str, changed: dict[str, Any]
) -> None:
    """Verification names an event whose hash does not match its content, whichever of the two was changed."""
    log.append_many(run, [("e", i) for i in range(5)])
    rewrite_event(memory_db, run, 4, **changed)
    found = log.verify_chain(run)
    assert (found.is_valid, found.first_invalid) == (False, 4)
    assert "its content gives" in present(found.error)


def test_12_empty_log_verifies_as_valid(log: shoal.EventLog, run: str) -> None:
    """An empty log verifies as valid."""
    assert log.verify_chain(run) == shoal.ChainVerification(True, 0)


def test_13_read_by_type_returns_matching_events(log: shoal.EventLog, run: str) -> None:
    """``read_by_type`` returns every event of the type, in order, and no other."""
    log.append_many(run, [("even" if i % 2 == 0 else "odd", i) for i in range(10)])
    assert [event.payload for event in log.read_by_type(run, "odd")] == [1, 3, 5, 7, 9]


def test_13_read_by_type_returns_empty_for_no_matches(log: shoal.EventLog, run: str) -> None:
    """``read_by_type`` returns nothing for a type that was never used, or that only begins like one."""
    log.append(run, "type", 1)
    assert log.read_by_type(run, "typ") == log.read_by_type(run, "type2") == log.read_by_type(run, "other") == []


def test_13_iter_returns_events_in_sequence_order(log: shoal.EventLog, run: str) -> None:
    """``iter`` returns every event in order, however many pages they take."""
    log.append_many(run, [("e", i) for i in range(600)])
    assert [event.sequence for event in log.iter(run)] == list(range(600))
    assert [event.sequence for event in log.iter(run, 595)] == [595, 596, 597, 598, 599]


def test_14_append_works_in_cross_primitive_transaction(memory_db: DB, log: shoal.EventLog, run: str) -> None:
    """An append commits with the other writes of its transaction or not at all; its sequence is known at once."""
    log.append(run, "before", None)
    with memory_db.transaction(run) as txn:
        txn.kv.put("status", "running")
        assert txn.events.append("started", {"task": 1}).sequence == 1
        assert log.len(run) == 1
    assert (present(log.head(run)).event_type, shoal.KVStore(memory_db).get(run, "status")) == ("started", "running")
    with pytest.raises(RuntimeError), memory_db.transaction(run) as txn:
        txn.events.append("lost", None)
        raise RuntimeError
    assert log.len(run) == 2


def test_14_read_works_in_cross_primitive_transaction(memory_db: DB, log: shoal.EventLog, run: str) -> None:
    """A transaction reads the log as of its snapshot, and what it appended itself."""
    log.append(run, "before", 0)
    with memory_db.transaction(run) as txn:
        appended = txn.events.append("mine", {"k": 1})
        assert [present(txn.events.read(i)).payload for i in (0, 1)] == [0, {"k": 1}]
        assert present(txn.events.read(1)).hash == appended.hash
        txn.kv.put("seen", txn.events.len())
    assert shoal.KVStore(memory_db).get(run, "seen") == 2


def test_14_update_returns_error(memory_db: DB, log: shoal.EventLog, run: str) -> None:
    """``update`` of an event is refused, in transactions and outside."""
    log.append(run, "e", 1)
    with pytest.raises(shoal.InvalidOperationError, match="append-only"):
        log.update(run, 0, {"other": 1})
    with pytest.raises(shoal.InvalidOperationError, match="append-only"), memory_db.transaction(run) as txn:
        txn.events.update(0, {"other": 1})


def test_14_delete_returns_error(memory_db: DB, log: shoal.EventLog, run: str) -> None:
    """``delete`` of an event is refused, in transactions and outside."""
    log.append(run, "e", 1)
    with pytest.raises(shoal.InvalidOperationError, match="append-only"):
        log.delete(run, 0)
    with pytest.raises(shoal.InvalidOperationError, match="append-only"), memory_db.transaction(run) as txn:
        txn.events.delete(0)


def test_14_append_only_invariant_enforced(log: shoal.EventLog, run: str) -> None:
    """Refused calls leave the log as it was, and later appends do not change earlier events."""
    log.append(run, "e", 1)
    before = log.read_range(run, 0, 1)
    for refused in (log.update, log.delete):
        with pytest.raises(shoal.InvalidOperationError):
            refused(run, 0)
    log.append(run, "e", 2)
    assert log.read_range(run, 0, 1) == before
    assert log.len(run) == 2
