"""The list-append checker names every anomaly it is shown, is silent about serial histories, and about shoal's own."""

from __future__ import annotations

import itertools
import random
from collections.abc import Hashable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.histories.history_workers import seed_from
from tests.support.histories.list_append import ListTransaction, Operation, Status, anomalies
from tests.support.histories.list_append_workers import run_lists

STATUSES: list[Status] = ["committed", "aborted", "unknown"]


def _transaction(
    text: str, start: float = 0.0, end: float = 9.0, process: str = "", status: Status = "committed"
) -> ListTransaction:
    """``text`` is like "append x 1, read y 1 2"; unless told otherwise all overlap."""
    operations = []
    for step in text.split(", "):
        name, key, *rest = step.split()
        elements: list[Hashable] = [*rest]
        assert name in ("append", "read")
        operations.append(
            Operation("append", key, elements[0]) if name == "append" else Operation("read", key, elements)
        )
    return ListTransaction(process or text, status, start, end, operations)


T = _transaction
BY_HAND: list[tuple[str, list[ListTransaction]]] = [
    # Two transactions' appends to two keys, in opposite orders.
    ("G0", [T("append x 1, append y 1"), T("append x 2, append y 2"), T("read x 1 2"), T("read y 2 1")]),
    ("G0-process", [T("append x 2", process="p"), T("append x 1", process="p"), T("read x 1 2")]),
    ("G0-realtime", [T("append x 2", 0, 1), T("append x 1", 2, 3), T("read x 1 2")]),
    ("G1a", [T("append x 1", status="aborted"), T("read x 1")]),
    ("G1b G-single", [T("append x 1, append x 2"), T("read x 1"), T("read x 1 2")]),
    ("G1c", [T("append x 1, read y 1"), T("append y 1, read x 1")]),
    # It saw, and only after that the one it saw began.
    ("G1c-realtime", [T("read x 1", 0, 1), T("append x 1", 2, 3)]),
    ("G1c-process", [T("read x 1", process="p"), T("append x 1", process="p")]),
    # Read skew: one of two keys as before a transaction, the other as after it.
    ("G-single", [T("append x 1, append y 1"), T("read x, read y 1"), T("read x 1")]),
    # Lost update: both appended to what they both had read.
    ("G-single", [T("read x, append x 1"), T("read x, append x 2"), T("read x 1 2")]),
    # A stale read.
    ("G-single-realtime", [T("append x 1", 0, 1), T("read x", 2, 3), T("read x 1", 2, 3)]),
    ("G-single-process", [T("append x 1", process="p"), T("read x", process="p"), T("read x 1")]),
    # Write skew.
    ("G2", [T("read x, append y 1"), T("read y, append x 1"), T("read x 1"), T("read y 1")]),
    # Long fork: two readers see two appends in opposite orders.
    ("G2", [T("append x 1"), T("append y 1"), T("read x 1, read y"), T("read x, read y 1")]),
    # Process p must have seen x before y, process q y before x.
    (
        "G2-process",
        [
            *(T("append x 1"), T("append y 1")),
            *(T("read x 1", process="p"), T("read y", process="p")),
            *(T("read y 1", process="q"), T("read x", process="q")),
        ],
    ),
    # The first read x before it was appended to, the last read y before the first appended to it.
    ("G2-realtime", [T("read x, append y 1"), T("append x 1", 0, 1), T("read y", 2, 3), T("read x 1"), T("read y 1")]),
    ("incompatible-order", [T("append x 1"), T("append x 2"), T("read x 1 2"), T("read x 2")]),
    ("G1b incompatible-order", [T("append x 1, append x 2"), T("read x 2 1")]),
    ("duplicate-elements", [T("append x 1"), T("read x 1 1")]),
    ("unknown-element", [T("read x 1")]),
    ("lost-element G-single-realtime", [T("append x 1", 0, 1), T("append x 2"), T("read x 2", 2, 3)]),
    ("internal", [T("append x 1, read x")]),
    ("internal", [T("read x, read x 1"), T("append x 1")]),
    ("internal", [T("append x 1, read x 1 1")]),
    ("internal", [T("read x 1, append x 1")]),
    ("internal", [T("append x 2, read x 1 2 1"), T("append x 1")]),
    # A transaction of unknown outcome that was seen has committed, and all of it.
    ("G-single", [T("append x 1, append y 1", status="unknown"), T("read x 1, read y"), T("read y 1")]),
]


@pytest.mark.parametrize(("names", "history"), BY_HAND, ids=[f"{i}-{names}" for i, (names, _) in enumerate(BY_HAND)])
def test_anomaly_is_caught_and_named(names: str, history: list[ListTransaction]) -> None:
    """Each anomaly is told by its name and no other, with the transactions that show it."""
    found = anomalies(history)
    assert {anomaly.name for anomaly in found} == set(names.split())
    assert all("  T" in anomaly.text for anomaly in found)


def test_cycle_is_shown_transaction_by_transaction() -> None:
    """The text has every transaction of the shortest cycle and why each must come before the next."""
    (anomaly,) = anomalies([T("read x, append y 1"), T("read y, append x 1"), T("read x 1"), T("read y 1")])
    assert [line.split(":")[0].strip() for line in anomaly.text.splitlines()][2:] == ["T0 -rw-> T1", "T1 -rw-> T0"]
    assert "read x as [], then '1' was appended" in anomaly.text


@pytest.mark.parametrize(
    "history",
    [
        [],
        [T("append x 1, read x 1", 0, 1), T("read x 1, append x 2", 2, 3), T("read x 1 2", 4, 5)],
        [T("append x 1", status="aborted"), T("read x")],
        [T("append x 1", 0, 1, status="unknown"), T("read x", 2, 3)],
        [T("append x 1", 0, 1, status="unknown"), T("read x", 2, 3), T("read x 1", 4, 5)],  # done, but late
        [T("append x 1", 0, 2), T("read x", 1, 3), T("read x 1", 1, 3)],  # at the same time: either
        [T("append x 1", 0, 1), T("read x", 1, 2)],  # a tie is no order
    ],
)
def test_sound_history_is_clean(history: list[ListTransaction]) -> None:
    """What some serial order explains is no anomaly, whatever became of those whose outcome is unknown."""
    assert anomalies(history) == []


def test_element_appended_twice_is_the_caller_s_mistake() -> None:
    """Elements must be unique per key, or nothing could be inferred."""
    with pytest.raises(ValueError, match="unique"):
        anomalies([T("append x 1"), T("append x 1")])


def _serial(rng: random.Random, count: int, keys: int) -> list[ListTransaction]:
    """Transactions that took effect at a moment each, one after the other, though they overlapped."""
    state: dict[str, list[object]] = {f"k{i}": [] for i in range(keys)}
    free_at = dict.fromkeys(("p", "q", "r", "s"), 0.0)
    history = []
    for number in range(count):
        moment = float(number + 1)
        process = rng.choice([name for name, free in free_at.items() if free < moment] or ["fresh"])
        start = max(free_at.get(process, 0.0), moment - rng.random() * 3)
        end = moment + rng.random() * 3
        free_at[process] = end
        status = rng.choices(STATUSES, [8, 1, 1])[0]
        before = {key: list(elements) for key, elements in state.items()}
        operations = []
        for i in range(rng.randint(1, 4)):
            key = rng.choice(sorted(state))
            if rng.random() < 0.5:
                state[key].append(f"{number}.{i}")
                operations.append(Operation("append", key, f"{number}.{i}"))
            else:
                operations.append(Operation("read", key, list(state[key])))
        if status == "aborted" or (status == "unknown" and rng.random() < 0.5):
            state = before
        history.append(
            ListTransaction(f"{process}{number}" if process == "fresh" else process, status, start, end, operations)
        )
    final = [Operation("read", key, list(elements)) for key, elements in state.items()]
    history.append(ListTransaction("end", "committed", count + 9.0, count + 10.0, final))
    return history


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 4))
def test_serial_histories_are_clean(seed: int, count: int, keys: int) -> None:
    """Whatever took effect in one order that agrees with real time is no anomaly."""
    history = _serial(random.Random(seed), count, keys)
    random.Random(seed).shuffle(history)
    assert anomalies(history) == []


def _surely_appended(history: list[ListTransaction], element: object) -> list[str]:
    """Where a transaction that is known to have committed appended ``element``."""
    return [
        operation.key
        for transaction in history
        for operation in transaction.operations
        if transaction.status == "committed" and (operation.name, operation.value) == ("append", element)
    ]


def _mutated(rng: random.Random, history: list[ListTransaction]) -> list[ListTransaction] | None:
    """One read changed to what no serial order explains; None if there is nothing to change."""
    places = [
        (i, j)
        for i, transaction in enumerate(history)
        for j, operation in enumerate(transaction.operations)
        if transaction.status == "committed" and operation.name == "read" and operation.value
    ]
    if not places:
        return None
    i, j = rng.choice(places)
    operation = history[i].operations[j]
    seen = operation.value
    assert isinstance(seen, list)
    how = rng.choice(["swap", "repeat", "drop", "invent", "cut"])
    if how == "swap" and len(seen) > 1:
        k = rng.randrange(len(seen) - 1)
        changed = [*seen[:k], seen[k + 1], seen[k], *seen[k + 2 :]]
    elif how == "repeat":
        changed = [*seen, rng.choice(seen)]
    elif how == "drop" and len(seen) > 1:
        k = rng.randrange(len(seen) - 1)
        changed = seen[:k] + seen[k + 1 :]
    elif how == "cut" and i == len(history) - 1 and operation.key in _surely_appended(history, seen[-1]):
        # The last reader, after all others: as if the newest were not there.
        changed = seen[:-1]
    else:
        changed = [*seen, "nobody's"]
    operations = list(history[i].operations)
    operations[j] = operation._replace(value=changed)
    return [*history[:i], history[i]._replace(operations=operations), *history[i + 1 :]]


@given(st.integers(0, 2**32), st.integers(4, 30), st.integers(1, 4))
def test_changed_order_of_effects_is_caught(seed: int, count: int, keys: int) -> None:
    """A read changed by one element, in order, number or age, is an anomaly if anything else shows what it was."""
    rng = random.Random(seed)
    history = _serial(rng, count, keys)
    mutated = _mutated(rng, history)
    if mutated is None:
        return
    # Only what others saw can contradict it: another reader saw every list at the end, too.
    assert anomalies([*mutated, history[-1]._replace(process="witness")])


@given(st.integers(0, 2**32))
def test_transactions_that_took_effect_in_another_order_than_they_were_run_are_caught(seed: int) -> None:
    """Two transactions of one process whose effects changed places break its order, or real time, if they are seen."""
    rng = random.Random(seed)
    history = _serial(rng, 20, 2)
    pairs = [
        (a, b)
        for a, b in itertools.pairwise(history[:-1])
        if a.status == b.status == "committed"
        and any(x.name == "append" and any(y.key == x.key for y in b.operations) for x in a.operations)
    ]
    if not pairs:
        return
    first, second = rng.choice(pairs)
    apart = [t for t in history if t is not first and t is not second]
    swapped = [first._replace(invoke=100.0, complete=101.0), second._replace(invoke=-2.0, complete=-1.0)]
    assert anomalies(apart + swapped)


def _assert_clean(history: list[ListTransaction], expected: int) -> None:
    assert len(history) > expected * 0.99
    assert any(transaction.status == "aborted" for transaction in history), "nothing ever conflicted"
    found = anomalies(history)
    assert not found, "\n".join(f"{anomaly.name}\n{anomaly.text}" for anomaly in found[:10])


@pytest.mark.long
def test_lists_stay_strictly_serializable_under_kill_9_of_the_coordinator(tmp_path: Path) -> None:
    """Four processes that read and append lists see no anomaly, though their coordinator is killed meanwhile."""
    _assert_clean(run_lists(tmp_path / "h", seed_from(6), 1_600, kills=2), 1_600)


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["buffered", "strict"])
def test_lists_stay_strictly_serializable_under_many_kills(tmp_path: Path, durability: str) -> None:
    """The same over 20,000 transactions and 40 deaths of the coordinator."""
    _assert_clean(run_lists(tmp_path / "h", seed_from(7), 20_000, durability=durability, kills=40), 20_000)
