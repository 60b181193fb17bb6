"""The clocks that shoal reads: a port, behind which a simulation puts its own.

Times of expiry and timestamps are wall-clock time, in integer ms since the epoch (UTC). Waits use the monotonic clock.
"""

from __future__ import annotations

import time
from typing import Protocol


def now_ms() -> int:
    """Milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


def now_us() -> int:
    """Microseconds since the epoch, UTC."""
    return time.time_ns() // 1_000


class Clock(Protocol):
    """The coordinator's port to the time."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start; they never go back."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return now_ms()

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start; they never go back."""
        return time.monotonic()
