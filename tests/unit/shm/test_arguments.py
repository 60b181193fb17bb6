"""Checks of numbers that users pass; lengths of time and functions have tests of their own."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.shm.arguments import FOREVER_S, check_count, check_int, check_seconds, check_wait


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


def test_waits() -> None:
    """None and everything beyond ``FOREVER_S`` is for ever; what is shorter stays as it is."""
    assert check_wait("timeout", None) == check_seconds("timeout", float("inf")) == FOREVER_S
    assert check_wait("timeout", 1) == 1.0
