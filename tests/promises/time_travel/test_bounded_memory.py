"""The store's memory bounds its history: the oldest goes first, and no commit is refused for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import shoal
from shoal.shm.limits import MIN_STORE_BYTES
from tests.support.slow import slow
from tests.support.workers.crash_workers import DEADLINE_S

pytestmark = pytest.mark.long


@pytest.mark.parametrize(("commits", "times"), [(600, 3), *slow((2_000, 10))])
def test_the_oldest_history_makes_room(store: Path, commits: int, times: int) -> None:
    """Several times what a store holds goes through it: what is left of the past is whole, and newer than what went."""
    with shoal.open(store, durability="memory", max_bytes=MIN_STORE_BYTES, history=3600) as db:
        kv = shoal.KVStore(db)
        versions = []
        for i in range(commits):
            with db.transaction("r") as txn:
                txn.kv.put(f"k{i % 4}", i.to_bytes(4, "big") * 12_500)
            versions.append(txn.version)
        deadline = time.monotonic() + DEADLINE_S
        while not (info := db.info()).history_bytes and time.monotonic() < deadline:
            time.sleep(0.01)  # the coordinator has not counted yet
        assert info.history_version is not None
        assert 0 < info.history_bytes < MIN_STORE_BYTES
        kept = [i for i, version in enumerate(versions) if version >= info.history_version]
        assert 20 < len(kept) < 200, "the past fills what the live data leave, and no more"
        for i in kept:
            with db.snapshot("r", version=versions[i]) as past:
                assert past.kv.get(f"k{i % 4}") == i.to_bytes(4, "big") * 12_500
        with pytest.raises(shoal.SnapshotExpiredError) as expired:
            db.snapshot("r", version=versions[0])
        assert expired.value.oldest_version == info.history_version
        assert db.check() == []
        for n in range(1, times + 1):  # each time the past fills the store again, and has to leave one large piece
            kv.put("r", "large", bytes([n]) * (2 << 20))
            assert kv.get("r", "large") == bytes([n]) * (2 << 20)
            for i in range(200):
                kv.put("r", f"k{i % 4}", i.to_bytes(4, "big") * 12_500)
            kv.delete("r", "large")
        assert db.check() == []


def test_live_data_may_fill_the_store(store: Path) -> None:
    """With history on, a store takes as much live data as without, and deletes make room at once."""

    def fill(history: float, path: Path) -> int:
        with shoal.open(path, durability="memory", max_bytes=MIN_STORE_BYTES, history=history) as db:
            kv, count = shoal.KVStore(db), 0
            try:
                while True:
                    kv.put("r", f"k{count}", bytes(20_000))
                    count += 1
            except shoal.StoreFullError:
                pass
            for _ in range(3):
                shoal.RunIndex(db).delete_run("r")
                for i in range(count // 2):
                    kv.put("r", f"k{i}", bytes(20_000))
            assert db.check() == []
            return count

    assert fill(3600, store / "with") >= fill(0, store / "without") - 2
