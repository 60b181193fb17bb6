"""Polling on a clock that the test moves."""

from __future__ import annotations

import random

import pytest

from shoal.workers.polling import Pauses, poll


class Clock:
    """Time passes in ``sleep`` alone."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.pauses_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.pauses_s.append(seconds)
        self.now_s += seconds


def never() -> None:
    return None


def test_what_is_there_is_returned_at_once() -> None:
    """A look that finds something ends it without a pause, also when the time is up; any value but None is found."""
    clock = Clock()
    assert poll(lambda: 0, 100.0, Pauses(1, 1), clock) == 0
    assert clock.pauses_s == []


def test_pauses_double_up_to_the_longest() -> None:
    """Each pause is twice the one before, ``longest_s`` at most."""
    clock = Clock()
    poll(never, 110.0, Pauses(0.5, 3.0), clock)
    assert clock.pauses_s[:5] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_it_ends_in_time_and_looks_once_more() -> None:
    """The last pause is cut at the end, and one look follows it: what came in the last moment is found."""
    clock = Clock()
    assert poll(lambda: clock.now_s >= 110.0 or None, 110.0, Pauses(3.0, 3.0), clock) is True
    assert clock.now_s == 110.0
    looks: list[float] = []
    assert poll(lambda: looks.append(clock.now_s), 115.0, Pauses(4.0, 4.0), clock) is None
    assert looks == [110.0, 114.0, 115.0]


def test_what_a_look_raises_comes_out() -> None:
    """An exception of a look ends the wait."""
    empty: dict[str, int] = {}
    with pytest.raises(KeyError):
        poll(lambda: empty["no"], 110.0, Pauses(1, 1), Clock())


def test_jitter_stays_in_its_bounds() -> None:
    """With a jitter of 0.5 pauses lie between half of and one and a half times the pause, and differ."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    random.seed(seed)
    clock = Clock()
    poll(never, 200.0, Pauses(1.0, 1.0, jitter=0.5), clock)
    assert all(0.5 <= pause_s <= 1.5 for pause_s in clock.pauses_s[:-1])
    assert len(set(clock.pauses_s)) > 10
