"""A large record needs free memory in one piece: what is obsolete makes way for it before it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.coordinator.commit.apply import ClientSessions
from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.host import THIS_MACHINE
from shoal.coordinator.memory.check_report import check_segment
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.primitives.rules.registry import TABLE
from shoal.shm.limits import MIB
from shoal.shm.memory.segment import Segment
from shoal.shm.wire.answer import COMMITTED, REFUSED, decode_answer
from shoal.shm.wire.frames import LENGTH_BYTES
from shoal.shm.wire.request import CommitSet

_KEYS = [b"%03d" % number for number in range(140)]
_BYTES = 47_000  # three blocks
_LARGE_BYTES = 3 * MIB


class Rig:
    """An engine over eight MiB, full of records that lie side by side, every second of which was deleted and freed."""

    def __init__(self) -> None:
        self.segment = Segment.create(8 * MIB, 12345)
        self.writer = Writer(self.segment)
        reclaimer, window = Reclaimer(self.writer, list), ConflictWindow(0)
        self.engine = CommitEngine(
            *(self.writer, reclaimer, window, None, THIS_MACHINE, 0, ClientSessions(), False, TABLE)
        )
        self._commit_id = 0
        for key in _KEYS:
            assert self.submit(key, bytes(_BYTES)) == COMMITTED
        for key in _KEYS[::2]:
            assert self.submit(key, None) == COMMITTED
        self.engine.finish_group()
        self.engine.free_more()
        assert self.writer.heap.free_blocks * 16_384 > _LARGE_BYTES, "there is room, but not in one piece"

    def submit(self, key: bytes, value: bytes | None) -> int:
        self._commit_id += 1
        writes: list[Any] = [key, value, 0]
        answer = self.engine.submit(1, CommitSet(self._commit_id, 0, 0, [], [], writes, [], [], None, b""))
        _, status, _, _ = decode_answer(answer[LENGTH_BYTES:])
        return status


@pytest.fixture
def rig() -> Rig:
    """An engine with room in small pieces only."""
    return Rig()


def test_what_the_same_group_made_obsolete_makes_way(rig: Rig) -> None:
    """Records that commits just before it deleted stand between the pieces: they are freed, and it is done."""
    for key in _KEYS[1::2]:
        assert rig.submit(key, None) == COMMITTED
    assert rig.submit(b"large", bytes(_LARGE_BYTES)) == COMMITTED
    rig.engine.finish_group()
    assert check_segment(rig.segment, rig.engine.published, rig.writer) == []


def test_live_data_do_not(rig: Rig) -> None:
    """If live records stand between the pieces it is refused, nothing of it is done, and smaller commits go on."""
    assert rig.submit(b"large", bytes(_LARGE_BYTES)) == REFUSED
    assert rig.writer.newest(b"large", 0) is None
    assert rig.submit(b"small", bytes(_BYTES)) == COMMITTED
    rig.engine.finish_group()
    assert check_segment(rig.segment, rig.engine.published, rig.writer) == []
