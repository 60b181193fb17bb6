"""Range tombstones against the naive rule: a list of all ranges that were ever cleared, walked for every question."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.shm import limits
from shoal.shm.errors import CorruptionError, SnapshotExpiredError
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.limits import Limits
from shoal.shm.memory.layout import W_RANGE_TOMBSTONES, W_RANGE_TOMBSTONES_BEGIN, W_RANGE_TOMBSTONES_END
from shoal.shm.memory.range_tombstones import RangeTombstones, disjoint
from shoal.shm.memory.reader import Reader
from tests.support.present import present
from tests.support.stores.segment_store import Store, segment_store  # noqa: F401 (a fixture)

KEYS = st.sampled_from([b"", b"a", b"a\0", b"a1", b"b", b"b0", b"c", b"cc", b"d", b"e", b"\xff"])
BOUNDS = st.tuples(KEYS, KEYS)
STEPS = st.lists(st.lists(BOUNDS, min_size=1, max_size=3), max_size=20)
ALL_KEYS = [b"", b"\0", b"a", b"a\0", b"a0", b"a1", b"a11", b"b", b"b0", b"bz", b"c", b"cc", b"cd", b"d", b"e", b"\xff"]


def newest(rows: Any, key: bytes) -> int:
    return max((version for lower, upper, version in rows if lower <= key < upper), default=0)


@pytest.mark.long
@given(STEPS, st.integers(0, 20), st.integers(1, 4), st.sampled_from([0, 1, 1000]))
@settings(max_examples=present(settings.default).max_examples // 3, suppress_health_check=list(HealthCheck))
def test_against_a_list(steps: Any, gone: Any, block_bounds: int, many: int) -> None:
    """Whatever ranges overlap, touch or are empty, every key is told the newest version that cleared it.

    So are the keys after it, and ranges; what came before stays as it was, and what is taken out is out.
    """
    # With 1000 each range is added by itself.
    bounds = Limits(tombstone_block_bounds=block_bounds, tombstones_rebuilt_at=many)
    tombstones = RangeTombstones(bounds)
    rows: list[Any] = []
    for version, ranges in enumerate(steps, 1):
        before, old_rows = tombstones, list(rows)
        more = [(lower, upper, version) for lower, upper in ranges]
        rows += more
        tombstones = tombstones.with_ranges(more)
        _check(before, old_rows)
        _check(tombstones, rows)
        assert len(tombstones) <= 2 * len(rows) + 1
    _check(tombstones.without(gone), [row for row in rows if row[2] > gone])
    for _ in range(len(steps)):
        oldest = rows[0][2] if rows else 0
        going, rows = [row for row in rows if row[2] == oldest], [row for row in rows if row[2] > oldest]
        tombstones = tombstones.without_ranges(going)
        _check(tombstones, rows)
    assert len(tombstones) <= len(tombstones._blocks)


def _check(tombstones: RangeTombstones, rows: Any) -> None:
    for at, key in enumerate(ALL_KEYS):
        expected = newest(rows, key)
        assert tombstones.newest(key) == expected
        version, end = tombstones.fragment(key)
        assert version == expected
        for other in ALL_KEYS[at:]:
            if end is None or other < end:
                assert newest(rows, other) == expected
        for upper in ALL_KEYS:
            found, first = tombstones.newest_in(key, upper)
            inside = [row for row in rows if max(key, row[0]) < min(upper, row[1])]
            assert found == max((version for _, _, version in inside), default=0)
            assert not found or (key <= first < upper and newest(rows, first) == found)


@given(st.lists(BOUNDS, max_size=8))
def test_disjoint_ranges(ranges: Any) -> None:
    """The same keys, in ranges that neither overlap nor touch."""
    found = disjoint(ranges)
    for key in ALL_KEYS:
        assert any(lower <= key < upper for lower, upper in found) == any(
            lower <= key < upper for lower, upper in ranges
        )
    assert all(lower < upper for lower, upper in found)
    assert all(found[i][1] < found[i + 1][0] for i in range(len(found) - 1))


def _runs(store: Store, count: int) -> list[bytes]:
    names = [b"run%05d" % number for number in range(count)]
    random.Random(7).shuffle(names)
    store.commit({name + b"/key": b"value" for name in names})
    return names


@pytest.mark.long
def test_many_ranges_of_an_open_snapshot() -> None:
    """Thousands of ranges, in many chunks: each snapshot sees its own, and all memory comes back in the end."""
    store = Store(32 * limits.MIB)
    store.commit({b"always": b"1"})
    names = _runs(store, 3000)
    used = store.writer.heap.used_words
    store.pinned.append(store.version)
    seldom = Reader(store.segment)
    for name in names:
        store.commit(clears=[(name, name + b"\xff")])
        store.reclaimer.step(0.0)
    middle = store.version - 1500
    assert len(store.writer.range_tombstones) == 3000
    for reader in (store.reader, seldom):
        for version, gone in ((2, 0), (middle, 1500), (store.version, 3000)):
            there = {key for key, _ in reader.scan(b"run", None, version)}
            assert there == {name + b"/key" for name in names[gone:]}
            for name in names[::37]:
                assert (reader.find(name + b"/key", version) is not None) == (name + b"/key" in there)
    assert store.problems() == []
    store.pinned.clear()
    for _ in range(3):
        store.commit({b"always": b"2"})
        store.reclaim_all()
        assert store.state(store.version) == {b"always": b"2"}
        assert store.problems() == []
    assert (len(store.writer.range_tombstones), store.segment.words[W_RANGE_TOMBSTONES]) == (0, 0)
    assert store.segment.words[W_RANGE_TOMBSTONES_BEGIN] == store.segment.words[W_RANGE_TOMBSTONES_END] > 0
    assert store.writer.heap.used_words < used // 4


def test_a_key_written_again_before_the_sweep(store: Store) -> None:
    """A snapshot from after the clear sees the key absent, also once its range has been swept for older keys."""
    store.commit({b"k": b"old", b"l": b"old"})
    store.commit(clears=[(b"a", b"z")])
    store.pinned.append(2)
    store.commit({b"k": b"new"})
    store.reclaim_all()
    assert store.state(2) == {}
    assert store.reader.find(b"k", 2) is None
    assert store.state(3) == {b"k": b"new"}
    assert len(store.writer.range_tombstones) == 1  # it is still needed
    store.pinned.clear()
    store.commit({b"m": b"1"})
    store.reclaim_all()
    assert not store.writer.range_tombstones
    assert store.state(4) == {b"k": b"new", b"m": b"1"}
    assert store.problems() == []


def test_a_scan_that_is_overtaken_by_the_sweep(store: Store) -> None:
    """Keys that a scan has come by before they were swept stay hidden, though their ranges are looked up after."""
    store.commit(dict.fromkeys((b"a", b"b", b"c", b"d"), b"1"))
    store.commit(clears=[(b"b", b"c"), (b"d", b"e")])
    store.pinned.append(2)
    scan = store.reader.scan(b"", None, 2)
    assert next(scan)[0] == b"a"
    store.reclaim_all()
    assert not store.writer.hash_index.find(b"d")
    assert [key for key, _ in scan] == [b"c"]


def test_remembered_while_ranges_are_cleared(store: Store) -> None:
    """A reader remembers where keys are though range tombstones are there, and none of what they hide."""
    store.commit({b"kept": b"1", b"gone": b"1"})
    store.pinned.append(1)
    store.commit(clears=[(b"g", b"h")])
    place = KeyLocationCache(b"")
    for _ in range(3):
        assert store.reader.get_named(place, "kept") == b"1"
        assert store.reader.get_named(place, "gone") is None
    assert set(place.state[1]) == {"kept"}
    store.commit(clears=[(b"k", b"l")], publish=False)
    for _ in range(3):
        assert store.reader.get_named(place, "kept") == b"1"
    store.publish()
    assert store.reader.get_named(place, "kept") is None
    store.commit({b"kept": b"2"})
    for _ in range(3):
        assert store.reader.get_named(place, "kept") == b"2"
    assert set(place.state[1]) == {"kept"}


def test_too_many_ranges_revoke_a_snapshot() -> None:
    """An old snapshot is revoked when more range tombstones are kept for it than the bound, and they go."""
    store = Store(bounds=Limits(max_range_tombstones=20))
    names = _runs(store, 40)
    store.pinned.append(1)
    store.reclaimer.step(0.0)
    for name in names[:20]:
        store.commit(clears=[(name, name + b"\xff")])
    store.reclaimer.step(2.0)
    assert len(store.state(1)) == 40
    store.commit(clears=[(names[20], names[20] + b"\xff")])
    store.reclaim_all(4.0)
    with pytest.raises(SnapshotExpiredError):
        store.state(1)
    store.commit({b"other": b"1"})
    store.reclaim_all(4.0)
    assert not store.writer.range_tombstones
    assert len(store.state(store.version)) == 20


@given(st.integers(0, 2**32))
@settings(max_examples=present(settings.default).max_examples // 2)
def test_damaged_rows(seed: int) -> None:
    """Of a table with a damaged word a reader raises CorruptionError or reads on; nothing else."""
    rng = random.Random(seed)
    store = Store(bounds=Limits(tombstone_chunk_words=30))
    names = _runs(store, 60)
    store.pinned.append(1)
    for name in names[:50]:
        store.commit(clears=[(name, name + b"\xff")])
    words = store.segment.words
    chunk = rng.choice(store.writer.tombstone_table._chunks)[0]
    at = rng.choice([W_RANGE_TOMBSTONES, W_RANGE_TOMBSTONES_END, chunk, chunk + 1, chunk + rng.randrange(32)])
    words[at] = rng.choice([0, 1, 2, rng.randrange(2**12), rng.randrange(2**64), words[at] ^ 1 << rng.randrange(64)])
    reader = Reader(store.segment, limits=store.writer.limits)
    for read in (lambda: list(reader.scan(b"", None, 1)), lambda: reader.find(names[0] + b"/key", store.version)):
        with contextlib.suppress(CorruptionError):
            read()
