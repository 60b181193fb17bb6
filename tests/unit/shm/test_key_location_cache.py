"""Key-location caches: bounded over all the runs that a process has read, and void under another coordinator."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import shoal
from shoal.coordinator.memory.writer import Writer
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.limits import MIN_STORE_BYTES, Limits
from shoal.shm.memory.reader import Reader
from shoal.shm.memory.segment import Segment

MOST = 10
NAMES = [f"key-{i}" for i in range(4)]


def test_bounded_over_many_prefixes() -> None:
    """A reader that passes by any number of prefixes keeps no more locations than the limit, and reads right."""
    segment = Segment.create(MIN_STORE_BYTES, 1)
    writer = Writer(segment)
    reader = Reader(segment, writer.epoch_words, limits=Limits(key_locations=MOST))
    caches = [KeyLocationCache(b"run-%d\0" % run) for run in range(20)]
    writes = [part for cache in caches for name in NAMES for part in (cache.prefix + name.encode(), cache.prefix, 0)]
    writer.apply(1, [], writes, writer.plan(writes))
    writer.end_group(1)
    writer.publish(1)
    most = 0
    for cache in caches:
        for _ in range(2):
            for name in NAMES:
                assert reader.get_named(cache, name) == cache.prefix
                most = max(most, sum(len(each.state[1]) for each in caches))
        assert reader.get_named(caches[0], NAMES[0]) == caches[0].prefix
    assert len(NAMES) <= most <= MOST  # some are kept, and no more
    segment.close_descriptor()


def _locations(kv: shoal.KVStore) -> int:
    return sum(len(view._cache.state[1]) for view in kv._views.values())


@pytest.mark.long
def test_nothing_of_a_dead_coordinator(tmp_path: Path) -> None:
    """Under another coordinator the caches of all runs are emptied, not only of those that are read again."""
    with shoal.open(tmp_path / "store", linger=0.1) as db:
        kv = shoal.KVStore(db)
        for run in range(5):
            kv.put(f"run-{run}", "key", run)
            for _ in range(2):  # the first read begins an epoch, the next caches
                assert kv.get(f"run-{run}", "key") == run
        assert _locations(kv) == 5
        os.kill(db.info().coordinator_pid, signal.SIGKILL)
        kv.put("run-0", "key", "new")
        for _ in range(2):
            assert kv.get("run-0", "key") == "new"
        assert _locations(kv) == 1
        assert [kv.get(f"run-{run}", "key") for run in range(1, 5)] == [1, 2, 3, 4]
