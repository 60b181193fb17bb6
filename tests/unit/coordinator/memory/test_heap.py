"""The heap against a naive model."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.coordinator.memory.heap import CLASS_WORDS, Heap
from shoal.shm import limits
from shoal.shm.errors import StoreFullError
from shoal.shm.memory.layout import BLOCK_WORDS
from shoal.shm.memory.segment import Segment
from tests.support.present import present

SIZES = st.one_of(st.integers(1, 40), st.integers(1, 3 * BLOCK_WORDS))


def new_heap() -> Heap:
    return Heap(Segment.create(8 * limits.MIB, 1))


def spans_are_disjoint(heap: Heap, live: dict[int, int]) -> bool:
    spans = sorted((reference, reference + heap.size_of(reference)) for reference in live)
    return all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


@given(st.lists(st.one_of(SIZES, st.none()), max_size=80), st.randoms(use_true_random=False))
@settings(max_examples=present(settings.default).max_examples // 2)
def test_records_never_overlap_and_all_room_comes_back(steps: Any, random: Any) -> None:
    """Records in use are disjoint and inside the segment, used_words is their sum, and all freed is all free."""
    heap = new_heap()
    all_blocks = heap.free_blocks
    live: dict[int, int] = {}
    for step in steps:
        if step is None:
            if live:
                reference = random.choice(sorted(live))
                del live[reference]
                heap.free(reference)
                assert not heap.is_allocated(reference)
        else:
            reference = heap.allocate(step)
            assert reference not in live
            live[reference] = step
        assert all(heap.is_allocated(r) and heap.size_of(r) >= size for r, size in live.items())
        assert heap.used_words == sum(map(heap.size_of, live))
        assert spans_are_disjoint(heap, live)
        assert all(r >= heap.first_block * BLOCK_WORDS for r in live)
        assert all((r + size) * 8 <= 8 * limits.MIB for r, size in live.items())
    for reference in live:
        heap.free(reference)
    assert heap.used_words == 0
    heap.give_back(0)
    # A block may stay open in each class that was used, for the next record.
    assert heap.free_blocks >= all_blocks - len(CLASS_WORDS)


def test_a_record_can_be_written_to_its_end() -> None:
    """Memory behind a reference is there: writing all of it neither faults nor reaches a neighbour."""
    segment = Segment.create(8 * limits.MIB, 1)
    heap = Heap(segment)
    records = [(heap.allocate(size), size) for size in (1, 4, 5, 100, 1024, 1025, BLOCK_WORDS, BLOCK_WORDS + 1)]
    for number, (reference, size) in enumerate(records):
        segment.mm[reference * 8 : (reference + size) * 8] = bytes([number + 1]) * (size * 8)
    for number, (reference, size) in enumerate(records):
        assert segment.mm[reference * 8 : (reference + size) * 8] == bytes([number + 1]) * (size * 8)


def test_full_and_free_again() -> None:
    """A full heap is StoreFullError that names the size; what is freed serves another size."""
    heap = new_heap()
    records: list[int] = []
    with pytest.raises(StoreFullError, match="8,388,608"):
        records.extend(heap.allocate(64) for _ in range(10**6))
    while True:
        try:
            records.append(heap.allocate(64))
        except StoreFullError:
            break
    assert len(records) == len(set(records)) == heap.block_count * (BLOCK_WORDS // 64)
    for reference in records:
        heap.free(reference)
    large = heap.allocate((heap.block_count - 1) * BLOCK_WORDS)
    assert heap.size_of(large) == (heap.block_count - 1) * BLOCK_WORDS


def test_inside_of_a_record_is_no_record() -> None:
    """is_allocated is true of the start of a record in use and of nothing else."""
    heap = new_heap()
    small, large = heap.allocate(10), heap.allocate(3 * BLOCK_WORDS)
    assert heap.is_allocated(small)
    assert heap.is_allocated(large)
    assert not heap.is_allocated(small + 1)
    assert not heap.is_allocated(large + 1)
    assert not heap.is_allocated(large + BLOCK_WORDS)
    assert not heap.is_allocated(0)


def test_make_ready_keeps_a_reserve() -> None:
    """make_ready says no, and changes nothing, when less than asked and kept is free."""
    heap = new_heap()
    free = heap.free_blocks
    assert not heap.make_ready(free, 1)
    assert heap.free_blocks == free
    assert heap.make_ready(free, 0)
    assert heap.ready_blocks == heap.free_blocks == free
    heap.give_back(0)
    assert (heap.ready_blocks, heap.free_blocks) == (0, free)
