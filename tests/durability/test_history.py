"""Strict serializability, by replaying what four processes saw. That it notices faults is in tests/mutants."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.coordinator import mutated_coordinators
from tests.support.histories.history import Event, violations
from tests.support.histories.history_workers import run_history, seed_from


def _report(problems: list[str]) -> str:
    return "\n".join(problems[:20])


def _assert_serial(events: list[Event], expected: int) -> None:
    assert len(events) > expected * 0.99
    assert any(event.kind == "aborted" for event in events), "nothing ever conflicted: the history proves little"
    problems = violations(events)
    assert not problems, _report(problems)


@pytest.mark.long
def test_random_history_is_strictly_serializable(tmp_path: Path) -> None:
    """Every read, absence and scan holds at its transaction's place in commit-version order."""
    events = run_history(tmp_path / "h", seed_from(1), 1_200)
    _assert_serial(events, 1_200)


@pytest.mark.long
def test_history_stays_serializable_under_kill_9_of_the_coordinator(tmp_path: Path) -> None:
    """The death of a coordinator is a pause: no commit is lost, done twice, or seen out of order."""
    events = run_history(tmp_path / "h", seed_from(2), 1_600, kills=3)
    _assert_serial(events, 1_600)


@pytest.mark.long
def test_history_stays_serializable_when_killed_between_log_and_answer(tmp_path: Path) -> None:
    """A commit that was logged and not yet published or answered is done once, and its client is told its outcome."""
    with mutated_coordinators("die_logged"):
        events = run_history(tmp_path / "h", seed_from(3), 800, durability="strict")
    _assert_serial(events, 800)


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["memory", "buffered", "strict"])
def test_long_random_history_is_strictly_serializable(tmp_path: Path, durability: str) -> None:
    """The same over 20,000 transactions, at every durability."""
    events = run_history(tmp_path / "h", seed_from(4), 20_000, durability=durability)
    _assert_serial(events, 20_000)


@pytest.mark.slow
def test_long_history_stays_serializable_under_kill_9_of_the_coordinator(tmp_path: Path) -> None:
    """The same over 20,000 transactions and many deaths of the coordinator."""
    events = run_history(tmp_path / "h", seed_from(5), 20_000, kills=40)
    _assert_serial(events, 20_000)


def _event(kind: str, position: int, start: float, *steps: tuple[str, str, object, object]) -> Event:
    version = position if kind == "update" else 0
    return Event("e", kind, -1 if kind == "update" else position, version, start, start + 0.5, list(steps))


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([_event("update", 1, 0, ("put", "k", 1, None)), _event("read", 1, 1, ("get", "k", None, 1))], ""),
        ([_event("update", 1, 0, ("put", "k", 1, None)), _event("read", 1, 1, ("get", "k", None, None))], "serially"),
        ([_event("update", 1, 0, ("put", "k", 1, None)), _event("read", 0, 1, ("get", "k", None, None))], "had ended"),
        ([_event("update", 2, 0, ("put", "k", 1, None)), _event("update", 1, 1, ("put", "k", 2, None))], "had ended"),
        ([_event("update", 1, 0, ("put", "k", 1, None)), _event("update", 1, 0, ("put", "l", 2, None))], "given to"),
        ([_event("update", 1, 0, ("put", "k", 1, None)), _event("latest", 0, 1, ("get", "k", None, None))], "possible"),
        ([_event("update", 1, 0, ("increment", "c", 2, 4))], "serially"),
        ([_event("update", 1, 0, ("delete", "c", None, True))], "serially"),
        ([_event("read", 0, 0, ("scan", "k", None, [("k1", 1)]))], "serially"),
    ],
)
def test_oracle_judges_small_histories_by_hand(events: list[Event], expected: str) -> None:
    """The oracle accepts a serial history and names each kind of breach."""
    problems = violations(events)
    if expected:
        assert any(expected in problem for problem in problems)
    else:
        assert problems == []
