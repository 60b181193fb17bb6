"""What of a write counts, for the smallest engine."""

from __future__ import annotations

from shoal.shm.clock import now_ms
from shoal.shm.operation import Write


def is_live(write: Write) -> bool:
    return write.value is not None and not 0 < write.expires_ms <= now_ms()


def within(key: bytes, ranges: list[tuple[bytes, bytes]]) -> bool:
    return any(lower <= key < upper for lower, upper in ranges)
