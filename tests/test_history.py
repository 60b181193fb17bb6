"""Strict serializability, by replaying what four processes saw; and the proof that the replay notices faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sabotage
from history import Event, violations
from history_workers import run_history, seed_from

PLANT_SEEDS = 6


def _report(problems: list[str]) -> str:
    return "\n".join(problems[:20])


def _assert_serial(events: list[Event], expected: int) -> None:
    assert len(events) > expected * 0.99
    assert any(event.kind == "aborted" for event in events), "nothing ever conflicted: the history proves little"
    problems = violations(events)
    assert not problems, _report(problems)


def test_random_history_is_strictly_serializable(tmp_path: Path) -> None:
    """Every read, absence and scan holds at its transaction's place in commit-version order."""
    events = run_history(tmp_path / "h", seed_from(1), 1_200)
    _assert_serial(events, 1_200)


def test_history_stays_serializable_under_kill_9_of_the_coordinator(tmp_path: Path) -> None:
    """The death of a coordinator is a pause: no commit is lost, done twice, or seen out of order."""
    events = run_history(tmp_path / "h", seed_from(2), 1_600, kills=3)
    _assert_serial(events, 1_600)


def test_history_stays_serializable_when_killed_between_log_and_answer(tmp_path: Path) -> None:
    """A commit that was logged and not yet published or answered is done once, and its client is told its outcome."""
    with sabotage.planted("die_logged"):
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


def _caught(tmp_path: Path, run: Callable[[Path, int], list[Event]], expected: str) -> None:
    """Run with a few seeds until the oracle says something with ``expected`` in it."""
    seed = seed_from(10)
    found: list[str] = []
    for attempt in range(PLANT_SEEDS):
        found += violations(run(tmp_path / f"h{attempt}", seed + attempt))
        if any(expected in problem for problem in found):
            return
    pytest.fail(f"the oracle overlooked the plant; it said {_report(found) or 'nothing'}")


def test_oracle_catches_skipped_point_validation(tmp_path: Path) -> None:
    """The oracle reports a coordinator that does not validate point reads."""
    with sabotage.planted("skip_point_validation"):
        _caught(tmp_path, lambda path, seed: run_history(path, seed, 600, durability="memory"), "serially it is")


def test_oracle_catches_skipped_range_validation(tmp_path: Path) -> None:
    """The oracle reports a coordinator that does not validate scans, and what it reports are scans."""
    with sabotage.planted("skip_range_validation"):
        _caught(tmp_path, lambda path, seed: run_history(path, seed, 600, durability="memory"), ": scan(")


def test_oracle_catches_stale_snapshots(tmp_path: Path) -> None:
    """The oracle reports readers whose snapshot is older than what had been committed when they began."""

    def run(path: Path, seed: int) -> list[Event]:
        return run_history(path, seed, 400, durability="memory", first=sabotage.stale_snapshots)

    _caught(tmp_path, run, "had ended before")


def test_oracle_catches_commits_answered_before_they_were_logged(tmp_path: Path) -> None:
    """The oracle reports acknowledged commits that a kill -9 of the coordinator took along."""
    with sabotage.planted("answer_before_log"):
        _caught(tmp_path, lambda path, seed: run_history(path, seed, 1_600, kills=2), "was given to")


def test_oracle_catches_commits_done_twice(tmp_path: Path) -> None:
    """The oracle reports commits that were sent again after a take-over and applied again."""
    with sabotage.planted("apply_twice"):
        _caught(tmp_path, lambda path, seed: run_history(path, seed, 800), "serially it is")


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
