"""What one slice of upkeep has looked at and removes. It sees its own writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from shoal.shm.operation import Look, Read, VersionedValue, Write

_MS_PER_S = 1000


class Removal:
    """A slice: ``left`` is how many more keys it may look at; below 0 it must end where it is.

    ``removed`` counts what it removes, by the name that ``shoal info`` shows.
    """

    def __init__(self, read: Read, look: Look, now_ms: int, most: int) -> None:
        self.now_ms = now_ms
        self.most = most
        self.left = most
        self.removed: Counter[str] = Counter()
        self.writes: dict[bytes, Write] = {}
        self.clears: list[tuple[bytes, bytes]] = []
        self.runs: set[bytes] = set()  # prefixes of runs that are removed
        self.seen_children: dict[bytes, bytes] = {}  # by index of a parent: the child that keeps it
        self._read = read
        self._look = look

    def read(self, key: bytes) -> VersionedValue | None:
        """What a key holds after the writes so far."""
        self.left -= 1
        write = self.writes.get(key)
        if write is None:
            return self._read(key)
        return None if write.value is None else VersionedValue(write.value, 0, write.expires_ms)

    def look(self, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        """The keys of ``[lower, upper)`` and what each holds after the writes so far; None if it is gone."""
        for key, found in self._look(lower, upper):
            self.left -= 1
            write = self.writes.get(key)
            if write is not None:
                yield key, write.value
            else:
                yield key, None if found is None else found.value

    def first_there(self, lower: bytes, upper: bytes) -> bytes | None:
        """The first key of a range; one that is gone if the slice ends there."""
        for key, raw in self.look(lower, upper):
            if raw is not None or self.left < 0:
                return key
        return None

    def delete(self, key: bytes) -> None:
        """Delete a key."""
        self.left -= 1
        self.writes[key] = Write(key, None, 0)

    def add(self, writes: list[Write]) -> None:
        """Add writes that are decided elsewhere."""
        self.left -= len(writes)
        self.writes.update({write.key: write for write in writes})

    def latest_ms(self, age_s: float) -> int:
        """The latest time at which something must have been to be as old as ``age_s``; below 0 if nothing is."""
        age_ms = age_s * _MS_PER_S
        return -1 if age_ms > self.now_ms else self.now_ms - int(age_ms)
