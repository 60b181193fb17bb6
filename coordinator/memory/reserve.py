"""The memory that is kept for deletes, and who else may use it. How much a commit makes the live data grow.

A commit that writes a few records while it deletes more (a purge, which also counts; a trim, which notes where the log
begins) is judged by its net effect. Invariants:

- ``growth_bytes`` measures live data in words of node and record, as they lie in memory. An entry of a checkpoint is
  shorter. So whatever follows a commit that does not grow, in any number, the live data fit into the checkpoint that
  was reserved for them before.
- In memory, what such a commit obsoletes becomes free after the commit, and perhaps scattered over many blocks. So it
  may use half of what is kept. The other half is for commits that only delete, however often the first is used up.
- A commit whose records all find room in blocks that are in use needs no free block for them. It goes on though deletes
  of scattered keys have left no blocks free, and some are used for new leaves. For what the indexes need it may use
  half of what is kept. Room for the leaves of one step of reclaiming stays in any case.
- In recovery such a commit may find no such blocks, as all records lie closer together; so then free blocks do as well.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from shoal.coordinator.memory.heap import BRANCH_BLOCKS
from shoal.coordinator.memory.writer import Plan, Writer
from shoal.shm.errors import StoreFullError
from shoal.shm.memory.layout import (
    BLOCK_WORDS,
    BUCKET_WORDS,
    EXPIRES,
    INDEX_ENTRIES,
    LENGTH_MASK,
    RECORD_META,
)
from shoal.shm.memory.range_tombstones import KeyRange, disjoint
from shoal.shm.memory.record import node_words, record_words
from shoal.shm.wire.request import FlatWrites, triples

_MOST_CLEARED = 1_000  # keys of the ranges that a commit clears, which are looked up
_BUCKETS_OF_A_SPLIT = 4  # two, or more if their keys are alike by hash


def growth_bytes(writer: Writer, writes: FlatWrites, clears: Sequence[KeyRange] = ()) -> int | None:
    """By how many bytes a commit makes the live data grow, negative if they shrink; None if it only deletes.

    It looks up every key, so it is asked only where room is short. Of the ranges that a commit clears, the first keys
    are looked up, so that a large range takes no longer: the live data may shrink by more than it says.
    """
    if all(value is None for value in writes[1::3]):
        return None
    grown = 0
    for key, value, expires_ms in triples(writes):
        record = writer.newest_record(key)
        if record:
            meta = writer.segment.words[record + RECORD_META]
            grown -= record_words(meta & LENGTH_MASK, meta & EXPIRES)
        if value is not None:
            grown += record_words(len(value), expires_ms)
        if bool(record) != (value is not None):
            own_words = node_words(len(key))
            grown += -own_words if record else own_words
    return 8 * (grown - (_cleared_words(writer, writes, clears) if clears else 0))


def _cleared_words(writer: Writer, writes: FlatWrites, clears: Sequence[KeyRange]) -> int:
    """At least so many words of live data are in these ranges, beside the keys that are written."""
    written = set(writes[::3])
    walks = (writer.ordered_index.iterate(lower, upper) for lower, upper in disjoint(clears))
    cleared = 0
    for key, _ in itertools.islice(itertools.chain.from_iterable(walks), _MOST_CLEARED):
        record = 0 if key in written else writer.newest_record(key)
        if record:
            meta = writer.segment.words[record + RECORD_META]
            cleared += node_words(len(key)) + record_words(meta & LENGTH_MASK, meta & EXPIRES)
    return cleared


def plan_with_gaps(writer: Writer, writes: FlatWrites, clears: Sequence[KeyRange]) -> Plan:
    """As ``Writer.plan``; a commit for which no blocks are free may use the room in blocks that are in use.

    Nothing else may be planned and not finished yet.
    """
    try:
        return writer.plan(writes, clears)
    except StoreFullError:
        if clears:
            raise
        plan = writer.plan(writes, fits=True)
        if not _fits_into_gaps(writer, writes, plan):
            raise
        return plan


def _fits_into_gaps(writer: Writer, writes: FlatWrites, plan: Plan) -> bool:
    heap, index = writer.heap, writer.ordered_index
    records = Counter(map(heap.rounded, plan.sizes))
    new_keys = []
    for at, (key, value, _) in enumerate(triples(writes)):
        if value is not None and not plan.nodes[at]:
            new_keys.append(key)
            if not plan.new_nodes[at]:
                records[heap.rounded(node_words(len(key)))] += 1
    blocks = sum(heap.blocks_for(count, words) for words, count in records.items())
    if blocks and heap.reserve_blocks:
        return False
    most = len(new_keys)
    branches, root_words = min(most, len(index.branches)), INDEX_ENTRIES + len(index.branches) + most
    need = (
        heap.leaf_blocks(index.leaf_words, 2 * most + 2 if most else 0)
        + heap.blocks_for(2 * branches, INDEX_ENTRIES + writer.limits.branch_entries, for_index=True)
        + -(-branches * root_words // BLOCK_WORDS)
        + heap.blocks_for(_BUCKETS_OF_A_SPLIT * writer.hash_index.may_split(new_keys), BUCKET_WORDS, for_index=True)
    )
    return heap.make_ready(blocks + need + BRANCH_BLOCKS, heap.reserve_blocks // 2)


@contextlib.contextmanager
def reserve_for(writer: Writer, growth: int | None) -> Iterator[None]:
    """Let a commit of this growth use what it may of the memory that is kept for deletes. Deletes alone always may."""
    if growth is None or growth > 0:
        yield
        return
    with _keeping(writer, writer.heap.reserve_blocks // 2):
        yield


@contextlib.contextmanager
def reserve_in_use(writer: Writer) -> Iterator[None]:
    """Let data use all the memory that is kept for deletes.

    In recovery: what was committed fitted, but perhaps lies less well this time. A store that can only delete is better
    than none. In commits of the coordinator itself: they remove more than they write.
    """
    with _keeping(writer, 0):
        yield


@contextlib.contextmanager
def _keeping(writer: Writer, blocks: int) -> Iterator[None]:
    heap = writer.heap
    kept, heap.reserve_blocks = heap.reserve_blocks, blocks
    try:
        yield
    finally:
        heap.reserve_blocks = kept
        writer.forget_budget()
