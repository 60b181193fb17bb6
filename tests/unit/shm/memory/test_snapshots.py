"""Slots: what a worker pins, the coordinator sees."""

from __future__ import annotations

from shoal.shm import limits
from shoal.shm.memory.layout import W_PUBLISHED
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.snapshots import SnapshotPage, SnapshotSlots, map_page, new_page


def test_snapshot_of_an_empty_store_is_pinned() -> None:
    """Version 0 is a version like any other: what comes after it is not reclaimed as if nobody looked."""
    words = Segment.create(limits.MIN_STORE_BYTES, 1).words
    fd = new_page()
    page, slots = SnapshotPage(map_page(fd)), SnapshotSlots(map_page(fd))
    assert page.pinned() == []
    first, version = slots.pin(words)
    assert (version, page.pinned()) == (0, [0])
    words[W_PUBLISHED] = 7
    assert slots.pin(words)[1] == 7
    assert sorted(page.pinned()) == [0, 7]
    slots.unpin(first)
    assert page.pinned() == [7]
