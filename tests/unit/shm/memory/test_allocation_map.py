"""The states of allocations as a check notes them: built from the allocator's answers, found by reference."""

from __future__ import annotations

import random
from array import array

import pytest

from shoal.coordinator.memory.heap import Heap
from shoal.shm.limits import MIB
from shoal.shm.memory.allocation_map import FREE, HISTORY, IN_USE, MET, AllocationMap
from shoal.shm.memory.layout import BLOCK_WORDS
from shoal.shm.memory.segment import Segment


def _offsets(*words: int) -> bytes:
    return array("H", words).tobytes()


def _map_of(heap: Heap) -> AllocationMap:
    found, block = AllocationMap(), 0
    while True:
        block, blocks = heap.blocks_from(block, 7, 100)
        for i in range(0, len(blocks), 3):
            found.add(*blocks[i : i + 3])
        if not block:
            return found


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_the_heap(seed: int) -> None:
    """Built from a heap's answers it has the same allocations in use, with the same sizes, and no others."""
    rng = random.Random(seed)
    segment = Segment.create(8 * MIB, 1)
    heap, live = Heap(segment), set[int]()
    for _ in range(400):
        if live and rng.random() < 0.4:
            reference = rng.choice(sorted(live))
            live.remove(reference)
            heap.free(reference)
        else:
            allocate = rng.choice([heap.allocate, heap.allocate_index])
            live.add(allocate(rng.choice([3, 20, 100, 1024, 3000])))
    found = _map_of(heap)
    assert found.problems == []
    assert sorted(found.references(IN_USE)) == sorted(live)
    assert all(found.size_of(reference) == heap.size_of(reference) for reference in live)
    assert found.words_but(FREE) == heap.used_words
    segment.close_descriptor()


def test_states() -> None:
    """A state is kept for each allocation by itself; words and references are told by state."""
    found = AllocationMap()
    found.add(3, 100, _offsets(100))
    found.add(7, -2, b"")
    first, large = 3 * BLOCK_WORDS, 7 * BLOCK_WORDS
    assert [found.get(first + at) for at in (0, 100, 200)] == [IN_USE, FREE, IN_USE]
    found.set(first + 200, MET)
    found.set(large, HISTORY)
    assert [found.get(first + at) for at in (0, 100, 200)] == [IN_USE, FREE, MET]
    assert found.references(MET) == [first + 200]
    assert found.references(HISTORY) == [large]
    assert found.size_of(large) == 2 * BLOCK_WORDS
    assert found.words_but(FREE, HISTORY) == (BLOCK_WORDS // 100 - 1) * 100


@pytest.mark.parametrize("offset", [1, 99, 101, BLOCK_WORDS - 1, BLOCK_WORDS * 5, -1])
def test_no_allocation_begins_there(offset: int) -> None:
    """A reference into the middle of an allocation, behind the last one, or into another block is free."""
    found = AllocationMap()
    found.add(3, 100, b"")
    assert found.get(3 * BLOCK_WORDS + offset) == FREE


@pytest.mark.parametrize("free", [_offsets(50), _offsets(100, 100), _offsets(BLOCK_WORDS), _offsets(65_535)])
def test_faults_of_the_allocator(free: bytes) -> None:
    """A free list with a reference that begins no allocation, or that stands in it twice, is reported."""
    found = AllocationMap()
    found.add(3, 100, free)
    assert len(found.problems) == 1
    assert "block 3" in found.problems[0]
