"""Segment, writer, reader and reclaimer against a model: a dict at every version, snapshots pinned and let go."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from shoal.shm.limits import Limits
from shoal.shm.memory.reader import Reader
from tests.support.present import present
from tests.support.stores.segment_store import Store, segment_store  # noqa: F401 (a fixture)

FAR_MS = 1 << 62
KEYS = st.sampled_from([bytes([a, b]) for a in b"abcd" for b in b"0123"] + [b"a", b"d3\xff", b"\0"])
VALUES = st.one_of(st.binary(max_size=12), st.sampled_from([b"", b"x" * 200, b"y" * 9000, b"z" * 20_000]))
WRITES = st.dictionaries(KEYS, st.one_of(st.none(), VALUES), min_size=1, max_size=12)

SMALL = Limits(
    leaf_entries=4,
    branch_entries=4,
    clear_slice=3,
    reclaim_slice=7,
    tombstone_block_bounds=2,
    tombstone_chunk_words=9,  # two range tombstones in a chunk
)


class Machine(RuleBasedStateMachine):
    """The model is one dict per version; a snapshot must go on seeing its version's dict, whatever happens."""

    snapshots = Bundle("snapshots")

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(bounds=SMALL)
        self.seldom = Reader(self.store.segment, limits=SMALL)  # of another process, which reads now and then
        self.model: dict[bytes, bytes] = {}
        self.history: dict[int, dict[bytes, bytes]] = {0: {}}

    @rule(writes=WRITES, expires_ms=st.sampled_from([0, FAR_MS]))
    def commit(self, writes: Any, expires_ms: int) -> None:
        self.apply(writes, [], expires_ms)

    @rule(writes=st.one_of(st.just({}), WRITES), bounds=st.lists(st.tuples(KEYS, KEYS), min_size=1, max_size=2))
    def clear(self, writes: Any, bounds: Any) -> None:
        self.apply(writes, [(min(pair), max(pair)) for pair in bounds], 0)

    @rule(groups=st.lists(WRITES, min_size=2, max_size=3))
    def group(self, groups: Any) -> None:
        """Several commits published with one store."""
        for writes in groups:
            self.apply(writes, [], 0, publish=False)
        self.store.publish()

    @rule(writes=st.one_of(st.just({}), WRITES), bounds=st.tuples(KEYS, KEYS), more=WRITES)
    def group_with_a_clear(self, writes: Any, bounds: Any, more: Any) -> None:
        """Until they are published, commits that clear and write again are seen by nobody."""
        published = self.store.version
        self.apply(writes, [(min(bounds), max(bounds))], 0, publish=False)
        self.apply(more, [], 0, publish=False)
        self.check_point_reads(self.store.reader, published)
        for key, value in self.history[published].items():
            assert self.store.value(key) == value
        assert self.store.state(published) == self.history[published]
        self.store.publish()

    @rule()
    def read_seldom(self) -> None:
        """A reader that has missed any number of changes reads what the others do."""
        for version in {*self.store.pinned, self.store.version}:
            self.check_point_reads(self.seldom, version)
            found = {key: each.value for key, each in self.seldom.scan(b"", None, version)}
            assert found == self.history[version]

    def check_point_reads(self, reader: Any, version: Any) -> None:
        expected = self.history[version]
        for key in {b"a", b"a0", b"d3", b"zz", *self.model, *expected}:
            there = reader.find(key, version)
            assert (there.value if there else None) == expected.get(key)

    def apply(self, writes: Any, clears: Any, expires_ms: int, publish: bool = True) -> None:
        version = self.store.commit(writes, clears, expires_ms, publish)
        for lower, upper in clears:
            self.model = {k: v for k, v in self.model.items() if not lower <= k < upper}
        self.model = {k: v for k, v in (self.model | writes).items() if v is not None}
        self.history[version] = dict(self.model)

    @rule(target=snapshots)
    def pin(self) -> int:
        self.store.pinned.append(self.store.version)
        return self.store.version

    @precondition(lambda self: self.store.pinned)
    @rule(version=consumes(snapshots))
    def unpin(self, version: int) -> None:
        self.store.pinned.remove(version)

    @rule()
    def reclaim_step(self) -> None:
        self.store.reclaimer.step(0.0)

    @rule()
    def reclaim_all(self) -> None:
        self.store.reclaim_all()

    @rule(lower=KEYS, upper=KEYS)
    def scan_part(self, lower: bytes, upper: bytes) -> None:
        for version in {*self.store.pinned, self.store.version}:
            expected = {k: v for k, v in self.history[version].items() if lower <= k < upper}
            assert self.store.state(version, lower, upper) == expected

    @invariant()
    def every_snapshot_sees_its_state(self) -> None:
        keys = set(self.model) | {b"a", b"a0", b"d3", b"zz"}
        for version in {*self.store.pinned, self.store.version}:
            expected = self.history[version]
            found = self.store.state(version)
            assert found == expected
            assert list(found) == sorted(found)
            self.check_point_reads(self.store.reader, version)
        for key in keys:
            assert self.store.value(key) == self.model.get(key)
            newest = self.store.writer.newest(key, 0)
            assert (newest.value if newest else None) == self.model.get(key)

    @invariant()
    def segment_is_sound(self) -> None:
        assert self.store.problems() == []


TestMachine = pytest.mark.long(Machine.TestCase)
TestMachine.__doc__ = "Every pinned snapshot keeps seeing its state, and the segment is sound after every step."
TestMachine.settings = settings(
    max_examples=present(settings.default).max_examples // 5,
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
)


class TestVisibility:
    def test_unpublished_is_invisible(self, store: Store) -> None:
        """What was applied and not published is seen by no snapshot, by point or by scan."""
        store.commit({b"a": b"1"})
        store.commit({b"a": b"2", b"b": b"2"}, publish=False)
        assert store.value(b"a") == b"1"
        assert store.value(b"b") is None
        assert store.state(1) == {b"a": b"1"}
        store.publish()
        assert store.state(2) == {b"a": b"2", b"b": b"2"}
        assert store.state(1) == {b"a": b"1"}

    def test_found_tells_version_and_expiry(self, store: Store) -> None:
        """find gives the version a value was written at, and when it expires."""
        store.commit({b"a": b"1"}, expires_ms=FAR_MS)
        store.commit({b"b": b"2"})
        assert store.reader.find(b"a", 2) == (b"1", 1, FAR_MS)
        assert store.reader.find(b"b", 2) == (b"2", 2, 0)
        assert store.reader.find(b"b", 1) is None

    def test_expired_is_absent(self, store: Store) -> None:
        """A record whose moment has passed is absent to get, find, scan and the writer."""
        store.commit({b"a": b"1"}, expires_ms=1)
        assert store.value(b"a") is None
        assert store.reader.find(b"a", 1) is None
        assert store.state(1) == {}
        assert store.writer.newest(b"a", 2) is None
        assert store.writer.newest(b"a", 0) == (b"1", 1, 1)

    @pytest.mark.long
    def test_many_keys_and_splits(self, store: Store) -> None:
        """Thousands of keys in random order read back through both indexes, at every stage of growth."""
        keys = [f"{number:05}".encode() for number in range(4000)]
        random.Random(7).shuffle(keys)
        for start in range(0, 4000, 500):
            store.commit({key: key * 2 for key in keys[start : start + 500]})
            assert store.problems() == []
        assert store.state(store.version) == {key: key * 2 for key in sorted(keys)}
        assert list(store.state(store.version, b"01000", b"01010")) == [f"0{n}".encode() for n in range(1000, 1010)]
        assert all(store.value(key) == key * 2 for key in keys)
        assert store.state(1) == {key: key * 2 for key in keys[:500]}

    def test_large_values(self, store: Store) -> None:
        """Values around and above a block's size come back whole."""
        sizes = [8 * 1024 * n + d for n in (1, 2, 4) for d in (-33, -32, -25, -24, -1, 0, 1)]
        store.commit({str(size).encode(): bytes([size % 251]) * size for size in sizes})
        for size in sizes:
            assert store.value(str(size).encode()) == bytes([size % 251]) * size
        assert store.problems() == []
