"""Key nodes and version records as bytes in a segment: the one place that knows how they are found and read.

The coordinator and every reader use it. A reader may be in memory that has been reused since, so nothing here trusts a
word: the length is compared before bytes are copied, a removed mark is no node, and no walk is longer than the bucket.
"""

from __future__ import annotations

from mmap import mmap

from xxhash import xxh3_64_intdigest

from shoal.shm.memory.layout import BUCKET_MASK, DIRECTORY_WORD, NODE_HEADER_WORDS, REMOVED, W_HASH_MASK
from shoal.shm.memory.segment import Segment

KEY_BYTE = NODE_HEADER_WORDS * 8  # where the key begins in a node


def node_key(segment: Segment, node: int) -> bytes:
    """The key stored in a key node."""
    start = node * 8 + KEY_BYTE
    return segment.mm[start : start + segment.words[node + 1]]


def find_node(words: memoryview, mm: mmap, seed: int, key: bytes) -> int:
    """The key node of ``key``, 0 if there is none.

    IndexError: a reference outside the segment, or a bucket without an end. In the index that is damage; for a reader
    it may be reused memory.
    """
    digest = xxh3_64_intdigest(key, seed)
    bucket = words[DIRECTORY_WORD + (digest & words[W_HASH_MASK])]
    i = first = (digest >> 32) & BUCKET_MASK
    length = len(key)
    while node := words[bucket + i]:
        if words[node + 1] == length:
            start = node * 8 + 16
            if mm[start : start + length] == key and node != REMOVED:
                return node
        i = (i + 1) & BUCKET_MASK
        if i == first:
            raise IndexError("a hash bucket without an end")
    return 0
