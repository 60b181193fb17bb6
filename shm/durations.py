"""Lengths of time as users give them: every timeout, ttl and linger passes here, so all of them take the same.

Seconds are an int or a float (a subclass, too, as numpy's float64), 0 or more; infinity and what no float can hold mean
for ever. A bool, a Decimal, a Fraction or a text is a ``TypeError``, NaN and a negative number a ``ValueError``.
"""

from __future__ import annotations

from datetime import timedelta

from shoal.shm.errors import shown

FOREVER_S = 1e9  # of a wait: 31 years. Added to a clock or given to a socket it still fits; infinity does not
_PERMANENT_S = 1e12  # of a key: 31,000 years. Much longer, and its moment in ms does not fit a word


def check_seconds(what: str, value: object, hint: str = "") -> float:
    """``value`` in seconds, ``FOREVER_S`` at most. ``hint`` tells of another choice than seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} has type {type(value).__name__}; give seconds as an int or a float{hint}")
    if not value >= 0:
        raise ValueError(f"{what} is {shown(value)}; give 0 seconds or more{hint}")
    return float(min(value, FOREVER_S))


def check_wait(what: str, value: object) -> float:
    """The longest wait a user asked for, in seconds; None is for ever."""
    return FOREVER_S if value is None else check_seconds(what, value, ", or None to wait for ever")


def check_ttl_s(ttl: object) -> float | None:
    """How long a key is to live, in seconds, more than 0; None for ever: infinity and its like."""
    hint = ", or leave it out to keep the key for good"
    if isinstance(ttl, timedelta):
        ttl = ttl.total_seconds()
    elif isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
        raise TypeError(f"ttl has type {type(ttl).__name__}; give seconds as an int or a float, or a timedelta{hint}")
    if not ttl > 0:
        raise ValueError(f"ttl is {shown(ttl)}; give more than 0 seconds{hint}")
    return None if ttl >= _PERMANENT_S else float(ttl)
