"""The walk behind ``check()``: everything reachable in a segment, and everything allocated, compared.

Run by the coordinator between two groups of commits, when nothing changes. Every breach is one line; an empty list
means that both indexes hold the same keys in order, every chain of versions falls, every reference points at a record
in use, no record is used twice, and what the allocator says is in use is reachable or waiting to be reclaimed.
"""

from __future__ import annotations

from collections import Counter

from shoal.shm import layout
from shoal.shm.hash_index import node_key
from shoal.shm.layout import (
    EXPIRES,
    LENGTH_MASK,
    REMOVED,
    TOMBSTONE,
    W_HASH_MASK,
    W_HORIZON,
    W_KEYS,
    W_ORDER_ROOT,
)
from shoal.shm.limits import BRANCH_ENTRIES, BUCKET_ENTRIES, LEAF_ENTRIES, MAX_ENCODED_VALUE_BYTES, MAX_ENGINE_KEY_BYTES
from shoal.shm.segment import Segment
from shoal.shm.writer import Writer


def check_segment(segment: Segment, published: int, writer: Writer) -> list[str]:
    """All problems found; empty if the segment is sound."""
    return _Walk(segment, published, writer).run()


class _Walk:
    def __init__(self, segment: Segment, published: int, writer: Writer) -> None:
        self._segment = segment
        self._words = segment.words
        self._published = published
        self._writer = writer
        self._used: Counter[int] = Counter()  # references met, and how often
        self._problems: list[str] = []

    def run(self) -> list[str]:
        ordered = self._ordered_nodes()
        hashed = self._hashed_nodes()
        for node in ordered.keys() - hashed.keys():
            self._say(f"key {ordered[node]!r} is in the ordered index and not in the hash index")
        for node in hashed.keys() - ordered.keys():
            self._say(f"key {hashed[node]!r} is in the hash index and not in the ordered index")
        live = sum(self._check_chain(node, key) for node, key in ordered.items())
        # Keys of a cleared range count until they are swept; expired ones until they are deleted.
        if live != self._words[W_KEYS]:
            self._say(f"the header counts {self._words[W_KEYS]} live keys, the walk found {live}")
        self._check_memory()
        return self._problems

    def _say(self, problem: str) -> None:
        self._problems.append(problem)

    def _in_heap(self, reference: int, what: str) -> bool:
        if not self._writer.heap.is_allocated(reference):
            self._say(f"{what} points at {reference}, which is no record in use")
            return False
        self._used[reference] += 1
        return True

    def _index_node(self, reference: int, most: int, what: str) -> list[int]:
        if not self._in_heap(reference, what):
            return []
        count = self._words[reference]
        if not 0 < count <= most:
            self._say(f"{what} at {reference} has {count} entries, 1 to {most} are possible")
            return []
        entries: list[int] = self._words[reference + 1 : reference + 1 + count].tolist()
        return entries

    def _node_key(self, node: int, what: str) -> bytes | None:
        if not self._in_heap(node, what):
            return None
        if self._words[node + 1] > MAX_ENGINE_KEY_BYTES:
            self._say(f"{what} points at {node}, whose key has {self._words[node + 1]} bytes")
            return None
        return node_key(self._segment, node)

    def _ordered_nodes(self) -> dict[int, bytes]:
        nodes: dict[int, bytes] = {}
        previous = b""
        root = self._words[W_ORDER_ROOT]
        for branch in self._index_node(root, 1 << 20, "the root") if root else []:
            for leaf in self._index_node(branch, BRANCH_ENTRIES, "a branch"):
                for node in self._index_node(leaf, LEAF_ENTRIES, "a leaf"):
                    key = self._node_key(node, "a leaf")
                    if key is None:
                        continue
                    if key <= previous:
                        self._say(f"key {key!r} stands after {previous!r} in the ordered index")
                    nodes[node] = previous = key
        return nodes

    def _hashed_nodes(self) -> dict[int, bytes]:
        words = self._words
        entries = words[W_HASH_MASK] + 1
        directory = words[layout.DIRECTORY_WORD : layout.DIRECTORY_WORD + entries].tolist()
        known = self._writer.hash_index.buckets()
        nodes: dict[int, bytes] = {}
        for bucket in set(directory):
            if bucket not in known or not self._in_heap(bucket, "the hash directory"):
                self._say(f"the hash directory names bucket {bucket}, which is not one")
                continue
            for node in words[bucket : bucket + BUCKET_ENTRIES].tolist():
                if node > REMOVED:
                    if not self._writer.heap.is_allocated(node):
                        self._say(f"bucket {bucket} points at {node}, which is no record in use")
                        continue
                    nodes[node] = key = node_key(self._segment, node)
                    if self._writer.hash_index.find(key) != node:
                        self._say(f"key {key!r} in bucket {bucket} is not found by its hash")
        return nodes

    def _check_chain(self, node: int, key: bytes) -> bool:
        """Check a key's versions down to the horizon; whether its newest is live."""
        words = self._words
        record = words[node]
        horizon = words[W_HORIZON]
        if not record:
            self._say(f"key {key!r} has no version")
            return False
        newest, above = record, self._published + 1
        while record:
            if not self._writer.is_beside(node, record) and not self._in_heap(record, f"key {key!r}"):
                return False
            version, meta = words[record], words[record + 2]
            if version >= above:
                self._say(f"key {key!r} has version {version} below {above}")
            length = meta & LENGTH_MASK
            if length > MAX_ENCODED_VALUE_BYTES or meta & ~(LENGTH_MASK | TOMBSTONE | EXPIRES):
                self._say(f"key {key!r} at version {version} has impossible length or flags {meta:#x}")
            if version <= horizon:
                break  # nobody looks further down, and what is there may be reused
            above, record = version, words[record + 1]
        return not words[newest + 2] & TOMBSTONE

    def _check_memory(self) -> None:
        writer = self._writer
        for reference in writer.clears_table.references():
            self._in_heap(reference, "the clears table")
        # A record above the horizon may be both in a chain and waiting; below it only waiting.
        for _, reference, _ in writer.garbage:
            if not writer.heap.is_allocated(reference):
                self._say(f"record {reference} waits to be reclaimed and is no record in use")
        waiting = Counter(reference for _, reference, _ in writer.garbage)
        for reference, times in (self._used | waiting).items():
            if self._used[reference] > 1 or waiting[reference] > 1:
                self._say(f"record {reference} is in use {times} times")
        used_words = sum(writer.heap.size_of(reference) for reference in self._used | waiting)
        if used_words != writer.heap.used_words:
            self._say(f"{writer.heap.used_words} words are allocated, {used_words} are reachable or waiting")
