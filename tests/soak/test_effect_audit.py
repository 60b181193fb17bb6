"""The audit of effects outside the store accepts a true history, and names what is wrong with each false one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

import shoal
from tests.soak.auditing.breach import DOUBLED, LOST, WRONG
from tests.soak.auditing.effects import effect_breaches, effects
from tests.soak.ledger import Operation
from tests.soak.workload.effects import ACT, DOUBT, FAILED, FENCED, FIND_OUT, FOUND_OUT, RAISE, RETRY

KEY = "outside/0/0"
FOUND = [FOUND_OUT, "w3", 3]
History = list[Operation]


def _call(number: int, mode: str, outcome: str, result: Any, start: float, end: float) -> Operation:
    return Operation(f"w{number}", "once", number, [KEY, mode], outcome, result, start, end)


def _act(number: int, outcome: str, start: float, end: float) -> Operation:
    return Operation(f"w{number}", "act", number, KEY, outcome, None, start, end)


def _true_history() -> History:
    """One fails, one is killed after the effect, one is told of the doubt, one finds out, and one has it replayed."""
    never = float("inf")
    return [
        _call(0, RAISE, "f", [FAILED], 0.0, 0.9),
        _act(0, "f", 0.1, 0.2),
        _call(1, RAISE, "", None, 1.0, never),
        _act(1, "a", 1.1, 1.2),
        _call(2, RAISE, "f", [DOUBT, 1_000], 2.0, 2.1),
        _call(3, FIND_OUT, "a", FOUND, 3.0, 3.1),
        _call(4, RETRY, "a", FOUND, 4.0, 4.1),
    ]


def _replaced(history: History, at: int, **fields: Any) -> History:
    return [each._replace(**fields) if i == at else each for i, each in enumerate(history)]


def _run_again_in_silence(history: History) -> History:
    return [*history, _call(5, RAISE, "", None, 2.2, 9.0), _act(5, "", 2.3, 9.0)]


def _run_again_after_its_result(history: History) -> History:
    """It is told as the result of the first call, which was not killed; the last is asked to retry, and does."""
    result = [ACT, "w1", 1]
    history = [_call(1, RAISE, "a", result, 1.0, 1.3), *history[3:4]]
    return [*history, _call(4, RETRY, "a", result, 4.0, 4.2), _act(4, "a", 4.1, 4.15)]


def _another_result(history: History) -> History:
    return [*history, _call(5, FIND_OUT, "a", [FOUND_OUT, "w5", 5], 5.0, 5.1)]


def _result_of_nothing(history: History) -> History:
    return [
        each._replace(result=[ACT, "w2", 2]) if each.outcome == "a" and each.kind == "once" else each
        for each in history
    ]


def _found_out_unasked(history: History) -> History:
    return _replaced(history, 5, what=[KEY, RAISE])


def _doubt_from_nowhere(history: History) -> History:
    """Whoever had the effect was told its result."""
    return _replaced(history, 2, outcome="a", result=FOUND, end=1.3)


def _doubt_after_a_failure(history: History) -> History:
    """A function that raised has had no effect."""
    return [*history[:2], history[4]]


def _doubt_after_the_result(history: History) -> History:
    return [*history, _call(5, RAISE, "f", [DOUBT, 1_000], 5.0, 5.1)]


def _doubt_begins_again(history: History) -> History:
    return [*history, _call(5, RAISE, "f", [DOUBT, 1_500], 2.0, 2.1)]


@pytest.mark.parametrize(
    ("falsify", "kind"),
    [
        (None, None),
        (_run_again_in_silence, DOUBLED),
        (_run_again_after_its_result, DOUBLED),
        (_another_result, WRONG),
        (_result_of_nothing, WRONG),
        (_found_out_unasked, WRONG),
        (_doubt_from_nowhere, WRONG),
        (_doubt_after_a_failure, WRONG),
        (_doubt_after_the_result, WRONG),
        (_doubt_begins_again, WRONG),
    ],
)
def test_audit_of_what_was_told(
    memory_db: shoal.Database, run: str, falsify: Callable[[History], History] | None, kind: str | None
) -> None:
    """Each effect takes place once unless somebody retries it in doubt, and there is doubt only after a death."""
    history = _true_history() if falsify is None else falsify(_true_history())
    told = next((each.result for each in history if each.kind == "once" and each.outcome == "a"), None)
    if told is not None:
        memory_db.once(run, KEY, lambda: told)
    found = _breaches(memory_db, run, history)
    assert [breach.kind for breach in found][:1] == ([] if kind is None else [kind]), found


def test_audit_of_what_is_recorded(memory_db: shoal.Database, run: str) -> None:
    """What took place is known to the store, a result that was told is kept, and nothing is recorded unasked."""
    killed = _true_history()[2:5]
    assert _breaches(memory_db, run, killed)[0].kind == LOST  # it took place, and there is no intent
    _interrupt(memory_db, run)
    assert _breaches(memory_db, run, killed) == []
    lost = _breaches(memory_db, run, _true_history())
    assert [breach.kind for breach in lost] == [LOST]  # a result was told, and there is an intent alone
    assert [breach.kind for breach in _breaches(memory_db, run, [])] == [WRONG]
    failed = _true_history()[:2]
    assert [breach.kind for breach in _breaches(memory_db, run, failed)] == [WRONG]  # nobody left it in doubt


def test_who_lost_a_lease_leaves_doubt(memory_db: shoal.Database, run: str) -> None:
    """A worker that was stopped for too long is fenced, or comes back in time to record its result: both are right."""
    result = [ACT, "w3", 3]
    memory_db.once(run, KEY, lambda: result)
    fenced = [_call(1, RAISE, "f", [FENCED], 1.0, 9.0), _act(1, "a", 1.1, 8.9), _call(3, RETRY, "a", result, 2.0, 3.0)]
    assert _breaches(memory_db, run, [*fenced, _act(3, "a", 2.1, 2.2)]) == []
    late = [_call(3, RAISE, "a", result, 1.0, 9.0), _act(3, "a", 1.1, 8.9), _call(2, RAISE, "f", [DOUBT, 1], 5.0, 6.0)]
    assert _breaches(memory_db, run, late) == []


def _interrupt(db: shoal.Database, run: str) -> None:
    def effect() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        db.once(run, KEY, effect)


def _breaches(db: shoal.Database, run: str, history: History) -> list[Any]:
    by_kind: dict[str, History] = defaultdict(list)
    for operation in history:
        by_kind[operation.kind].append(operation)
    assert sum(len(effect.doubts()) for effect in effects(by_kind)) <= len(history)
    return effect_breaches(db, run, by_kind)
