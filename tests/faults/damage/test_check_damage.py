"""``check()`` finds every kind of damage: in a store that stands still, and while commits go on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from shoal.coordinator.memory.check_report import check_segment
from shoal.shm.memory.layout import BLOCK_WORDS, DIRECTORY_WORD, TOMBSTONE, W_KEYS, W_ORDER_ROOT, W_RANGE_TOMBSTONES
from tests.mutants.catching.rig import request
from tests.support.stores.checked_store import Checked, checked_store  # noqa: F401 (fixture)


def _some_node(store: Checked) -> int:
    return store.rig.writer.hash_index.find(b"plain")


def _second_record(store: Checked) -> int:
    """A record that stands for itself: the newest of a key that was overwritten."""
    words = store.rig.words
    record: int = words[store.rig.writer.hash_index.find(b"twice")]
    return record


def _leaf(store: Checked) -> int:
    leaf: int = store.rig.writer.ordered_index.branches[0].leaves[0]
    return leaf


def _set(place: Callable[[Checked], int], value: Any) -> Callable[[Checked], None]:
    def damage(store: Checked) -> None:
        at = place(store)
        store.rig.words[at] = value(store, store.rig.words[at]) if callable(value) else value

    return damage


def _lose(store: Checked) -> None:
    store.rig.writer.heap.allocate(40)


def _free(reference: Callable[[Checked], int]) -> Callable[[Checked], None]:
    return lambda store: store.rig.writer.heap.free(reference(store))


def _free_twice(store: Checked) -> None:
    heap = store.rig.writer.heap
    free = next(free for free in heap._free_in_block.values() if free)
    free.append(free[0])


def _wait(reference: Callable[[Checked], int], times: int = 1) -> Callable[[Checked], None]:
    def damage(store: Checked) -> None:
        writer = store.rig.writer
        for _ in range(times):
            writer.discard(store.rig.published + 1, reference(store), 4)

    return damage


def _forget_in_hash(store: Checked) -> None:
    store.rig.writer.hash_index.remove(b"plain", _some_node(store))


def _forget_in_order(store: Checked) -> None:
    writer = store.rig.writer
    writer.ordered_index.remove([(b"plain", _some_node(store))])
    writer.end_group(store.rig.published)


def _swap_in_leaf(store: Checked) -> None:
    words, leaf = store.rig.words, _leaf(store)
    words[leaf + 1], words[leaf + 2] = words[leaf + 2], words[leaf + 1]


def _bucket(store: Checked) -> int:
    bucket: int = store.rig.words[DIRECTORY_WORD]
    return bucket


def _attribute(change: Callable[[Any], None]) -> Callable[[Checked], None]:
    return lambda store: change(store.rig.writer)


def _miscount(writer: Any) -> None:
    writer.hash_index._live[next(iter(writer.hash_index._live))] += 1


def _mirror(writer: Any) -> None:
    writer.ordered_index.branches[0].fences[1] = b"zzz"


DAMAGE: dict[str, tuple[Callable[[Checked], None], str]] = {
    "a record that nobody knows": (_lose, "neither reachable nor waiting"),
    "a node freed": (_free(_some_node), "no record in use|allocated again"),
    "a record freed": (_free(_second_record), "no record in use|allocated again"),
    "a leaf freed": (_free(_leaf), "no record in use|allocated again"),
    "free twice": (_free_twice, "free twice"),
    "a node that waits": (_wait(_some_node), "waits to be reclaimed and is reachable"),
    "a record that waits": (_wait(_second_record), "waits to be reclaimed and is reachable"),
    "waits twice": (_wait(_second_record, 2), "waits to be reclaimed twice"),
    "nothing that waits": (_wait(lambda store: BLOCK_WORDS * 50 + 1), "waits to be reclaimed and is no record"),
    "not in the hash index": (_forget_in_hash, "in the ordered index and not in the hash index"),
    "not in the ordered index": (_forget_in_order, "in the hash index and not in the ordered index"),
    "out of order": (_swap_in_leaf, "stands after"),
    "a node without a version": (_set(_some_node, 0), "has no version"),
    "two keys share a record": (
        _set(_some_node, lambda store, _: _second_record(store)),
        "in use twice",
    ),
    "a version of the future": (_set(_second_record, 1 << 40), "version 1099511627776, the newest"),
    "versions that rise": (
        _set(lambda store: store.rig.words[_second_record(store) + 1], lambda store, _: 1 << 30),
        "below",
    ),
    "a length": (_set(lambda store: _second_record(store) + 2, 1 << 31), "impossible length"),
    "flags": (_set(lambda store: _second_record(store) + 2, 1 << 40), "impossible length or flags"),
    "a tombstone too much": (_set(lambda store: _second_record(store) + 2, TOMBSTONE), "live keys, the walk found"),
    "a key's length": (_set(lambda store: _some_node(store) + 1, 1 << 20), "whose key has"),
    "a reference outside": (_set(_some_node, 1 << 45), "no record in use"),
    "a node outside": (_set(lambda store: _leaf(store) + 1, 1 << 45), "no record in use"),
    "a leaf's count": (_set(_leaf, 1 << 20), "entries, 1 to"),
    "an empty root": (_set(lambda store: store.rig.words[W_ORDER_ROOT], 0), "entries, 1 to|differs"),
    "no root": (_set(lambda store: W_ORDER_ROOT, 0), "not in the ordered index"),
    "a root outside": (_set(lambda store: W_ORDER_ROOT, 1 << 45), "no record in use"),
    "a directory entry": (_set(lambda store: DIRECTORY_WORD, lambda store, _: _leaf(store)), "no record in use"),
    "a directory entry outside": (_set(lambda store: DIRECTORY_WORD, 1 << 45), "no record in use"),
    "a bucket entry": (
        _set(lambda store: _bucket(store) + 255, lambda store, _: BLOCK_WORDS * 60),
        "no record in use|entries as counted",
    ),
    "a chunk of range tombstones": (
        _set(lambda store: W_RANGE_TOMBSTONES, lambda store, _: BLOCK_WORDS * 61),
        "the range tombstones",
    ),
    "keys in the header": (_set(lambda store: W_KEYS, 7), "the header counts 7"),
    "keys counted": (_attribute(lambda writer: setattr(writer, "keys", writer.keys + 1)), "the header counts"),
    "words counted": (
        _attribute(lambda writer: setattr(writer.heap, "used_words", writer.heap.used_words + 8)),
        "counted as allocated",
    ),
    "waiting words counted": (
        _attribute(lambda writer: setattr(writer, "garbage_words", writer.garbage_words + 8)),
        "counted as waiting",
    ),
    "a bucket's count": (_attribute(_miscount), "entries as counted"),
    "a fence of the mirror": (_attribute(_mirror), "differs"),
}


def _damaged(store: Checked, name: str) -> str:
    writes: list[Any] = [b"plain", b"p", 0, b"twice", bytes(300), 0]
    for n in range(300):
        writes += (b"s%03d" % n, b"v", 0)
    store.rig.submit((1, request(1, writes)))
    store.rig.reclaim()
    store.rig.submit((1, request(2, [b"twice", bytes(301), 0])))
    store.commits = 2
    if name == "versions that rise":
        store.rig.reclaimer.pinned = lambda: [1]  # or nobody looks so far down
    assert store.problems() == []
    damage, expected = DAMAGE[name]
    damage(store)
    return expected


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found(checked: Callable[[int], Checked], name: str) -> None:
    """Every kind of damage is found in a store that stands still, by the writing process and by any other."""
    store = checked(1)
    expected = _damaged(store, name)
    for problems in (store.problems(), check_segment(store.rig.segment, store.rig.published, store.rig.writer)):
        assert any(re.search(expected, problem) for problem in problems), problems


# Where damage is such that the coordinator itself stumbles, or the commit mends it, commits beside it prove nothing.
_BESIDE = [
    "a record that nobody knows",
    "a record that waits",
    "a node that waits",
    "waits twice",
    "not in the hash index",
    "not in the ordered index",
    "two keys share a record",
    "a version of the future",
    "a length",
    "flags",
    "a tombstone too much",
    "a key's length",
    "a reference outside",
    "keys counted",
    "words counted",
    "waiting words counted",
]


@pytest.mark.parametrize("name", _BESIDE)
def test_damage_is_found_while_commits_go_on(checked: Callable[[int], Checked], name: str) -> None:
    """The same while others commit to other keys."""
    store = checked(2)
    expected = _damaged(store, name)
    number = iter(range(3, 100_000))

    def busy() -> None:
        n = next(number)
        store.rig.submit((1, request(n, [b"k%03d" % (n % 300), bytes(n % 700), 0])))
        store.rig.reclaimer.step(store.rig.now_ms / 1000)

    store.busy = busy
    problems = store.problems()
    if "waits" in name:
        expected += "|no record in use"  # it was reclaimed before the check began
    assert any(re.search(expected, problem) for problem in problems), problems
