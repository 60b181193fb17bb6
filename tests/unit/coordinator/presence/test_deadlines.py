"""One time for each key, and what is due first."""

from __future__ import annotations

import math
import random

from shoal.coordinator.presence.deadlines import Deadlines
from tests.support.histories.history_workers import seed_from


def test_against_a_dictionary() -> None:
    """What is set, set again, dropped and taken when it is due is what a dictionary of times says."""
    rng, deadlines, model = random.Random(seed_from(31)), Deadlines[str](), dict[str, float]()
    now_s = 0.0
    for _ in range(20_000):
        key, chosen = f"key {rng.randrange(40)}", rng.random()
        if chosen < 0.6:
            model[key] = now_s + rng.randrange(50)
            deadlines.set(key, model[key])
        elif chosen < 0.8:
            model.pop(key, None)
            deadlines.drop(key)
        else:
            now_s += rng.randrange(3)
            while (due := deadlines.pop_due(now_s)) is not None:
                assert model[due] == min(model.values()) <= now_s
                del model[due]
            assert all(due_s > now_s for due_s in model.values())
        assert deadlines.first_s() == min(model.values(), default=math.inf)


def test_equal_times_in_the_order_in_which_they_were_set() -> None:
    """Keys need no order of their own."""
    keys = [object() for _ in range(5)]
    deadlines = Deadlines[object]()
    for key in keys:
        deadlines.set(key, 1.0)
    assert [deadlines.pop_due(1.0) for _ in range(6)] == [*keys, None]


def test_times_that_are_moved_on_for_ever_take_no_memory() -> None:
    """A time that is set again and again leaves few entries behind."""
    deadlines = Deadlines[str]()
    deadlines.set("first", 0.0)
    for number in range(10_000):
        deadlines.set("moved", float(number))
    assert len(deadlines._heap) < 200
