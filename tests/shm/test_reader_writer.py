"""Segment, writer, reader and reclaimer against a model: a dict at every version, snapshots pinned and let go."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from shoal.shm import limits, ordered_index, reclaim
from shoal.shm.errors import SnapshotExpiredError, StoreFullError
from shoal.shm.integrity import check_segment
from shoal.shm.layout import W_HORIZON, W_KEYS
from shoal.shm.reader import Place, Reader
from shoal.shm.reclaim import Reclaimer
from shoal.shm.segment import Segment
from shoal.shm.writer import Writer

FAR_MS = 1 << 62
KEYS = st.sampled_from([bytes([a, b]) for a in b"abcd" for b in b"0123"] + [b"a", b"d3\xff", b"\0"])
VALUES = st.one_of(st.binary(max_size=12), st.sampled_from([b"", b"x" * 200, b"y" * 9000, b"z" * 20_000]))
WRITES = st.dictionaries(KEYS, st.one_of(st.none(), VALUES), min_size=1, max_size=12)


class Store:
    """A segment with everything that works on it, and pinned versions as the test sets them."""

    def __init__(self, max_bytes: int = 8 * limits.MIB) -> None:
        self.segment = Segment.create(max_bytes, 12345)
        self.writer = Writer(self.segment)
        self.pinned: list[int] = []
        self.reclaimer = Reclaimer(self.writer, lambda: list(self.pinned))
        self.reader = Reader(self.segment, self.writer.epoch_words)
        self.place = Place(b"")
        self.version = 0

    def commit(self, writes=None, clears=(), expires_ms: int = 0, publish: bool = True) -> int:
        flat = []
        for key, value in (writes or {}).items():
            flat += (key, value, expires_ms if value is not None else 0)
        plan = self.writer.plan(flat)
        self.version += 1
        self.writer.apply(self.version, list(clears), flat, plan)
        if publish:
            self.publish()
        return self.version

    def publish(self) -> None:
        self.writer.end_group(self.version)
        self.writer.publish(self.version)

    def reclaim_all(self, now_s: float = 0.0) -> None:
        for _ in range(1000):
            if not self.reclaimer.step(now_s):
                return
        raise AssertionError("reclaiming does not come to an end")

    def state(self, version: int, lower: bytes = b"", upper: bytes | None = None) -> dict[bytes, bytes]:
        return {key: found.value for key, found in self.reader.scan(lower, upper, version)}

    def value(self, key: bytes) -> bytes | None:
        """The newest value, by the short way and the long way, which must agree."""
        found = self.reader.find_latest(key)
        value = found.value if found else None
        if not key.endswith(b"\xff"):
            assert self.reader.get_named(self.place, key.decode()) == value
        return value

    def problems(self) -> list[str]:
        return check_segment(self.segment, self.version, self.writer)


@pytest.fixture
def store() -> Store:
    return Store()


class Machine(RuleBasedStateMachine):
    """The model is one dict per version; a snapshot must go on seeing its version's dict, whatever happens."""

    snapshots = Bundle("snapshots")

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(limits, "CLEAR_SLICE", 3)
        self.patch.setattr(limits, "RECLAIM_SLICE", 7)
        self.patch.setattr(ordered_index, "LEAF_ENTRIES", 4)
        self.patch.setattr(ordered_index, "BRANCH_ENTRIES", 4)
        self.store = Store()
        self.model: dict[bytes, bytes] = {}
        self.history: dict[int, dict[bytes, bytes]] = {0: {}}

    def teardown(self) -> None:
        self.patch.undo()

    @rule(writes=WRITES, expires_ms=st.sampled_from([0, FAR_MS]))
    def commit(self, writes, expires_ms):
        self.apply(writes, [], expires_ms)

    @rule(writes=st.one_of(st.just({}), WRITES), bounds=st.lists(st.tuples(KEYS, KEYS), min_size=1, max_size=2))
    def clear(self, writes, bounds):
        self.apply(writes, [(min(pair), max(pair)) for pair in bounds], 0)

    @rule(groups=st.lists(WRITES, min_size=2, max_size=3))
    def group(self, groups):
        """Several commits published with one store."""
        for writes in groups:
            self.apply(writes, [], 0, publish=False)
        self.store.publish()

    def apply(self, writes, clears, expires_ms, publish=True):
        version = self.store.commit(writes, clears, expires_ms, publish)
        for lower, upper in clears:
            self.model = {k: v for k, v in self.model.items() if not lower <= k < upper}
        self.model = {k: v for k, v in (self.model | writes).items() if v is not None}
        self.history[version] = dict(self.model)

    @rule(target=snapshots)
    def pin(self):
        self.store.pinned.append(self.store.version)
        return self.store.version

    @precondition(lambda self: self.store.pinned)
    @rule(version=consumes(snapshots))
    def unpin(self, version):
        self.store.pinned.remove(version)

    @rule()
    def reclaim_step(self):
        self.store.reclaimer.step(0.0)

    @rule()
    def reclaim_all(self):
        self.store.reclaim_all()

    @rule(lower=KEYS, upper=KEYS)
    def scan_part(self, lower, upper):
        for version in {*self.store.pinned, self.store.version}:
            expected = {k: v for k, v in self.history[version].items() if lower <= k < upper}
            assert self.store.state(version, lower, upper) == expected

    @invariant()
    def every_snapshot_sees_its_state(self):
        reader = self.store.reader
        keys = set(self.model) | {b"a", b"a0", b"d3", b"zz"}
        for version in {*self.store.pinned, self.store.version}:
            expected = self.history[version]
            found = self.store.state(version)
            assert found == expected
            assert list(found) == sorted(found)
            for key in keys | set(expected):
                there = reader.find(key, version)
                assert (there.value if there else None) == expected.get(key)
        for key in keys:
            assert self.store.value(key) == self.model.get(key)
            newest = self.store.writer.newest(key, 0)
            assert (newest.value if newest else None) == self.model.get(key)

    @invariant()
    def segment_is_sound(self):
        assert self.store.problems() == []


TestMachine = Machine.TestCase
TestMachine.__doc__ = "Every pinned snapshot keeps seeing its state, and the segment is sound after every step."
TestMachine.settings = settings(
    max_examples=settings.default.max_examples // 5, stateful_step_count=30, suppress_health_check=list(HealthCheck)
)


class TestVisibility:
    def test_unpublished_is_invisible(self, store):
        """What was applied and not published is seen by no snapshot, by point or by scan."""
        store.commit({b"a": b"1"})
        store.commit({b"a": b"2", b"b": b"2"}, publish=False)
        assert store.value(b"a") == b"1"
        assert store.value(b"b") is None
        assert store.state(1) == {b"a": b"1"}
        store.publish()
        assert store.state(2) == {b"a": b"2", b"b": b"2"}
        assert store.state(1) == {b"a": b"1"}

    def test_found_tells_version_and_expiry(self, store):
        """find gives the version a value was written at, and when it expires."""
        store.commit({b"a": b"1"}, expires_ms=FAR_MS)
        store.commit({b"b": b"2"})
        assert store.reader.find(b"a", 2) == (b"1", 1, FAR_MS)
        assert store.reader.find(b"b", 2) == (b"2", 2, 0)
        assert store.reader.find(b"b", 1) is None

    def test_expired_is_absent(self, store):
        """A record whose moment has passed is absent to get, find, scan and the writer."""
        store.commit({b"a": b"1"}, expires_ms=1)
        assert store.value(b"a") is None
        assert store.reader.find(b"a", 1) is None
        assert store.state(1) == {}
        assert store.writer.newest(b"a", 2) is None
        assert store.writer.newest(b"a", 0) == (b"1", 1, 1)

    def test_many_keys_and_splits(self, store):
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

    def test_large_values(self, store):
        """Values around and above a block's size come back whole."""
        sizes = [8 * 1024 * n + d for n in (1, 2, 4) for d in (-33, -32, -25, -24, -1, 0, 1)]
        store.commit({str(size).encode(): bytes([size % 251]) * size for size in sizes})
        for size in sizes:
            assert store.value(str(size).encode()) == bytes([size % 251]) * size
        assert store.problems() == []


class TestReclaim:
    def test_memory_comes_back(self, store):
        """Overwriting and deleting for long takes no more memory than what is alive, once reclaimed."""
        store.reclaim_all()
        empty = store.writer.heap.used_words
        for number in range(300):
            store.commit({b"k": b"x" * 3000, f"{number % 10}".encode(): b"y" * 500})
            store.reclaim_all()
        store.commit(dict.fromkeys([b"k", *(f"{n}".encode() for n in range(10))]))
        store.reclaim_all()
        store.reclaim_all()
        assert store.state(store.version) == {}
        assert store.segment.words[W_KEYS] == 0
        assert store.writer.heap.used_words <= empty + 512  # what went last waits for the next version
        assert store.problems() == []

    def test_cleared_range_is_reclaimed_in_slices(self, store, monkeypatch):
        """A cleared range is absent at once, counted out slice by slice, and leaves nothing behind."""
        monkeypatch.setattr(limits, "CLEAR_SLICE", 10)
        store.commit({f"{n:03}".encode(): b"v" for n in range(100)})
        store.commit(clears=[(b"010", b"090")])
        assert list(store.state(2)) == [f"{n:03}".encode() for n in (*range(10), *range(90, 100))]
        left = []
        while store.reclaimer.step(0.0):
            left.append(store.segment.words[W_KEYS])
            assert store.problems() == []
            assert len(left) < 100
        assert left == sorted(left, reverse=True)
        assert len(set(left)) >= 7
        assert store.segment.words[W_KEYS] == 20
        assert store.writer.clears == []

    def test_snapshot_below_the_horizon_is_told(self, store):
        """A version nobody pinned is SnapshotExpiredError once reclaiming has passed it, never wrong data."""
        store.commit({b"k": b"1"})
        store.commit({b"k": b"2"})
        store.reclaim_all()
        assert store.segment.words[W_HORIZON] == 2
        for read in (lambda: store.reader.find(b"k", 1), lambda: store.state(1)):
            with pytest.raises(SnapshotExpiredError) as caught:
                read()
            assert (caught.value.snapshot_version, caught.value.oldest_version) == (1, 2)
        assert store.value(b"k") == b"2"

    def test_pinned_history_is_kept(self, store):
        """The horizon never passes a pinned version while there is room."""
        store.commit({b"k": b"old"})
        store.pinned.append(1)
        for number in range(50):
            store.commit({b"k": str(number).encode()})
            store.reclaim_all(float(number))
        assert store.segment.words[W_HORIZON] == 1
        assert store.reader.find(b"k", 1).value == b"old"
        store.pinned.clear()
        store.reclaim_all(50.0)
        assert store.segment.words[W_HORIZON] == store.version

    def test_old_snapshot_is_revoked_when_history_is_too_large(self, store, monkeypatch):
        """History beyond the bound revokes pins older than the grace, and only those."""
        monkeypatch.setattr(reclaim.limits, "HISTORY_BYTES", 0)
        store.commit({b"k": b"x" * 9000})
        store.pinned.append(1)
        store.reclaimer.step(0.0)
        for _ in range(50):
            store.commit({b"k": b"x" * 9000})
        store.pinned.append(store.version)
        store.reclaimer.step(0.5)
        assert store.reader.find(b"k", 1).value == b"x" * 9000
        store.reclaimer.step(2.0)
        with pytest.raises(SnapshotExpiredError):
            store.reader.find(b"k", 1)
        assert store.reader.find(b"k", store.pinned[1]).value == b"x" * 9000
        assert store.reclaimer.revoked >= 1


class TestClear:
    def test_two_clears_and_a_snapshot_between(self, store):
        """A key cleared twice and written again is absent to a snapshot between, before and after sweeping."""
        store.commit({b"k": b"old"})
        store.commit(clears=[(b"a", b"z")])
        store.pinned.append(2)
        store.commit(clears=[(b"a", b"z")])
        store.commit({b"k": b"new"})
        assert store.state(2) == {}
        store.reclaim_all()
        assert store.state(2) == {}
        assert store.reader.find(b"k", 2) is None
        assert store.state(4) == {b"k": b"new"}
        assert store.problems() == []

    def test_clear_and_write_in_one_commit(self, store):
        """A commit that clears a range and writes a key of it again leaves that key, and a sound segment."""
        store.commit({b"k": b"old", b"l": b"old"})
        store.commit({b"k": b"new"}, clears=[(b"a", b"z")])
        assert store.state(2) == {b"k": b"new"}
        assert store.problems() == []
        store.reclaim_all()
        assert store.state(2) == {b"k": b"new"}
        assert store.problems() == []


class TestFull:
    def test_store_full_changes_nothing_and_deletes_go_on(self):
        """A commit with no room is StoreFullError with nothing applied; deletes work, and make room again."""
        store = Store(8 * limits.MIB)
        number = 0
        with pytest.raises(StoreFullError, match="delete keys"):  # noqa: PT012
            for number in range(10_000):
                store.commit({f"{number:05}".encode(): b"x" * 5000})
        assert number > 500
        assert store.problems() == []
        assert len(store.state(store.version)) == number
        store.commit({f"{n:05}".encode(): None for n in range(number)})
        store.reclaim_all()
        store.reclaim_all()
        store.commit({b"again": b"x" * 5000})
        assert store.state(store.version) == {b"again": b"x" * 5000}
        assert store.problems() == []


def test_a_first_record_stands_beside_its_node_and_goes_with_it():
    """Small first records share the node's memory; neither overwriting nor deleting frees or loses anything twice."""
    store = Store()
    small, large = b"small", b"large"
    store.commit({small: b"v" * 40, large: b"w" * 4000})
    find, words = store.writer.hash_index.find, store.segment.words
    node = find(small)
    assert store.writer.is_beside(node, words[node])
    assert not store.writer.is_beside(find(large), words[find(large)])
    for i in range(20):
        store.commit({small: b"%d" % i * 40, large: b"x" * i})
        store.reclaim_all()
        assert check_segment(store.segment, store.version, store.writer) == []
    assert store.reader.find(small, store.version).value == b"19" * 40
    store.commit({small: None, large: None})
    for _ in range(4):
        store.commit({b"other": b"1"})
        store.reclaim_all()
    assert check_segment(store.segment, store.version, store.writer) == []
    assert not find(small)
    assert not find(large)
