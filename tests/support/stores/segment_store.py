"""A segment with its writer, reader and reclaimer, without coordinator or clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from shoal.coordinator.memory.check_report import check_segment
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.shm import limits
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.limits import DEFAULT_LIMITS, Limits
from shoal.shm.memory.reader import Reader
from shoal.shm.memory.segment import Segment


class Store:
    """A segment with everything that works on it, and pinned versions as the test sets them."""

    def __init__(self, max_bytes: int = 8 * limits.MIB, bounds: Limits = DEFAULT_LIMITS) -> None:
        self.segment = Segment.create(max_bytes, 12345)
        self.writer = Writer(self.segment, bounds)
        self.pinned: list[int] = []
        self.reclaimer = Reclaimer(self.writer, lambda: list(self.pinned))
        self.reader = Reader(self.segment, self.writer.epoch_words, limits=bounds)
        self.place = KeyLocationCache(b"")
        self.version = 0

    def commit(
        self,
        writes: dict[bytes, bytes | None] | None = None,
        clears: Sequence[tuple[bytes, bytes]] = (),
        expires_ms: int = 0,
        publish: bool = True,
    ) -> int:
        flat: list[Any] = []
        for key, value in (writes or {}).items():
            flat += (key, value, expires_ms if value is not None else 0)
        plan = self.writer.plan(flat, list(clears))
        self.version += 1
        self.writer.apply(self.version, list(clears), flat, plan)
        if publish:
            self.publish()
        return self.version

    def publish(self) -> None:
        self.writer.end_group(self.version)
        self.writer.publish(self.version)

    def reclaim_all(self, now_s: float = 0.0) -> None:
        for _ in range(1000):
            if not self.reclaimer.step(now_s):
                return
        raise AssertionError("reclaiming does not come to an end")

    def state(self, version: int, lower: bytes = b"", upper: bytes | None = None) -> dict[bytes, bytes]:
        return {key: found.value for key, found in self.reader.scan(lower, upper, version)}

    def value(self, key: bytes) -> bytes | None:
        """The newest value, by the short way and the long way, which must agree."""
        found = self.reader.find_latest(key)
        value = found.value if found else None
        if not key.endswith(b"\xff"):
            assert self.reader.get_named(self.place, key.decode()) == value
        return value

    def problems(self) -> list[str]:
        return check_segment(self.segment, self.version, self.writer)


@pytest.fixture(name="store")
def segment_store() -> Store:
    return Store()
