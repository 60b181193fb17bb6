"""When slices of upkeep are done, how much of the time they take, and what becomes of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from shoal.coordinator.commit.apply import ClientSessions
from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.commit.upkeep import _GENTLE_S, _GENTLE_SHARE, _LATE_S, _LATE_SHARE, _SHARE, Upkeep
from shoal.coordinator.host import THIS_MACHINE
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.primitives.rules.registry import TABLE
from shoal.shm import operation
from shoal.shm.limits import MIB, Limits
from shoal.shm.memory.segment import Segment
from shoal.shm.operation import Look, Read, Write

NEVER_S = float("inf")


class Rig:
    """An engine with ten keys, an upkeep that deletes one in each slice, and a clock by which a slice takes 0.1 ms."""

    def __init__(self, limits: Limits, size_bytes: int = 64 * MIB) -> None:
        self.now_s = 0.0
        self.slices: list[tuple[bytes, int]] = []  # the cursor and bound that were given
        self.stays = False  # whether a pass never ends
        segment = Segment.create(size_bytes, 12345)
        self.writer = Writer(segment)
        table = TABLE._replace(upkeep=self.decide)
        reclaimer, sessions = Reclaimer(self.writer, list), ClientSessions()
        window = ConflictWindow(0)
        parts: Any = (self.writer, reclaimer, window, None, THIS_MACHINE, 0, sessions, False, table, limits)
        self.engine = CommitEngine(*parts)
        self.upkeep = Upkeep(self.engine, self.writer, lambda: self.now_s, limits)

    def fill(self) -> None:
        self.engine.commit_writes([part for i in range(10) for part in (b"k%d" % i, b"v", 0)])

    def decide(self, read: Read, look: Look, cursor: bytes, now_ms: int, most: int) -> operation.Upkeep:
        self.slices.append((cursor, most))
        self.now_s += 0.0001
        for key, found in look(cursor or b"k", b"l"):
            if found is not None:
                assert read(key) == found
                return operation.Upkeep([Write(key, None, 0)], [], key, {})
        return operation.Upkeep([], [], b"k" if self.stays else None, {})

    def keys(self) -> int:
        self.engine.finish_group()
        return self.writer.keys


@pytest.fixture
def rig() -> Rig:
    """With a pass a second, at most."""
    return Rig(Limits(upkeep_every_s=1.0, upkeep_slice=7))


def test_a_pass_in_slices(rig: Rig) -> None:
    """Each slice is a commit of its own, goes on where the one before ended, and is visible with the next group."""
    rig.fill()
    rig.engine.finish_group()
    shares = [_GENTLE_SHARE] + [_SHARE] * 9  # commits came before the first slice, and none after
    for left in range(9, -1, -1):
        version = rig.engine.version
        rig.upkeep.step(rig.now_s)
        assert (rig.engine.version, rig.engine.published) == (version + 1, version)
        assert rig.keys() == left
        assert rig.upkeep.due_s == pytest.approx(rig.now_s + 0.0001 * shares[9 - left])
    assert rig.slices == [(b"", 7), *((b"k%d" % i, 7) for i in range(9))]
    rig.upkeep.step(rig.now_s)
    assert rig.upkeep.due_s == rig.upkeep.wakes_at_s == pytest.approx(rig.now_s + 1.0)
    assert rig.upkeep._cursor == b""


def test_keys_that_were_not_published_are_looked_at(rig: Rig) -> None:
    """What was committed since the last group, as by the end of a holder, is published first."""
    rig.fill()
    rig.upkeep.step(0.0)
    assert rig.keys() == 9


def test_an_idle_store_is_not_woken(rig: Rig) -> None:
    """Where a pass found nothing to look at, only a turn of the loop brings the next one."""
    rig.upkeep.step(0.0)
    assert rig.upkeep.wakes_at_s == NEVER_S
    assert rig.upkeep.due_s == pytest.approx(1.0, abs=0.1)
    rig.fill()
    rig.upkeep.step(1.1)
    assert rig.upkeep.wakes_at_s == rig.upkeep.due_s < 2.0


def test_a_pass_beside_commits_leaves_them_most_of_the_time(rig: Rig) -> None:
    """For a while; and as soon as a slice finds that none came since the one before, it hurries."""
    rig.fill()
    rig.stays = True
    shares = [(0.0, True, _GENTLE_SHARE), (1.0, False, _SHARE), (2.0, True, _GENTLE_SHARE), (_GENTLE_S, True, _SHARE)]
    for at_s, is_beside_commits, share in shares:
        if is_beside_commits:
            rig.fill()
        rig.now_s = at_s
        rig.upkeep.step(rig.now_s)
        assert rig.upkeep.due_s == pytest.approx(rig.now_s + 0.0001 * share)


def test_a_pass_that_takes_long_gets_more_of_the_time(rig: Rig) -> None:
    """So what comes in can be outrun; a short pass leaves commits alone."""
    rig.fill()
    rig.stays = True
    rig.upkeep.step(rig.now_s)
    rig.now_s = _LATE_S
    rig.upkeep.step(rig.now_s)
    assert rig.upkeep.due_s == pytest.approx(rig.now_s + max(0.0005, 0.0001 * _LATE_SHARE))


def test_without_room_the_slice_is_tried_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor stays, and the store is left in peace for a while."""
    rig.fill()
    engine = rig.engine
    full = SimpleNamespace(
        operations=engine.operations,
        finish_group=engine.finish_group,
        now_ms=engine.now_ms,
        version=engine.version,
        commit_writes=lambda *_: False,
    )
    monkeypatch.setattr(rig.upkeep, "_engine", full)
    rig.upkeep.step(rig.now_s)
    assert rig.upkeep._cursor == b""
    assert rig.upkeep.due_s - rig.now_s >= 0.5
    monkeypatch.undo()
    rig.upkeep.step(rig.now_s)
    assert (rig.slices, rig.keys()) == ([(b"", 7), (b"", 7)], 9)


def test_a_table_without_upkeep() -> None:
    """Is never asked, and wakes nobody."""
    segment = Segment.create(64 * MIB, 12345)
    writer = Writer(segment)
    reclaimer, window = Reclaimer(writer, list), ConflictWindow(0)
    engine = CommitEngine(writer, reclaimer, window, None, THIS_MACHINE, 0, ClientSessions(), False, TABLE)
    upkeep = Upkeep(engine, writer, lambda: 0.0)
    assert (upkeep.due_s, upkeep.wakes_at_s) == (NEVER_S, NEVER_S)
