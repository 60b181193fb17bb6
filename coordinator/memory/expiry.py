"""When keys expire: a heap of times in ms since the epoch, with at most one valid entry per key.

Private to the coordinator, and built anew as records are applied: it need not survive anything.
"""

from __future__ import annotations

import heapq


class ExpiryQueue:
    """Keys by the earliest time at which they may expire.

    A key may have been written again, or deleted, since it was added: the caller looks at the key itself.
    """

    __slots__ = ("_due_ms", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[int, bytes]] = []
        self._due_ms: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, key: bytes, expires_ms: int) -> None:
        """Have ``take_due`` return ``key`` at ``expires_ms`` or earlier. A key that is added again stays one entry."""
        due_ms = self._due_ms.get(key)
        if due_ms is None or expires_ms < due_ms:
            self._due_ms[key] = expires_ms
            heapq.heappush(self._heap, (expires_ms, key))

    def take_due(self, now_ms: int, most: int) -> list[bytes]:
        """Remove and return up to ``most`` keys whose time has come."""
        due: list[bytes] = []
        while self._heap and self._heap[0][0] <= now_ms and len(due) < most:
            due_ms, key = heapq.heappop(self._heap)
            if self._due_ms.get(key) == due_ms:
                del self._due_ms[key]
                due.append(key)
        return due
