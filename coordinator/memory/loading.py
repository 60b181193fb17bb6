"""Writes many keys at once, each at its own version, into a segment that nobody reads yet: recovery loads with it.

It does what ``Writer.plan`` and ``Writer.apply`` do for a commit, and less often: room is found once for many keys, and
the keys of a checkpoint enter the hash index when all are there. Nothing is published here, and nothing survives
SIGKILL: the next coordinator begins with an empty segment.
"""

from __future__ import annotations

from array import array

from shoal.coordinator.memory.heap import RECLAIM_BLOCKS, WORST_CASE_BLOCKS
from shoal.coordinator.memory.writer import Plan, Writer
from shoal.shm.errors import StoreFullError
from shoal.shm.memory.layout import (
    BESIDE_WORDS,
    BLOCK_WORDS,
    EXPIRES,
    LENGTH_MASK,
    RECORD_META,
    RECORD_PREVIOUS,
    RECORD_VALUE_BYTE,
    TOMBSTONE,
    W_HASH_SEED,
    words_for,
)
from shoal.shm.memory.record import node_words, record_words, write_node, write_record
from shoal.shm.wire.request import FlatWrites

try:
    from cython import compiled
except ModuleNotFoundError:
    from shoal.shm.cython_shim import compiled

if compiled:
    from cython.cimports.xxh3 import xxh3_64_intdigest
else:
    from xxhash import xxh3_64_intdigest

# Words that both indexes take for a key, at most on average: half full buckets, and a leaf that is full.
_INDEX_WORDS = 6


def apply_versions(writer: Writer, writes: FlatWrites, versions: list[int]) -> None:
    """Apply the i-th write at ``versions[i]``; versions ascend, and no key stands in ``writes`` twice.

    A record is written over the newest one of its key if both take the same words. StoreFullError leaves everything as
    it was.
    """
    plan = writer.plan(writes)
    sizes = _but_in_place(writer, writes, plan)
    fresh = writer.allocate([size for size in sizes if size])
    try:
        nodes, new_nodes, used = plan.nodes, plan.new_nodes, 0
        for i in range(len(sizes)):
            key, value, expires_ms = writes[3 * i], writes[3 * i + 1], writes[3 * i + 2]
            node = nodes[i]
            if not sizes[i]:
                _write_over(writer, versions[i], key, value, expires_ms, node)
                continue
            record = fresh[used]
            used += 1
            if value is None:
                writer.delete(versions[i], key, node, record)
            elif node:
                writer.overwrite(versions[i], key, value, expires_ms, node, record)
            else:
                writer.add(versions[i], key, value, expires_ms, new_nodes[i], record)
    except StoreFullError as error:  # a part is done: this must not be taken for the StoreFullError above
        raise AssertionError("the room that was planned for many commits is not there") from error


def _but_in_place(writer: Writer, writes: FlatWrites, plan: Plan) -> list[int]:
    """The sizes that are planned, but 0 for a record that takes as many words as the newest one of its key."""
    words, nodes, sizes = writer.segment.words, plan.nodes, plan.sizes.copy()
    for i in range(len(nodes)):
        node = nodes[i]
        if node and writes[3 * i + 1] is not None:
            meta = words[words[node] + RECORD_META]
            if not meta & TOMBSTONE and record_words(meta & LENGTH_MASK, meta & EXPIRES) == sizes[i]:
                sizes[i] = 0
    return sizes


def _write_over(writer: Writer, version: int, key: bytes, value: bytes, expires_ms: int, node: int) -> None:
    """Write a record over the newest one of a key."""
    words = writer.segment.words
    record = words[node]
    write_record(writer.segment.mm, record, version, words[record + RECORD_PREVIOUS], value, expires_ms)
    if expires_ms:
        writer.expiry.add(key, expires_ms)


def lower_large_records(writer: Writer) -> None:
    """Move the large newest records of all keys together, so that the free blocks between them become long runs.

    History must have been reclaimed: it stays where it is.
    """
    heap, words, mm = writer.heap, writer.segment.words, writer.segment.mm
    nodes = [node for _, node in writer.ordered_index.iterate(b"", None) if heap.is_large(words[node])]
    heap.back_all()
    for node in sorted(nodes, key=words.__getitem__):
        record = words[node]
        n_bytes = (RECORD_VALUE_BYTE // 8 + 1 + words_for(words[record + RECORD_META] & LENGTH_MASK)) * 8
        lower = heap.lower(record)
        mm.move(lower * 8, record * 8, min(n_bytes, heap.size_of(lower) * 8))
        words[node] = lower


class KeyLoader:
    """Fills an empty segment with keys in ascending order. Until ``finish``, no key can be found."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._mm = writer.segment.mm
        self._seed = writer.segment.words[W_HASH_SEED]
        self._digests = array("Q")
        self._nodes = array("Q")

    def add(self, keys: list[bytes], values: list[bytes], expires_ms: list[int], versions: list[int]) -> None:
        """Write keys, each with the value, expiry and version at its position. StoreFullError leaves all as it was."""
        sizes = _sizes(keys, values, expires_ms)
        self._keep_room(len(keys), sizes)
        places = self._writer.allocate(sizes)
        nodes = self._write(keys, values, expires_ms, versions, sizes, places)
        self._nodes.extend(nodes)
        self._writer.new_keys += zip(keys, nodes, strict=True)
        self._writer.keys += len(keys)

    def _write(
        self,
        keys: list[bytes],
        values: list[bytes],
        expires_ms: list[int],
        versions: list[int],
        sizes: list[int],
        places: list[int],
    ) -> list[int]:
        """Write nodes and records; the nodes. ``Writer.add`` does the same for one key."""
        mm, expiry, seed = self._mm, self._writer.expiry, self._seed
        new_digests = array("Q", bytes(8 * len(keys)))
        digests = new_digests  # compiled: a view of it
        nodes: list[int] = []
        at = 0
        for i in range(len(keys)):
            key, value, expires = keys[i], values[i], expires_ms[i]
            node = places[at]
            own_words = node_words(len(key))
            if sizes[at] > own_words:
                record = node + own_words
                at += 1
            else:
                record = places[at + 1]
                at += 2
            write_node(mm, node, key, record)
            write_record(mm, record, versions[i], 0, value, expires)
            nodes.append(node)
            digests[i] = xxh3_64_intdigest(key, seed)
            if expires:
                expiry.add(key, expires)
        self._digests.extend(new_digests)
        return nodes

    def finish(self) -> None:
        """Have every key found."""
        self._writer.hash_index.build(self._digests, self._nodes)

    def _keep_room(self, new_keys: int, sizes: list[int]) -> None:
        """StoreFullError unless there is room for allocations of these sizes, and for all keys in the indexes.

        Size classes and block tails waste up to a quarter of small allocations; a large one takes whole blocks.
        """
        heap, keys = self._writer.heap, len(self._nodes) + new_keys
        self._writer.hash_index.prepare(keys)
        words = 0
        for size in sizes:
            words += size if size <= BLOCK_WORDS // 2 else heap.rounded(size)
        blocks = (words * 3 // 2 + _INDEX_WORDS * keys) // BLOCK_WORDS + WORST_CASE_BLOCKS + RECLAIM_BLOCKS
        if not heap.make_ready(blocks, heap.reserve_blocks):
            raise StoreFullError("many keys at once may take more room than there is")


def _sizes(keys: list[bytes], values: list[bytes], expires_ms: list[int]) -> list[int]:
    """The words to allocate for each key: for node and record together, or for the node and then for the record."""
    sizes: list[int] = []
    for i in range(len(keys)):
        node, record = node_words(len(keys[i])), record_words(len(values[i]), expires_ms[i])
        if node + record <= BESIDE_WORDS:
            sizes.append(node + record)
        else:
            sizes += (node, record)
    return sizes
