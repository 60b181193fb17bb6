"""Checks of numbers that users pass; lengths of time and functions have tests of their own."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest

from shoal.shm.arguments import (
    FOREVER_S,
    check_count,
    check_int,
    check_positive_seconds,
    check_seconds,
    check_wait,
)


@pytest.mark.parametrize("value", [0, -5, 10**30])
def test_an_int_is_returned(value: Any) -> None:
    """Any int passes ``check_int``."""
    assert check_int("n", value) == value


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_what_is_no_int(value: Any) -> None:
    """A bool, a float, a text and None are TypeError, and the message names argument, type and remedy."""
    with pytest.raises(TypeError, match=rf"n has type {type(value).__name__}; give integer milliseconds"):
        check_int("n", value, "integer milliseconds")


@pytest.mark.parametrize("value", [True, 1.5, "2", 1, -1, None])
def test_what_is_no_count(value: Any) -> None:
    """What is no int, or below the least, is ValueError, and the message names the least."""
    with pytest.raises(ValueError, match="give a whole number from 2, or None"):
        check_count("n", value, 2, ", or None")


def test_a_count_is_returned() -> None:
    """From the least on a count passes."""
    assert check_count("n", 2, 2) == 2


def test_a_count_has_the_rule_of_an_int() -> None:
    """A subclass of int is a whole number for both checks; a number too long to be printed still has a clear error."""

    class Size(IntEnum):
        TWO = 2

    assert check_count("n", Size.TWO, 2) == check_int("n", Size.TWO) == 2
    with pytest.raises(ValueError, match="n is minus an integer of 16,610 bits; give a whole number from 2"):
        check_count("n", -(10**5000), 2)


@pytest.mark.parametrize("value", [0, -1, float("nan"), 0.0, pytest.param(-(10**5000), id="long")])
def test_no_positive_time(value: Any) -> None:
    """Nothing but more than 0 seconds is a positive time."""
    with pytest.raises(ValueError, match=r"t is .*; give more than 0 seconds, or None"):
        check_positive_seconds("t", value, ", or None")


@pytest.mark.parametrize("value", [10**400, float("inf"), 10**12])
def test_a_time_too_long_for_a_clock_is_for_ever(value: Any) -> None:
    """An int that no float can hold is as long as infinity."""
    assert check_positive_seconds("t", value) == check_seconds("t", value) == FOREVER_S


def test_waits() -> None:
    """None and everything beyond ``FOREVER_S`` is for ever; what is shorter stays as it is."""
    assert check_wait("timeout", None) == check_seconds("timeout", float("inf")) == FOREVER_S
    assert check_wait("timeout", 1) == 1.0
