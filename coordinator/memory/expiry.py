"""When keys expire: times in ms since the epoch in their order, one for each key that may expire and is still there.

Private to the coordinator, and built anew as records are applied: it need not survive anything.
"""

from __future__ import annotations

from sortedcontainers import SortedList


class ExpiryQueue:
    """Keys by the earliest time at which they may expire.

    A key may have been written again, or deleted, since it was added: the caller looks at the key itself. One that has
    left the indexes is discarded, so that keys which are deleted long before their time take no memory until then.
    """

    __slots__ = ("_due_ms", "_entries", "_new")

    def __init__(self) -> None:
        self._due_ms: dict[bytes, int] = {}
        self._entries: SortedList[tuple[int, bytes]] = SortedList()
        self._new: list[tuple[int, bytes]] = []  # added since they were sorted: a million at once, when a store opens

    def __len__(self) -> int:
        return len(self._due_ms)

    def add(self, key: bytes, expires_ms: int) -> None:
        """Have ``take_due`` return ``key`` at ``expires_ms`` or earlier. A key that is added again stays one entry."""
        due_ms = self._due_ms.get(key)
        if due_ms is None or expires_ms < due_ms:
            if due_ms is not None:
                self.discard(key)
            self._due_ms[key] = expires_ms
            self._new.append((expires_ms, key))

    def discard(self, key: bytes) -> None:
        """The key is gone, or comes up at another time; nothing happens if it is not here."""
        due_ms = self._due_ms.pop(key, None)
        if due_ms is not None:
            self._sort().remove((due_ms, key))

    def take_due(self, now_ms: int, most: int) -> list[bytes]:
        """Remove and return up to ``most`` keys whose time has come."""
        entries = self._sort()
        if not entries or entries[0][0] > now_ms:
            return []
        count = min(most, entries.bisect_left((now_ms + 1,)))
        due = [key for _, key in entries[:count]]
        del entries[:count]
        for key in due:
            del self._due_ms[key]
        return due

    def _sort(self) -> SortedList[tuple[int, bytes]]:
        if self._new:
            self._entries.update(self._new)
            self._new.clear()
        return self._entries
