"""Free runs of blocks against a set of block numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.coordinator.memory.extents import Extents
from tests.support.present import present

BLOCKS = 100
ACTIONS = st.sampled_from(["take", "take last", "remove", "add"])


def _runs(free: set[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in sorted(free):
        if runs and sum(runs[-1]) == number:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs


@given(st.lists(st.tuples(ACTIONS, st.integers(1, 12)), max_size=60))
@settings(max_examples=present(settings.default).max_examples)
def test_against_a_set(steps: list[tuple[str, int]]) -> None:
    """Whatever is taken and comes back: best fit, runs joined with their neighbours, and all counts right."""
    extents, free, taken = Extents(), set(range(BLOCKS)), list[tuple[int, int]]()
    extents.add(0, BLOCKS)
    for action, number in steps:
        runs = _runs(free)
        if action == "take":
            start = extents.take(number)
            fitting = [length for _, length in runs if length >= number]
            assert (start is None) == (not fitting)
            if start is None:
                continue
            assert next(length for first, length in runs if first <= start < first + length) == min(fitting)
            gone = (start, number)
        elif action == "take last" and runs:
            first, length = runs[-1]
            gone = (extents.take_last(min(number, length)), min(number, length))
            assert sum(gone) == first + length
        elif action == "remove" and runs:
            gone = runs[number % len(runs)]
            extents.remove(*gone)
        elif taken:
            back = taken.pop(number % len(taken))
            extents.add(*back)
            free |= set(range(back[0], sum(back)))
            gone = (0, 0)
        else:
            continue
        blocks = set(range(gone[0], sum(gone)))
        assert blocks <= free
        free -= blocks
        if blocks:
            taken.append(gone)
        runs = _runs(free)
        assert list(extents) == runs
        assert extents.total == len(free)
        assert extents.largest() == max((length for _, length in runs), default=0)
        assert extents.end() == max(free, default=-1) + 1
        assert extents.last_length() == (runs[-1][1] if runs else 0)


def test_nothing_in_it() -> None:
    """An empty set has no run, no end, and nothing to take."""
    extents = Extents()
    assert (extents.total, extents.largest(), extents.end(), extents.last_length()) == (0, 0, 0, 0)
    assert extents.take(1) is None
    assert list(extents) == []


@pytest.mark.parametrize(("start", "length"), [(10, 1), (12, 1), (8, 3), (14, 4), (9, 7)])
def test_a_block_freed_twice(start: int, length: int) -> None:
    """A run that overlaps a free one is a broken invariant, told at once."""
    extents = Extents()
    extents.add(10, 5)
    with pytest.raises(AssertionError, match="twice"):
        extents.add(start, length)


@pytest.mark.parametrize("length", [1, 4, 5])
def test_the_end_of_the_highest_run(length: int) -> None:
    """Blocks taken off the end leave the rest of the run, down to its last block, and the lower runs."""
    extents = Extents()
    extents.add(0, 3)
    extents.add(10, 5)
    assert extents.take_last(length) == 15 - length
    assert list(extents) == [(0, 3)] + [(10, 5 - length)] * (length < 5)
    assert extents.total == 8 - length
