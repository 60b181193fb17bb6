"""``AutoCommit``: calls that commit by themselves, the figures of the store, waiting for commits."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import shoal
from shoal.primitives.rules.registry import TABLE
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.workers.shared_memory.attachment import Attachment
from shoal.workers.shared_memory.autocommit import AutoCommit
from shoal.workers.shared_memory.channel import Channel
from shoal.workers.shared_memory.connection import StoreConnection
from tests.support.present import present
from tests.support.stores.versions import least_taken

KEY = [(b"key", b"key\0")]


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[StoreConnection]:
    made = StoreConnection(tmp_path / "store", "memory", None, 10.0, 0.1, TABLE)
    yield made
    made.close()


@pytest.fixture
def engine(connection: StoreConnection) -> AutoCommit:
    return AutoCommit(connection, read_past=lambda *_: iter(()))


def test_each_call_commits(engine: AutoCommit) -> None:
    """What a call writes, the next one reads; each has a version of its own."""
    engine.put(b"a", b"1")
    engine.put(b"b", b"2", 2**62)
    engine.delete(b"a")
    assert engine.find(b"a") is None
    found = present(engine.find(b"b"))
    assert (found.value, found.version, found.expires_ms) == (b"2", 2, 2**62)
    assert engine.get_named(KeyLocationCache(b""), "b") == b"2"
    assert least_taken(engine.published, lambda: engine.put(b"c", b"3")) == 1
    engine.clear(b"a", b"z")
    assert list(engine.scan(b"", b"\xff")) == []


def test_a_scan_is_of_one_snapshot(engine: AutoCommit) -> None:
    """What is written while the iterator is in use does not appear in it."""
    for key in (b"a", b"b", b"c"):
        engine.put(key, b"1")
    keys = []
    for key, _ in engine.scan(b"a", b"z"):
        keys.append(key)
        engine.put(key + b"+", b"2")
        engine.delete(b"c")
    assert keys == [b"a", b"b", b"c"]


def test_stats(engine: AutoCommit) -> None:
    """The counters follow commits; the coordinator is another process, which runs."""
    empty = engine.stats()
    assert (empty.commit_version, empty.keys, empty.clients) == (0, 0, 1)
    for key in (b"a", b"b"):
        engine.put(key, b"x" * 100)
    stats = engine.stats()
    assert (stats.commit_version, stats.keys, stats.coordinator_pid) == (2, 2, empty.coordinator_pid)
    assert stats.bytes_used > empty.bytes_used
    assert stats.coordinator_pid != os.getpid()
    os.kill(stats.coordinator_pid, 0)


@pytest.mark.long
def test_stats_of_a_closed_connection(connection: StoreConnection, engine: AutoCommit) -> None:
    """They are refused as every other read."""
    connection.close()
    with pytest.raises(shoal.InvalidOperationError, match="is closed"):
        engine.stats()


def test_closed_while_it_attaches(
    connection: StoreConnection, engine: AutoCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread closes the database when a commit has just got an attachment of its own: it is refused."""
    arrive = connection._arrive

    def arrive_late(channel: Channel, timeout_s: float, start: bool) -> Attachment:
        attachment = arrive(channel, timeout_s, start)
        connection.close()
        return attachment

    connection._idle.clear()
    monkeypatch.setattr(connection, "_arrive", arrive_late)
    with pytest.raises(shoal.InvalidOperationError, match="is closed"):
        engine.put(b"a", b"1")


class TestWaiting:
    @pytest.mark.long
    def test_in_vain(self, engine: AutoCommit) -> None:
        """Without a commit the wait ends after its time, and it looks a last time after that."""
        looked_s: list[float] = []
        give_up_s = time.monotonic() + 0.05
        assert engine.wait_for(lambda: looked_s.append(time.monotonic()), KEY, give_up_s) is None
        assert looked_s[0] < give_up_s <= looked_s[-1]

    @pytest.mark.long
    def test_no_commit_no_look(self, engine: AutoCommit) -> None:
        """While nothing is committed, ``wait_for`` does not look again until the time is up."""
        looks: list[None] = []
        assert engine.wait_for(lambda: looks.append(None), KEY, time.monotonic() + 0.3) is None
        assert len(looks) <= 3

    def test_what_is_there(self, engine: AutoCommit) -> None:
        """What the first look finds is returned at once, a false value as well."""
        engine.put(b"key", b"1")
        assert engine.wait_for(lambda: 0, KEY, 0.0) == 0

    @pytest.mark.long
    def test_commits_of_another_thread(self, engine: AutoCommit) -> None:
        """Each commit leads to another look, whichever thread makes it."""

        def count() -> None:
            for number in range(1, 51):
                engine.put(b"key", b"%d" % number)
                time.sleep(0.001)

        def look() -> bytes | None:
            found = engine.find(b"key")
            return found.value if found is not None and found.value == b"50" else None

        thread = threading.Thread(target=count)
        thread.start()
        assert engine.wait_for(look, KEY, time.monotonic() + 30) == b"50"
        thread.join()
