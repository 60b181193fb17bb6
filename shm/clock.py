"""The clocks that shoal reads, and what a commit engine needs of one (``coordinator.host`` has it).

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
    """What a commit engine needs of time."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start; they never go back."""
        ...
