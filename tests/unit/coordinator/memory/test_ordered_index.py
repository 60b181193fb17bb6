"""shm.ordered_index against a sorted list."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.coordinator.memory.heap import Heap
from shoal.coordinator.memory.ordered_index import OrderedIndex
from shoal.shm import limits
from shoal.shm.limits import DEFAULT_LIMITS, Limits
from shoal.shm.memory.layout import NODE_HEADER_WORDS, W_HASH_SEED, W_ORDER_ROOT, W_PUBLISHED, words_for
from shoal.shm.memory.reader import Reader
from shoal.shm.memory.record import write_node, write_record
from shoal.shm.memory.segment import Segment
from tests.support.present import present


class Index:
    def __init__(self, bounds: Limits = DEFAULT_LIMITS) -> None:
        self.segment = Segment.create(16 * limits.MIB, 1)
        self.heap = Heap(self.segment)
        self.index = OrderedIndex(self.segment, self.heap, bounds)
        self.reader = Reader(self.segment, limits=bounds)
        self.nodes: dict[bytes, int] = {}

    def insert(self, keys: Any) -> None:
        fresh = []
        for key in sorted(set(keys) - self.nodes.keys()):
            size = NODE_HEADER_WORDS + words_for(len(key))
            node, record = self.heap.allocate(size), self.heap.allocate(4)
            write_node(self.segment.mm, node, key, record)
            write_record(self.segment.mm, record, 1, 0, b"", 0)
            self.nodes[key] = node
            fresh.append((key, node))
        self.index.insert(fresh)

    def remove(self, keys: Any) -> None:
        self.index.remove([(key, self.nodes.pop(key)) for key in sorted(set(keys) & self.nodes.keys())])

    def check(self, bounds: Any) -> None:
        """Writer's and reader's walks agree with the model, whole and over every range."""
        everything = sorted(self.nodes.items())
        assert list(self.index.iterate(b"", None)) == everything
        assert [key for key, _ in self.reader.scan(b"", None, 1)] == [key for key, _ in everything]
        for lower, upper in bounds:
            expected = [(key, node) for key, node in everything if lower <= key < upper]
            assert list(self.index.iterate(lower, upper)) == expected
            assert [key for key, _ in self.reader.scan(lower, upper, 1)] == [key for key, _ in expected]
        references = list(self.index.references())
        assert len(references) == len(set(references))
        assert all(self.heap.is_allocated(reference) for reference in references)
        assert not set(references) & set(self.index.replaced)


KEYS = st.binary(min_size=1, max_size=2).map(lambda raw: bytes(byte % 16 for byte in raw))
STEPS = st.lists(st.tuples(st.booleans(), st.sets(KEYS, min_size=1, max_size=40)), max_size=15)


@pytest.mark.long
@given(STEPS, st.lists(st.tuples(KEYS, KEYS), max_size=4), st.sampled_from([4, 5, 7]), st.sampled_from([4, 6]))
@settings(max_examples=present(settings.default).max_examples // 2)
def test_against_a_sorted_list(steps: Any, bounds: Any, leaf: int, branch: int) -> None:
    """Batches of keys come and go, with tiny nodes so that all levels split and vanish: walks are always in order."""
    index = Index(Limits(leaf_entries=leaf, branch_entries=branch))
    for insert, keys in steps:
        (index.insert if insert else index.remove)(keys)
        index.check(bounds)


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_many_keys_one_batch_after_another(order: str) -> None:
    """20,000 keys in any order end up sorted; ascending ones fill their leaves."""
    keys = [f"{number:06}".encode() for number in range(20_000)]
    if order == "descending":
        keys.reverse()
    elif order == "random":
        random.Random(3).shuffle(keys)
    index = Index()
    for start in range(0, 20_000, 1000):
        index.insert(keys[start : start + 1000])
    index.check([(b"001", b"0011"), (b"019999", b"9"), (b"", b"000000"), (b"5", b"4")])
    assert index.index.leaf_count == sum(1 for _ in index.index.references()) - len(index.index.branches) - 1
    assert index.index.leaf_count <= 20_000 // (limits.LEAF_ENTRIES // 4)
    if order == "ascending":
        assert index.index.leaf_count <= 20_000 // limits.LEAF_ENTRIES + 21


def test_emptied_and_filled_again() -> None:
    """An index all of whose keys are gone has no root, and takes keys again, also below the first it ever had."""
    index = Index()
    index.insert([b"m", b"n"])
    index.remove([b"m", b"n"])
    assert index.segment.words[W_ORDER_ROOT] == 0
    assert list(index.index.references()) == []
    index.check([])
    index.insert([b"a", b"z"])
    index.check([(b"a", b"b"), (b"b", b"zz")])


def test_removing_what_is_not_there() -> None:
    """A key that is not in the index cannot be removed."""
    index = Index()
    index.insert([b"a"])
    with pytest.raises(AssertionError, match="not in the ordered index"):
        index.index.remove([(b"b", 12345)])


def test_header_words_are_not_touched() -> None:
    """Nothing but the root's word of the header is written."""
    index = Index()
    seed = index.segment.words[W_HASH_SEED]
    index.insert([b"a", b"b"])
    assert (index.segment.words[W_PUBLISHED], index.segment.words[W_HASH_SEED]) == (0, seed)
