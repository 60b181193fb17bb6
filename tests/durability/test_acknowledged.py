"""What was acknowledged is there exactly once, by commit id; event logs are chains of what their writers were told."""

from __future__ import annotations

from pathlib import Path

import pytest

import shoal
from shoal.coordinator.log.format import LogRecord, Outcome, encode_batch
from tests.mutants.coordinator import mutated_coordinators
from tests.support.histories.acknowledged import Told, ToldEvent, broken_chain, not_exactly_once
from tests.support.histories.acknowledged_workers import run_acknowledged
from tests.support.histories.history_workers import seed_from


def _record(version: int, client_id: int, commit_id: int, batch: list[list[int]] | None = None) -> LogRecord:
    outcomes: list[Outcome] = [(client, commit, []) for client, commit in batch or []]
    return LogRecord(version, 0, 0, client_id, commit_id, b"", encode_batch([], outcomes) if batch else b"")


@pytest.mark.parametrize(
    ("told", "records", "expected"),
    [
        ([Told(7, 1, 1)], [_record(1, 7, 1)], ""),
        ([Told(7, 1, 1)], [_record(1, 7, 1), _record(2, 8, 1)], ""),  # another's, who was not told
        ([Told(7, 1, 1), Told(8, 4, 1)], [_record(1, 0, 1, [[7, 1], [8, 4]])], ""),
        ([Told(7, 1, 1)], [], "not logged"),
        ([Told(7, 1, 2)], [_record(1, 7, 1)], "was told 2"),
        ([], [_record(1, 7, 1), _record(2, 7, 1)], "again at 2"),
        ([], [_record(1, 7, 1), _record(2, 0, 2, [[7, 1]])], "again at 2"),
    ],
)
def test_exactly_once_is_judged_by_commit_id(told: list[Told], records: list[LogRecord], expected: str) -> None:
    """Lost, doubled and misplaced commits are told, those in the log once are not."""
    problems = not_exactly_once(told, records)
    assert (expected in problems[0]) if expected else not problems


def test_chain_is_judged_by_what_was_told(memory_db: shoal.Database, run: str) -> None:
    """A sequence told twice, an event that is another's, one too few and one too many are told."""
    log = shoal.EventLog(memory_db)
    told = []
    for payload in ("a", "b", "c"):
        appended = log.append(run, "t", payload)
        told.append(ToldEvent(appended.sequence, appended.hash, "t", payload))
    events = log.read_range(run, 0, 3)
    assert broken_chain(told, events) == []
    assert "was given to" in broken_chain([*told, told[0]._replace(payload="d")], events)[0]
    assert "was told of" in broken_chain([told[0]._replace(payload="d")], events)[0]
    assert "the log has 2" in broken_chain(told, events[:2])[0]
    assert "event 1" in broken_chain([], [events[0], events[2]])[0]
    log.append(run, "t", "a")
    assert "more than once" in broken_chain(told, log.read_range(run, 0, 4))[-1]


@pytest.mark.long
def test_acknowledged_appends_are_there_once_when_killed_between_log_and_answer(tmp_path: Path) -> None:
    """Though coordinators die with commits logged and nobody told, each append is in the log once, as it was told."""
    with mutated_coordinators("die_logged"):
        assert run_acknowledged(tmp_path / "h", seed_from(8), 300) == []


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["buffered", "strict"])
def test_acknowledged_appends_are_there_once_under_many_kills(tmp_path: Path, durability: str) -> None:
    """The same over 20,000 appends and 20 kills at random moments."""
    assert run_acknowledged(tmp_path / "h", seed_from(9), 20_000, durability=durability, kills=20) == []
