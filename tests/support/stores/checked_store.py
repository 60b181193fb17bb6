"""A store that one process writes and another checks, in this process, with every moment between them in hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.coordinator.log import format as wal_format
from shoal.coordinator.server.checks import Checks
from shoal.primitives.rules import registry as operations
from shoal.shm import codec, limits
from shoal.shm.limits import DEFAULT_LIMITS, Limits
from shoal.shm.memory import check_parts
from shoal.shm.memory.integrity import SegmentCheck
from shoal.shm.memory.segment import Segment
from tests.mutants.catching import rig as rigs
from tests.mutants.catching.rig import Disk, Rig, request

# Leaves, branches and buckets so small that all of them split and join all the time; slices of a check likewise.
SMALL_NODES = Limits(
    leaf_entries=4, branch_entries=6, bucket_fill=8, check_blocks=3, check_buckets=2, check_references=20
)


class Checked:
    """A coordinator's engine and a process that checks its store through a mapping of its own, read-only.

    ``busy`` is called before every question and every so many keys: what commits there does it while the check goes on.
    """

    def __init__(self, seed: int = 1, bounds: Limits = DEFAULT_LIMITS, max_bytes: int = limits.MIN_STORE_BYTES) -> None:
        self.rng = random.Random(seed)
        self.bounds = bounds
        self.rig = Rig(Disk(), bounds=bounds, max_bytes=max_bytes)
        self.checks = Checks(self.rig.writer, self.rig.reclaimer, bounds)
        self.client: Any = SimpleNamespace()
        self.number = 0
        self.busy: Callable[[], None] = lambda: None
        self.segment = Segment.attach(self.rig.segment.read_only_fd())
        self.commits = 0

    @property
    def now_s(self) -> float:
        return self.rig.now_ms / 1000

    def ask(self, part: str, position: int) -> list[Any]:
        if position == 0 or self.rng.random() < 0.1:
            self.busy()
        self.rig.engine.finish_group()
        answer = self.checks.answer(self.client, [self.number, part, position], self.rig.engine.published, self.now_s)
        assert answer is not None
        received: list[Any] = codec.unpackb(codec.pack(answer))  # it goes through a pipe
        if part == check_parts.BEGIN:
            self.number = received.pop(0)
        return received

    def problems(self) -> list[str]:
        check = SegmentCheck(self.segment, self.ask, self.bounds)
        sound = check._walk_chain

        def walk_chain(node: int, key: bytes) -> bool:
            if self.rng.random() < 0.03:
                self.busy()
            return sound(node, key)

        check._walk_chain = walk_chain  # type: ignore[method-assign]  # of this one
        return check.run()

    def commit(self) -> None:
        """One group of any kind of commit; sometimes maintenance."""
        rng, rig = self.rng, self.rig
        group = []
        for client in range(1, 1 + rng.randrange(1, 4)):
            self.commits += 1
            group.append((client, self._request(self.commits)))
        rig.submit(*group)
        rig.now_ms += 60
        if rng.random() < 0.5:
            rig.engine.sweep_expired()
            rig.engine.finish_group()
        for _ in range(rng.randrange(4)):
            rig.reclaimer.step(rig.now_ms / 1000)
        if rig.reclaimer.waits_for_a_version() and rng.random() < 0.5:
            rig.engine.make_version()

    def _request(self, number: int) -> Any:
        rng = self.rng
        kind = rng.randrange(7)
        if kind == 0:
            return request(number, operations=[[operations.EVENT_APPEND, [b"log\0", "xxh3", [["e", b"\xc0"]]]]])
        if kind == 1:
            low = rng.randrange(400)
            clears = [b"k%03d" % low, b"k%03d" % (low + rng.randrange(1, 60))]
            return request(number, self._writes(rng.randrange(2)), clears=clears)
        return request(number, self._writes(rng.randrange(1, 12)))

    def _writes(self, count: int) -> list[Any]:
        rng = self.rng
        writes: list[Any] = []
        for key in rng.sample(range(400), count):
            if rng.random() < 0.3:
                writes += (b"k%03d" % key, None, 0)
            else:
                size = rng.choice((3, 3, 3, 40, 40, 300, 300, 3000, 9000))
                writes += (b"k%03d" % key, bytes(size), self.rig.now_ms + 500 if rng.random() < 0.1 else 0)
        return writes


@pytest.fixture(name="checked")
def checked_store() -> Iterator[Callable[..., Checked]]:
    """Makes a store from a seed, and perhaps limits and a size."""
    boot_id = wal_format.boot_id
    yield Checked
    wal_format.boot_id = boot_id
    while rigs.opened:
        rigs.opened.pop().close_descriptor()
