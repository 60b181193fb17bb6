"""shm.hash_index against a dict."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.coordinator.memory.hash_index import HashIndex
from shoal.coordinator.memory.heap import Heap
from shoal.shm import limits
from shoal.shm.limits import DEFAULT_LIMITS, Limits
from shoal.shm.memory.layout import NODE_HEADER_WORDS, W_HASH_MASK, words_for
from shoal.shm.memory.record import node_key, write_node
from shoal.shm.memory.segment import Segment
from tests.support.present import present


class Index:
    def __init__(self, bounds: Limits = DEFAULT_LIMITS) -> None:
        self.segment = Segment.create(8 * limits.MIB, 99)
        self.heap = Heap(self.segment)
        self.index = HashIndex(self.segment, self.heap, bounds)
        self.nodes: dict[bytes, int] = {}

    def insert(self, key: bytes) -> None:
        node = self.heap.allocate(NODE_HEADER_WORDS + words_for(len(key)))
        write_node(self.segment.mm, node, key, 0)
        self.index.prepare(1)
        self.index.insert(key, node)
        self.nodes[key] = node

    def remove(self, key: bytes) -> None:
        self.index.remove(key, self.nodes.pop(key))


@given(st.lists(st.integers(0, 40), max_size=300))
@settings(max_examples=present(settings.default).max_examples // 2)
def test_against_a_dict(steps: Any) -> None:
    """Keys come and go, with buckets of four entries: find always tells what a dict would."""
    index = Index(Limits(bucket_fill=4))
    for step in steps:
        key = f"key {step}".encode()
        (index.remove if key in index.nodes else index.insert)(key)
        for number in range(41):
            looked_for = f"key {number}".encode()
            assert index.index.find(looked_for) == index.nodes.get(looked_for, 0)


def test_ten_thousand_keys() -> None:
    """It grows by splitting: every key is found, no other is, and the directory has doubled."""
    index = Index()
    keys = [random.Random(5).randbytes(3) + str(number).encode() for number in range(10_000)]
    for key in keys:
        index.insert(key)
    assert all(index.index.find(key) == index.nodes[key] for key in keys)
    assert all(node_key(index.segment, index.index.find(key)) == key for key in keys)
    assert not any(index.index.find(b"other" + key) for key in keys)
    assert index.segment.words[W_HASH_MASK] >= 63
    assert sum(index.index.buckets().values()) == 10_000
    for key in keys[::2]:
        index.remove(key)
    assert [bool(index.index.find(key)) for key in keys] == [False, True] * 5000


def test_coming_and_going_does_not_grow() -> None:
    """Removed marks are swept out: the same few keys, removed and added ten thousand times, take one bucket."""
    index = Index()
    for number in range(10_000):
        index.insert(b"%d" % number)
        if number >= 20:
            index.remove(b"%d" % (number - 20))
    assert len(index.index.buckets()) == 1
    assert sorted(index.nodes) == sorted(key for key in index.nodes if index.index.find(key))


def test_replaced_buckets_are_given_to_reclaim() -> None:
    """A split hands the old bucket over, still allocated and whole: readers may be in it."""
    index = Index()
    for number in range(limits.BUCKET_FILL + 1):
        index.insert(b"%d" % number)
    assert len(index.index.replaced) == 1
    old = index.index.replaced[0]
    assert index.heap.is_allocated(old)
    assert old not in index.index.buckets()
    assert sum(entry > 1 for entry in index.segment.words[old : old + limits.BUCKET_ENTRIES]) == limits.BUCKET_FILL


def test_removing_what_is_not_there() -> None:
    """A key that is not in the index cannot be removed."""
    with pytest.raises(AssertionError, match="not in the hash index"):
        Index().index.remove(b"x", 8)
