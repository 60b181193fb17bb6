"""Reclaiming, clearing and a full segment: memory comes back, and nothing that can still be seen goes or changes."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
from typing import Any

import pytest

from shoal.coordinator.memory.check_report import check_segment
from shoal.shm import limits
from shoal.shm.errors import SnapshotExpiredError, StoreFullError
from shoal.shm.limits import Limits
from shoal.shm.memory.layout import BLOCK_WORDS, W_HORIZON, W_KEYS
from shoal.shm.memory.record import is_beside
from tests.support.present import present
from tests.support.stores.segment_store import Store, segment_store  # noqa: F401 (a fixture)


class TestReclaim:
    def test_memory_comes_back(self, store: Store) -> None:
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
        assert store.writer.heap.used_words <= empty + 2048  # a branch, and what went last, wait for the next version
        assert store.problems() == []

    def test_cleared_range_is_reclaimed_in_slices(self) -> None:
        """A range tombstone is absent at once, counted out slice by slice, and leaves nothing behind."""
        store = Store(bounds=Limits(clear_slice=10))
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
        store.commit({b"other": b"1"})  # from the next version on the range tombstone may go
        store.reclaim_all()
        assert not store.writer.range_tombstones
        assert store.problems() == []

    def test_keys_that_go_before_their_time_leave_nothing(self, store: Store) -> None:
        """Keys with an expiry that are deleted or cleared long before it are not kept in mind until then."""
        for number in range(5):
            keys = [f"{number}-{n}".encode() for n in range(20)]
            store.commit(dict.fromkeys(keys, b"v"), expires_ms=10**15 + number)
            store.commit(dict.fromkeys(keys[:10]))
            store.commit(clears=[(b"", b"\xff")])
            store.reclaim_all()
            assert len(store.writer.expiry) == 0
        store.commit({b"0-0": b"again"}, expires_ms=10)  # one that is there again comes up
        assert store.writer.expiry.take_due(10, 99) == [b"0-0"]

    def test_snapshot_below_the_horizon_is_told(self, store: Store) -> None:
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

    def test_pinned_history_is_kept(self, store: Store) -> None:
        """The horizon never passes a pinned version while there is room."""
        store.commit({b"k": b"old"})
        store.pinned.append(1)
        for number in range(50):
            store.commit({b"k": str(number).encode()})
            store.reclaim_all(float(number))
        assert store.segment.words[W_HORIZON] == 1
        assert present(store.reader.find(b"k", 1)).value == b"old"
        store.pinned.clear()
        store.reclaim_all(50.0)
        assert store.segment.words[W_HORIZON] == store.version

    def test_old_snapshot_is_revoked_when_history_is_too_large(self) -> None:
        """History beyond the bound revokes pins older than the grace, and only those."""
        store = Store(bounds=Limits(history_bytes=0))
        store.commit({b"k": b"x" * 9000})
        store.pinned.append(1)
        store.reclaimer.step(0.0)
        for _ in range(50):
            store.commit({b"k": b"x" * 9000})
        store.pinned.append(store.version)
        store.reclaimer.step(0.5)
        assert present(store.reader.find(b"k", 1)).value == b"x" * 9000
        store.reclaimer.step(2.0)
        with pytest.raises(SnapshotExpiredError):
            store.reader.find(b"k", 1)
        assert present(store.reader.find(b"k", store.pinned[1])).value == b"x" * 9000
        assert store.reclaimer.revoked >= 1

    def test_deleted_keys_that_are_kept_are_history(self) -> None:
        """What is kept of keys that come and go while a snapshot is held is bounded as any history is."""
        store = Store(bounds=Limits(history_bytes=200_000))
        store.commit({b"k": b"v"})
        store.pinned.append(1)
        store.reclaimer.step(0.0)
        before = store.writer.heap.used_words * 8
        for number in range(30):
            keys = [f"{number}/{n:0200}".encode() for n in range(100)]
            store.commit(dict.fromkeys(keys, b"v"))
            store.commit(dict.fromkeys(keys))
            store.reclaim_all(2.0 + number)
            assert store.writer.heap.used_words * 8 < before + 800_000
        with pytest.raises(SnapshotExpiredError):
            store.reader.find(b"k", 1)

    def test_nothing_dead_is_counted_once_all_is_reclaimed(self, store: Store) -> None:
        """However keys are deleted, written again and cleared, in whatever order they are reclaimed."""
        choose = random.Random(5)
        keys = [f"{n}".encode() * choose.choice((1, 3, 100)) for n in range(40)]
        for number in range(300):
            writes = {key: choose.choice((None, None, b"v", b"x" * 3000)) for key in choose.sample(keys, 5)}
            store.commit(writes, clears=[(b"1", b"2")] if choose.random() < 0.1 else [])
            if choose.random() < 0.3:
                store.pinned[:] = [choose.choice((store.version, max(1, store.version - 9)))]
                store.reclaimer.step(float(number))
            assert store.writer.dead_words >= 0
        store.pinned.clear()
        store.reclaim_all(1000.0)
        assert store.writer.dead_words == 0
        assert store.problems() == []

    @pytest.mark.long
    def test_scattered_deletes_in_full_memory(self) -> None:
        """Each deleted key lies in a leaf of its own, and there is little room for new leaves: all can be deleted."""
        store = Store()
        keys = _filled(store)
        random.Random(11).shuffle(keys)
        store.pinned.append(store.version)  # nothing can be freed until deletes find no room
        refused = 0
        while keys:
            try:
                store.commit(dict.fromkeys(keys[-10:]))
            except StoreFullError:
                store.pinned.clear()
                refused += 1
                assert refused < 1_000
                _free_more(store)
            else:
                del keys[-10:]
        assert refused > 0
        _free_more(store)
        assert store.state(store.version) == {}
        assert store.segment.words[W_KEYS] == 0
        assert store.problems() == []

    @pytest.mark.long
    @pytest.mark.parametrize("how", ["deleted", "cleared"])
    def test_keys_stay_while_there_is_no_room_for_leaves(self, how: str) -> None:
        """Keys leave the index a few at a time, as leaves that were replaced become free."""
        store = Store()
        keys = _filled(store)
        _free_more(store)
        some = keys[::200]
        if how == "deleted":
            store.commit(dict.fromkeys(some))
        else:
            store.commit(clears=[(key, key + b"\0") for key in some])
        heap = store.writer.heap
        taken = [heap.allocate(BLOCK_WORDS) for _ in range(heap.free_blocks - 2)]
        leaf_words = store.writer.ordered_index.leaf_words
        while heap.blocks_for(10, leaf_words, for_index=True) == 0:
            taken.append(heap.allocate_index(leaf_words))
        before = len(store.state(store.version))
        rounds = 0
        while store.writer.deleted_keys or store.writer.range_tombstones:
            rounds += 1
            assert rounds < 200
            _free_more(store, 1)
            assert len(store.state(store.version)) == before
        assert rounds > 5
        for reference in taken:
            heap.free(reference)
        assert store.segment.words[W_KEYS] == before == len(keys) - len(some)
        assert store.problems() == []


def _filled(store: Store) -> list[bytes]:
    """Put small values until the memory is full; the keys."""
    keys: list[bytes] = []
    for batch in (50, 1):
        with contextlib.suppress(StoreFullError):
            while True:
                fresh = [b"%07d" % (len(keys) + i) for i in range(batch)]
                store.commit(dict.fromkeys(fresh, bytes(50)))
                keys += fresh
    return keys


def _free_more(store: Store, rounds: int = 4) -> None:
    """Reclaim as for a commit that waits for room."""
    for _ in range(rounds):
        for _ in range(1_000):
            if not store.reclaimer.step(10.0, urgent=True):
                break
        else:
            raise AssertionError("reclaiming does not come to an end")
        store.version += 1
        store.publish()


class TestClear:
    def test_two_clears_and_a_snapshot_between(self, store: Store) -> None:
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

    def test_clear_and_write_in_one_commit(self, store: Store) -> None:
        """A commit that clears a range and writes a key of it again leaves that key, and a sound segment."""
        store.commit({b"k": b"old", b"l": b"old"})
        store.commit({b"k": b"new"}, clears=[(b"a", b"z")])
        assert store.state(2) == {b"k": b"new"}
        assert store.problems() == []
        store.reclaim_all()
        assert store.state(2) == {b"k": b"new"}
        assert store.problems() == []


class TestFull:
    def test_store_full_changes_nothing_and_deletes_go_on(self) -> None:
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

    @pytest.mark.parametrize("size", [10, 3000, 200_000])
    def test_a_full_store_says_that_it_has_less_than_the_commit_needs(self, size: int) -> None:
        """The message names both numbers, and the one that is free is the smaller, for values of any size."""
        store = Store(8 * limits.MIB)
        with pytest.raises(StoreFullError) as told:  # noqa: PT012
            for number in range(300_000):
                store.commit({f"{number}-{i}".encode(): b"x" * size for i in range(20_000 // size + 1)})
        figures = re.search(r"needs up to ([0-9,]+) bytes.* the store has ([0-9,]+) of 8,388,608 free", str(told.value))
        assert figures is not None, told.value
        needs, free = (int(figure.replace(",", "")) for figure in figures.groups())
        assert free < needs

    def test_a_machine_without_memory_is_not_told_as_a_full_store(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the store has room and the machine has none, the message does not ask for a larger store."""

        def full(*_arguments: Any) -> None:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(StoreFullError, match="the machine has no memory left") as told:
            store.commit({f"{i}".encode(): bytes(200_000) for i in range(20)})
        assert "larger max_bytes" not in str(told.value)
        assert store.problems() == []


def test_a_first_record_stands_beside_its_node_and_goes_with_it() -> None:
    """Small first records share the node's memory; neither overwriting nor deleting frees or loses anything twice."""
    store = Store()
    small, large = b"small", b"large"
    store.commit({small: b"v" * 40, large: b"w" * 4000})
    find, words = store.writer.hash_index.find, store.segment.words
    node = find(small)
    size_of = store.writer.heap.size_of
    assert is_beside(words, node, words[node], size_of(node))
    assert not is_beside(words, find(large), words[find(large)], size_of(find(large)))
    for i in range(20):
        store.commit({small: b"%d" % i * 40, large: b"x" * i})
        store.reclaim_all()
        assert check_segment(store.segment, store.version, store.writer) == []
    assert present(store.reader.find(small, store.version)).value == b"19" * 40
    store.commit({small: None, large: None})
    for _ in range(4):
        store.commit({b"other": b"1"})
        store.reclaim_all()
    assert check_segment(store.segment, store.version, store.writer) == []
    assert not find(small)
    assert not find(large)
