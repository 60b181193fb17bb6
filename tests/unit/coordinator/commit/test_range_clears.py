"""Range tombstones below delete_run: their keys go in slices with commits between, and many go in one commit."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.coordinator.commit.apply import ClientSessions
from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.commit.upkeep import Upkeep
from shoal.coordinator.host import THIS_MACHINE
from shoal.coordinator.memory.check_report import check_segment
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.server.checks import Checks
from shoal.coordinator.server.maintenance import Maintenance
from shoal.primitives.rules.registry import TABLE
from shoal.shm import limits
from shoal.shm.memory.segment import Segment
from shoal.shm.wire.request import CommitSet

KEYS = 3000


def _commit(engine: CommitEngine, commit_id: int, writes: list[Any], clears: list[Any]) -> None:
    engine.submit(1, CommitSet(commit_id, 0, 0, [], [], writes, clears, [], None, b""))
    engine.finish_group()


def test_maintenance_sweeps_a_slice_at_a_time() -> None:
    """However many keys a range had, a coordinator nobody talks to looks for requests after each slice of them."""
    segment = Segment.create(64 * limits.MIB, 12345)
    writer = Writer(segment)
    reclaimer, window = Reclaimer(writer, list), ConflictWindow(0)
    engine = CommitEngine(writer, reclaimer, window, None, THIS_MACHINE, 0, ClientSessions(), False, TABLE)
    upkeep = Upkeep(engine, writer, time.monotonic)
    maintenance = Maintenance(engine, writer, reclaimer, window, Checks(writer, reclaimer), None, upkeep)
    _commit(engine, 1, [part for i in range(KEYS) for part in (b"r%06d" % i, b"value", 0)], [])
    full = writer.heap.used_words
    _commit(engine, 2, [], [(b"r", b"s")])
    for _ in range(KEYS):
        before = writer.keys
        maintenance.run(0.0)
        assert 0 <= before - writer.keys <= limits.CLEAR_SLICE
        if not reclaimer.idle_work():
            break
    assert (writer.keys, len(writer.range_tombstones)) == (0, 0)
    assert writer.heap.used_words < full // 10
    assert check_segment(segment, engine.published, writer) == []


@pytest.mark.long
def test_ranges_that_find_no_room_are_refused_whole(store: Path) -> None:
    """A commit of more ranges than a full store has memory for is StoreFullError; nothing of it is done."""
    with shoal.open(store, durability="memory", max_bytes=8 << 20, linger=0.2) as db:
        kv = shoal.KVStore(db)
        with pytest.raises(shoal.StoreFullError):
            for number in range(1000):
                kv.put("r", f"{number:04}", b"x" * 20_000)
        keys = kv.list("r")
        prefix = shoal.Namespace()._run_prefix("r")
        with pytest.raises(shoal.StoreFullError), db.transaction("r") as txn:
            for number in range(9000):
                lower = prefix + b"\x01%04d" % number
                txn._begun().clear(lower, lower + b"x" * 500)
        assert kv.list("r") == keys
        assert kv.delete("r", keys[0])
        assert db.check() == []


@pytest.mark.long
def test_many_ranges_in_one_commit(store: Path) -> None:
    """A thousand ranges are cleared at once, whole, and their keys are gone from the segment soon."""
    with shoal.open(store, durability="memory", linger=0.2) as db:
        kv = shoal.KVStore(db)
        with db.transaction("r") as txn:
            for number in range(1000):
                txn.kv.put(f"{number:04}", number)
        prefix = shoal.Namespace()._run_prefix("r")
        with db.snapshot("r") as before, db.transaction("r") as txn:
            for number in range(1000):
                lower = prefix + b"\x01%04d" % number
                txn._begun().clear(lower, lower + b"\0")
            assert txn.kv.list() == []
            assert len(before.kv.list()) == 1000
        assert kv.list("r") == []
        kv.put("r", "0500", "again")
        assert kv.list_with_values("r") == [("0500", "again")]
        assert db.check() == []
