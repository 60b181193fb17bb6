"""``AutoCommit``: what the engine says of the store, and waiting for commits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import shoal
from shoal.workers.shared_memory.attachment import EngineStats


@pytest.fixture
def db(tmp_path: Path) -> Iterator[shoal.Database]:
    with shoal.open(tmp_path / "store", durability="memory", linger=0.1) as opened:
        yield opened


def test_stats(db):
    """The counters follow commits, and are those of ``Database.info``."""
    empty = db.engine.stats()
    assert (empty.commit_version, empty.keys, empty.clients) == (0, 0, 1)
    for key in "ab":
        shoal.KVStore(db).put("run", key, "x" * 100)
    stats, info = db.engine.stats(), db.info()
    assert (stats.commit_version, stats.keys) == (2, 2)
    assert stats.bytes_used > empty.bytes_used
    assert stats == EngineStats(info.commit_version, info.keys, info.bytes_used, info.clients, info.coordinator_pid)


def test_stats_of_a_closed_database(db):
    """They are refused as every other read."""
    engine = db.engine
    db.close()
    with pytest.raises(shoal.InvalidOperationError, match="is closed"):
        engine.stats()


class TestWaiting:
    def test_in_vain(self, db):
        """Without a commit both waits end after their time, and ``wait_for`` looks a last time after that."""
        give_up_s = time.monotonic() + 0.05
        assert db.engine.wait_beyond(0, give_up_s) is False
        looked_s: list[float] = []
        give_up_s = time.monotonic() + 0.05
        assert db.engine.wait_for(lambda: looked_s.append(time.monotonic()), give_up_s) is None
        assert looked_s[0] < give_up_s <= looked_s[-1]

    def test_no_commit_no_look(self, db):
        """While nothing is committed, ``wait_for`` does not look again until the time is up."""
        looks: list[None] = []
        assert db.engine.wait_for(lambda: looks.append(None), time.monotonic() + 0.3) is None
        assert len(looks) <= 3

    def test_what_is_there(self, db):
        """What the first look finds is returned at once, a false value as well; so is a past version."""
        shoal.KVStore(db).put("run", "key", 1)
        assert db.engine.wait_for(lambda: 0, 0.0) == 0
        assert db.engine.wait_beyond(0, 0.0) is True

    def test_a_commit_of_another_thread(self, db):
        """Each commit leads to another look, whichever thread makes it."""
        kv = shoal.KVStore(db)

        def count() -> None:
            for number in range(1, 51):
                kv.put("run", "key", number)
                time.sleep(0.001)

        thread = threading.Thread(target=count)
        thread.start()
        found = db.engine.wait_for(
            lambda: number if (number := kv.get("run", "key", 0)) >= 50 else None, time.monotonic() + 30
        )
        thread.join()
        assert found == 50
