"""Writes many keys at once, each at its own version, into a segment that nobody reads yet: recovery loads with it.

It does what ``Writer.plan`` and ``Writer.apply`` do for a commit, and less often: room is found once for many keys, and
the keys of a checkpoint enter the hash index when all are there. Nothing is published here, and nothing survives
SIGKILL: the next coordinator begins with an empty segment.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

from shoal.coordinator.memory.heap import RECLAIM_BLOCKS, WORST_CASE_BLOCKS
from shoal.coordinator.memory.writer import Writer
from shoal.shm.errors import StoreFullError
from shoal.shm.memory.layout import BLOCK_WORDS, NODE_HEADER_WORDS, W_HASH_SEED, words_for
from shoal.shm.memory.record import write_node, write_record
from shoal.shm.wire.request import FlatWrites, triples

# Words that both indexes take for a key, at most on average: half full buckets, and a leaf that is full.
_INDEX_WORDS = 6


def apply_versions(writer: Writer, writes: FlatWrites, versions: Sequence[int]) -> None:
    """Apply the i-th write at ``versions[i]``; versions ascend, and no key stands in ``writes`` twice.

    StoreFullError leaves everything as it was.
    """
    plan = writer.plan(writes)
    records = writer.allocate(plan.sizes)
    try:
        places = zip(triples(writes), versions, plan.nodes, plan.new_nodes, records, strict=True)
        for (key, value, expires_ms), version, node, new_node, record in places:
            if value is None:
                writer.delete(version, key, node, record)
            elif node:
                writer.overwrite(version, key, value, expires_ms, node, record)
            else:
                writer.add(version, key, value, expires_ms, new_node, record)
    except StoreFullError as error:  # a part is done: this must not be taken for the StoreFullError above
        raise AssertionError("the room that was planned for many commits is not there") from error


class KeyLoader:
    """Fills an empty segment with keys in ascending order. Until ``finish``, no key can be found."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._seed = writer.segment.words[W_HASH_SEED]
        self._digests = array("Q")
        self._nodes = array("Q")

    def add(self, writes: FlatWrites, versions: Sequence[int]) -> None:
        """Write keys, the i-th at ``versions[i]``. StoreFullError leaves everything as it was."""
        writer, keys = self._writer, writes[::3]
        plan = writer.plan(writes, (), dict.fromkeys(keys, 0))  # 0: there is no node, and no look-up is needed
        self._keep_room(len(keys), sum(plan.sizes) + sum(map(len, keys)) // 8)
        records = writer.allocate(plan.sizes)
        seed, digest_of = self._seed, xxh3_64_intdigest
        try:
            nodes = self._write(writes, versions, plan.new_nodes, records)
        except StoreFullError as error:
            raise AssertionError("the room that was planned for many keys is not there") from error
        self._nodes.extend(nodes)
        self._digests.extend([digest_of(key, seed) for key in keys])
        writer.new_keys += zip(keys, nodes, strict=True)
        writer.keys += len(keys)

    def _write(
        self, writes: FlatWrites, versions: Sequence[int], new_nodes: list[int], records: list[int]
    ) -> list[int]:
        """Write nodes and records; the nodes. ``Writer.add`` does the same for one key."""
        heap, mm, expiry = self._writer.heap, self._writer.segment.mm, self._writer.expiry
        nodes = []
        for (key, value, expires_ms), version, new_node, node in zip(
            triples(writes), versions, new_nodes, records, strict=True
        ):
            record = node + new_node
            if not new_node:
                node = heap.allocate(NODE_HEADER_WORDS + words_for(len(key)))
            nodes.append(node)
            write_node(mm, node, key, record)
            write_record(mm, record, version, 0, value, expires_ms)
            if expires_ms:
                expiry.add(key, expires_ms)
        return nodes

    def finish(self) -> None:
        """Have every key found."""
        self._writer.hash_index.build(self._digests, self._nodes)

    def _keep_room(self, new_keys: int, words: int) -> None:
        """StoreFullError unless there is room for so many words, and for all keys in the indexes."""
        heap, keys = self._writer.heap, len(self._nodes) + new_keys
        self._writer.hash_index.prepare(keys)
        blocks = (words * 3 // 2 + _INDEX_WORDS * keys) // BLOCK_WORDS + WORST_CASE_BLOCKS + RECLAIM_BLOCKS
        if not heap.make_ready(blocks, heap.reserve_blocks):
            raise StoreFullError("many keys at once may take more room than there is")
