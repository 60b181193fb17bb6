"""A store whose memory is full refuses politely, and deletes in any order make room, whoever is killed meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import shoal
from tests.faults.disk.filling import MIB, RUN, SECONDS, TIMEOUT_S, delete_all, fill, soon
from tests.support.slow import slow
from tests.support.workers.crash_workers import kill, wait_for

pytestmark = pytest.mark.long


@pytest.fixture
def small(tmp_path: Path) -> Iterator[shoal.Database]:
    """A store of the smallest size there is."""
    with shoal.open(tmp_path / "db", max_bytes=8 * MIB, durability="memory", timeout=TIMEOUT_S, linger=0.2) as db:
        yield db


def test_full_store_reads_and_deletes_and_recovers(small: shoal.Database) -> None:
    """A full store raises StoreFullError, loses nothing, still reads and deletes, and after deletes it writes again."""
    kv = shoal.KVStore(small)
    keys = fill(kv, "a", bytes(400))
    assert len(keys) > 5_000  # most of 8 MiB is for the user
    assert kv.list(RUN) == keys
    assert kv.get(RUN, keys[-1]) == bytes(400)
    with pytest.raises(shoal.StoreFullError):
        kv.put(RUN, "another", bytes(100_000))

    def put_many() -> None:
        with small.transaction(RUN) as txn:
            for i in range(2_000):
                txn.kv.put(f"t{i}", bytes(400))

    with pytest.raises(shoal.StoreFullError):
        put_many()
    assert kv.list(RUN) == keys, "a refused commit left something behind"
    assert small.check() == []
    delete_all(kv, keys[: len(keys) // 2])
    soon(lambda: kv.put(RUN, "another", bytes(100_000)))
    for i in range(100):
        soon(partial(kv.put, RUN, f"b{i}", bytes(400)))
    assert len(kv.list(RUN)) == len(keys) - len(keys) // 2 + 101
    assert small.check() == []


@pytest.mark.slow
def test_every_key_of_a_full_store_can_be_deleted(small: shoal.Database) -> None:
    """Deleting never fails for lack of room, and everything comes back: the store can be filled as far again."""
    kv = shoal.KVStore(small)
    first = fill(kv, "a", bytes(40))
    delete_all(kv, first)
    assert small.info().keys == 0
    wait_for(lambda: small.info().bytes_used < 64 * 1024, "the room of the deleted", SECONDS)
    assert small.check() == []
    second = fill(kv, "b", bytes(40))
    assert len(second) > 0.95 * len(first)


@pytest.mark.slow
def test_values_of_other_sizes_fit_after_deleting(small: shoal.Database) -> None:
    """Room is not bound to the size of what was there before: small, large, very large and small again all fit."""
    kv = shoal.KVStore(small)
    for size in (24, 3_000, 200_000, 100, 1_500_000, 700):
        keys = fill(kv, f"s{size}/", bytes(size))
        room = len(keys) * (size + 72)  # with its record, node and share of the indexes
        least = 3.5 * MIB if size < MIB else size  # the largest need a sixth of the store in one piece
        assert room > least, f"only {room:,} of 8 MiB could be used by values of {size} bytes"
        delete_all(kv, keys)
        wait_for(lambda: small.info().bytes_used < 3 * MIB // 2, "the room of the deleted", SECONDS)
    assert small.check() == []


@pytest.mark.parametrize("snapshots", [1, *slow(0)])
def test_scattered_deletes_of_a_full_store(store: Path, snapshots: int) -> None:
    """Deletes in any order make room, while a snapshot is held, and under coordinators that are killed."""
    with shoal.open(store, max_bytes=12 * MIB, timeout=TIMEOUT_S, linger=0.1) as db:
        kv = shoal.KVStore(db)
        keys = fill(kv, "k", bytes(50))
        random.Random(3).shuffle(keys)
        held = [db.snapshot(RUN) for _ in range(snapshots)]
        begun, killed = len(keys), 0
        while keys:
            some = keys[-50:]

            def delete(some: list[str] = some) -> None:
                with kv.transaction(RUN) as txn:
                    for key in some:
                        txn.kv.delete(key)

            soon(delete)
            del keys[-50:]
            if begun // 2 < len(keys) + 50 <= begun // 2 + 50:
                soon(partial(kv.put, RUN, "halfway", bytes(50)))
                assert kv.delete(RUN, "halfway")
            if killed < 2 and len(keys) % 7_000 < 50:
                killed += 1
                kill(db.info().coordinator_pid)
                assert len(kv.list(RUN)) == len(keys)
        assert killed == 2
        assert kv.list(RUN) == []
        soon(partial(kv.put, RUN, "last", bytes(MIB)))
        assert db.check() == []
        del held
