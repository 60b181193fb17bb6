"""When keys expire: a heap of moments, at most one useful entry per key. Private to the coordinator."""

from __future__ import annotations

import heapq


class ExpiryQueue:
    """Keys by the first moment at which they may have expired; who takes one out looks at the key itself."""

    __slots__ = ("_due_ms", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[int, bytes]] = []
        self._due_ms: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, key: bytes, expires_ms: int) -> None:
        """Have ``key`` come up at ``expires_ms`` at the latest. A key put again and again stays one entry."""
        due_ms = self._due_ms.get(key)
        if due_ms is None or expires_ms < due_ms:
            self._due_ms[key] = expires_ms
            heapq.heappush(self._heap, (expires_ms, key))

    def take_due(self, now_ms: int, most: int) -> list[bytes]:
        """Up to ``most`` keys whose moment has come."""
        due: list[bytes] = []
        while self._heap and self._heap[0][0] <= now_ms and len(due) < most:
            due_ms, key = heapq.heappop(self._heap)
            if self._due_ms.get(key) == due_ms:
                del self._due_ms[key]
                due.append(key)
        return due
