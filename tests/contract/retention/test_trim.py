"""``events.trim``: the oldest events go, and all else says what it said before."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import pytest

import shoal
from shoal import ConflictError, EventLog
from shoal.primitives.rules.event_rules import event_key
from shoal.primitives.views.events import EventView
from tests.support.present import present
from tests.support.slow import slow


def _fill(log: EventLog, run: str, alone: int = 6, together: int = 60) -> None:
    for number in range(alone):
        log.append(run, f"type {number % 3}", number)
    log.append_many(run, [("many" if number % 2 else "type 0", alone + number) for number in range(together)])


@pytest.mark.parametrize("before", [*slow(1, 3, 6), 7, 30, *slow(65), 66])
def test_what_is_left(any_db: shoal.Database, run: str, before: int) -> None:
    """Wherever the cut falls, between records or inside one: reads, types, hashes and anchors from there on hold."""
    log = EventLog(any_db)
    _fill(log, run)
    all_events = list(log.iter(run))
    anchors = [shoal.Anchor(event.sequence + 1, event.hash) for event in all_events]
    assert log.trim(run, before) == before
    assert (log.first_sequence(run), log.len(run), log.is_empty(run)) == (before, 66, False)
    assert list(log.iter(run)) == log.read_range(run, 0, 100) == all_events[before:]
    assert [log.read(run, event.sequence) for event in all_events] == [None] * before + all_events[before:]
    assert log.head(run) == (None if before == 66 else all_events[-1])
    assert log.anchor(run) == anchors[-1]
    for event_type in ("type 0", "type 1", "type 2", "many"):
        expected = [event for event in all_events[before:] if event.event_type == event_type]
        assert log.read_by_type(run, event_type) == expected
    assert log.verify_chain(run).length == 66
    for anchor in anchors:
        assert log.verify_chain(run, anchor).is_valid == (anchor.length >= before), anchor.length
    assert log.verify_chain(run, shoal.Anchor(before, bytes(16) + b"x" * 16)).is_valid is False
    assert EventLog.verify(all_events[before:], prev_hash=all_events[before - 1].hash).is_valid


def test_a_trimmed_log_goes_on(any_db: shoal.Database, run: str) -> None:
    """Sequences and hashes go on; a type whose events all went begins again; it can be trimmed again."""
    log = EventLog(any_db)
    _fill(log, run)
    head = present(log.head(run))
    assert log.trim(run, 66) == 66
    appended = log.append(run, "many", "again")
    event = present(log.read(run, 66))
    assert (appended.sequence, event.prev_hash) == (66, head.hash)
    log.append_many(run, [("type 1", 67), ("many", 68)])
    assert [event.sequence for event in log.read_by_type(run, "many")] == [66, 68]
    assert log.verify_chain(run, shoal.Anchor(66, head.hash)).is_valid
    assert (log.trim(run, 67), log.trim(run, 67), log.trim(run, 0), log.trim(run, -5)) == (1, 0, 0, 0)
    assert log.trim(run, 2**70) == 2
    assert log.first_sequence(run) == log.len(run) == 69
    assert log.verify_chain(run).is_valid


def test_a_log_that_is_not_there(any_db: shoal.Database, run: str) -> None:
    """Nothing to trim, nothing written."""
    log = EventLog(any_db)
    assert (log.trim(run, 10), log.first_sequence(run), log.len(run)) == (0, 0, 0)
    assert log.verify_chain(run).is_valid
    with pytest.raises(TypeError, match="before has type str"):
        log.trim(run, "1")  # type: ignore[arg-type]


def test_more_records_than_one_commit_takes(any_db: shoal.Database, run: str) -> None:
    """A long trim is several commits; it removes all it was asked to."""
    log = EventLog(any_db)
    for number in range(150):
        log.append(run, "e", number)
    assert log.trim(run, 149) == 149
    assert [event.sequence for event in log.iter(run)] == [149]
    assert log.verify_chain(run).is_valid


def test_in_a_transaction(any_db: shoal.Database, run: str) -> None:
    """It reads what it trimmed, appends go on, and all of it is one commit or none."""
    log = EventLog(any_db)
    _fill(log, run)
    with pytest.raises(ZeroDivisionError), any_db.transaction(run) as txn:
        txn.events.trim(10)
        raise ZeroDivisionError
    assert log.first_sequence(run) == 0
    with any_db.transaction(run) as txn:
        txn.events.append("many", "new")
        assert txn.events.trim(67) == 67
        assert (txn.events.first_sequence(), txn.events.head(), txn.events.read_by_type("many")) == (67, None, [])
        assert txn.events.append("many", "newer").sequence == 67
        assert txn.events.verify_chain().is_valid
    assert [event.payload for event in log.iter(run)] == ["newer"]
    assert log.verify_chain(run).is_valid


def test_appends_and_a_trim_do_not_conflict(any_db: shoal.Database, run: str) -> None:
    """A trim of the oldest events leaves a transaction that appends alone; what it read of them it may not commit."""
    log = EventLog(any_db)
    _fill(log, run)
    with any_db.transaction(run) as txn:
        txn.events.append("many", "mine")
        log.trim(run, 20)
    assert log.len(run) == 67
    assert log.verify_chain(run).is_valid

    def read_and_be_trimmed() -> None:
        with any_db.transaction(run) as txn:
            txn.events.read(25)
            txn.kv.put("k", 1)
            log.trim(run, 40)

    with pytest.raises(ConflictError):
        read_and_be_trimmed()


def test_readers_that_are_overtaken(any_db: shoal.Database, run: str) -> None:
    """``iter`` and ``follow`` leave out what was trimmed before its page was read, and go on with the same log."""
    log = EventLog(any_db)
    log.append_many(run, [("e", number) for number in range(600)])
    iterated, followed = log.iter(run), log.follow(run, timeout=0)
    assert [next(iterated).sequence, next(followed).sequence] == [0, 0]
    log.trim(run, 590)
    assert [event.sequence for event in iterated][-11:] == [255, *range(590, 600)]
    assert [event.sequence for event in followed][-11:] == [255, *range(590, 600)]
    waiting = log.follow(run, start=10, timeout=0)
    assert next(waiting).sequence == 590
    log.append(run, "e", "new")
    log.trim(run, 601)
    log.append(run, "e", "last")
    assert [event.sequence for event in waiting][-1] == 601


def test_another_log_is_never_taken_for_a_trimmed_one(any_db: shoal.Database, run: str) -> None:
    """A run deleted and begun again, then trimmed beyond what a reader knows: it is told, and reads none of it."""
    log, runs = EventLog(any_db), shoal.RunIndex(any_db)
    log.append_many(run, [("e", number) for number in range(600)])
    iterated, followed = log.iter(run), log.follow(run, timeout=0)
    next(iterated), next(followed)
    runs.delete_run(run)
    log.append_many(run, [("other", number) for number in range(700)])
    log.trim(run, 690)
    for reader in (iterated, followed):
        with pytest.raises(shoal.NotFoundError, match="is gone, as its run was deleted"):
            for _ in reader:
                pass


def test_forks_and_deletion(any_db: shoal.Database, run: str) -> None:
    """A fork is trimmed as its origin was, and goes its own way; a deleted run has no beginning left."""
    log, runs = EventLog(any_db), shoal.RunIndex(any_db)
    _fill(log, run)
    log.trim(run, 40)
    fork = runs.fork_run(run).run_id
    assert log.verify_chain(fork, log.anchor(run)).is_valid
    log.trim(fork, 50)
    assert (log.first_sequence(run), log.first_sequence(fork)) == (40, 50)
    runs.delete_run(run)
    assert (log.first_sequence(run), log.len(run)) == (0, 0)
    assert log.append(run, "e", 1).sequence == 0
    assert log.verify_chain(run).is_valid


def test_a_beginning_that_does_not_fit_is_told(any_db: shoal.Database, run: str) -> None:
    """Events that were cut off without a trim, or a beginning that is changed, do not verify."""
    log = EventLog(any_db)
    _fill(log, run, alone=6, together=0)
    log.trim(run, 2)
    engine, view = any_db._store.auto_commit, log._views[run]
    beginning = present(engine.find(view._prefix + b"\3")).value
    for raw, told in ((b"x", "beginning"), (None, "event 0 is missing")):
        engine.put(view._prefix + b"\3", raw) if raw else engine.delete(view._prefix + b"\3")
        found = log.verify_chain(run)
        assert not found.is_valid
        assert told in str(found.error)
    engine.put(view._prefix + b"\3", beginning)
    assert log.verify_chain(run).is_valid
    engine.delete(event_key(view._prefix, 2))
    assert "event 2 is missing" in str(log.verify_chain(run).error)
    with pytest.raises(shoal.CorruptionError):
        log.trim(run, 5)


def test_trimmers_at_once(any_db: shoal.Database, run: str) -> None:
    """One that was overtaken between its look and its commit looks again; each counts what it removed itself."""
    log = EventLog(any_db)
    _fill(log, run, alone=20, together=0)
    real = EventView._oldest_records
    counts: list[int] = []

    def overtaken(view: EventView, first: int, before: int) -> list[int]:
        found = real(view, first, before)
        if not counts:
            counts.append(0)
            counts[0] = log.trim(run, 7)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventView, "_oldest_records", overtaken)
        counts.append(log.trim(run, 12))
    assert counts == [7, 5]
    assert log.verify_chain(run).is_valid
