"""The time shoal uses: one edge, so that a simulation can put its own in.

Expiry and timestamps are wall clock, integer milliseconds since the epoch; waiting is monotonic.
"""

from __future__ import annotations

import time
from typing import Protocol


def now_ms() -> int:
    """Milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


class Clock(Protocol):
    """What the coordinator asks of time."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        ...

    def monotonic_s(self) -> float:
        """Seconds from anywhere, never going back."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return now_ms()

    def monotonic_s(self) -> float:
        """Seconds from anywhere, never going back."""
        return time.monotonic()
