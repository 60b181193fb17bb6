"""The queue of expiries: every key comes up in time, once, and the soonest come first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.coordinator.memory.expiry import ExpiryQueue

KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
TIMES_MS = st.integers(1, 20)
GONE = 0  # in place of a time: the key is discarded
STEPS = st.lists(
    st.one_of(st.tuples(KEYS, st.just(GONE) | TIMES_MS), st.tuples(TIMES_MS, st.integers(0, 3))), max_size=40
)


@pytest.mark.long
@given(STEPS)
def test_against_a_dict(steps: list[tuple[bytes | int, int]]) -> None:
    """A key comes up at the earliest of the times it was added with since it came up or went last, and not before."""
    queue, due_ms = ExpiryQueue(), dict[bytes, int]()
    for first, second in steps:
        if isinstance(first, bytes) and second == GONE:
            queue.discard(first)
            due_ms.pop(first, None)
        elif isinstance(first, bytes):
            queue.add(first, second)
            due_ms[first] = min(second, due_ms.get(first, second))
        else:
            now_ms, most = first, second
            expected = sorted((at, key) for key, at in due_ms.items() if at <= now_ms)
            taken = queue.take_due(now_ms, most)
            assert [due_ms.pop(key) for key in taken] == [at for at, _ in expected[:most]]
            assert len(set(taken)) == len(taken)
    assert sorted(queue.take_due(20, 100)) == sorted(due_ms)
    assert len(queue) == 0


def test_a_key_added_again_stays_one_entry() -> None:
    """Writing a key with an ever later expiry does not let the queue grow."""
    queue = ExpiryQueue()
    for at_ms in range(1, 1000):
        queue.add(b"key", at_ms)
    assert len(queue) == 1
    assert queue.take_due(1, 10) == [b"key"]
    assert queue.take_due(10_000, 10) == []
