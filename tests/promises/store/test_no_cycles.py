"""What a process lets go of is gone at once, not when the garbage collector looks: a segment may be gigabytes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

import shoal
from tests.support.workers.crash_workers import descriptors, kill, shoal_mappings, wait_until_left
from tests.support.workers.forked import alone

pytestmark = pytest.mark.long


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@alone
def test_the_segment_of_a_dead_coordinator_is_let_go(tmp_path: Path, uncollected: None) -> None:
    """Transactions and snapshots leave nothing behind that keeps the segment they were made on."""
    with shoal.open(tmp_path / "s", linger=0.05, timeout=60) as db:
        kv = shoal.KVStore(db)
        kv.put("r", "k", 0)
        mapped, open_files = len(shoal_mappings()), len(descriptors())
        for number in range(3):
            with db.transaction("r") as txn:
                txn.kv.put("k", number)
                txn.on("other").kv.put("k", number)
            with db.snapshot("r") as view:
                assert view.kv.get("k") == number
            kill(db.info().coordinator_pid)
            kv.put("r", "k", number)
            del txn, view
        assert (len(shoal_mappings()), len(descriptors())) == (mapped, open_files)
    wait_until_left(tmp_path / "s")


@alone
def test_a_closed_database_is_let_go(tmp_path: Path, uncollected: None) -> None:
    """Closing a database and forgetting it unmaps its store."""
    before = (len(shoal_mappings()), len(descriptors()))
    db = shoal.open(tmp_path / "s", linger=0.05, timeout=60)
    kv = shoal.KVStore(db)
    kv.put("r", "k", 1)
    with db.transaction("r") as txn:
        assert txn.kv.get("k") == 1
    db.close()
    with pytest.raises(shoal.InvalidOperationError, match="closed"):
        kv.get("r", "k")
    del db, kv, txn
    assert (len(shoal_mappings()), len(descriptors())) == before
    wait_until_left(tmp_path / "s")
