"""Key nodes and version records as bytes in a segment: how they are written, found and read. ``layout`` has the bytes.

The coordinator and every reader use this file, so that both follow one rule:
- a key is found by probing its hash bucket (``find_node``);
- at a snapshot it holds its newest record with a version up to the snapshot, unless that record is a tombstone, is
  older than a range tombstone over the key, or has expired (``visible_record``).

Who may write: the coordinator alone, and only words that no reader reaches yet. One store of a reference, made by the
caller, then links what was written. A record that is linked never changes.

What a reader may assume: nothing. Below the horizon it may read memory that has been reused since, so no word is
trusted: the length is compared before bytes are copied, a removed mark is no node, and no walk is without an end. An
impossible word is CorruptionError, but SnapshotExpiredError if the horizon has passed the snapshot. A reference that
leads out of the segment is IndexError. After a read that succeeds, the reader calls ``verify`` before it believes it.
"""

from __future__ import annotations

import struct
from mmap import mmap

from shoal.shm.clock import now_ms
from shoal.shm.errors import CorruptionError
from shoal.shm.limits import MAX_ENCODED_VALUE_BYTES
from shoal.shm.memory.layout import (
    BUCKET_MASK,
    DIRECTORY_WORD,
    EXPIRES,
    LENGTH_MASK,
    NODE_HEADER_WORDS,
    NODE_KEY_BYTE,
    NODE_KEY_LENGTH,
    RECORD_EXPIRES,
    RECORD_HEADER_WORDS,
    RECORD_META,
    RECORD_PREVIOUS,
    RECORD_VALUE_BYTE,
    REMOVED,
    TOMBSTONE,
    W_HASH_MASK,
)
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.snapshots import verify
from shoal.shm.operation import VersionedValue

try:
    from cython import compiled
except ModuleNotFoundError:
    from shoal.shm.cython_shim import compiled

if compiled:
    from cython.cimports.bytes_at import copied, equal, pack_four, pack_three, pack_two, write_bytes
    from cython.cimports.named_tuple import versioned_value
    from cython.cimports.xxh3 import xxh3_64_intdigest
else:
    from xxhash import xxh3_64_intdigest

    pack_two = struct.Struct("<QQ").pack_into
    pack_three = struct.Struct("<QQQ").pack_into
    pack_four = struct.Struct("<QQQQ").pack_into

NEWEST = 2**64 - 1  # the snapshot of the coordinator: it sees what is not published yet, and no horizon passes it

# A chain is walked this far before the reader looks whether the horizon has passed its snapshot.
_STEPS_BETWEEN_CHECKS = 64

# VersionedValue(...) without its Python frame: 0.25 us in place of 0.4 for each key that is read.
_new_tuple = tuple.__new__


def find_node(words: memoryview, mm: mmap, seed: int, key: bytes) -> int:
    """The key node of ``key``, 0 if there is none.

    IndexError: a reference outside the segment, or a bucket without an empty entry.
    """
    digest = xxh3_64_intdigest(key, seed)
    bucket = words[DIRECTORY_WORD + (digest & words[W_HASH_MASK])]
    if compiled and bucket >= len(words):
        raise IndexError("a bucket outside the segment")  # its number plus ``i`` may be a word inside
    i = first = (digest >> 32) & BUCKET_MASK
    length = len(key)
    while node := words[bucket + i]:
        if compiled and node >= len(words):
            raise IndexError("a key node outside the segment")
        if words[node + NODE_KEY_LENGTH] == length:
            start = node * 8 + NODE_KEY_BYTE
            if compiled:  # noqa: SIM108 (mypy knows the names of C in statements alone)
                is_key = equal(words, start, key)
            else:
                is_key = mm[start : start + length] == key
            if is_key and node != REMOVED:
                return node
        i = (i + 1) & BUCKET_MASK
        if i == first:
            raise IndexError("a hash bucket without an end")
    return 0


def node_key(segment: Segment, node: int) -> bytes:
    """The key stored in a key node. The caller has made sure that the node is one."""
    start = node * 8 + NODE_KEY_BYTE
    return segment.mm[start : start + segment.words[node + NODE_KEY_LENGTH]]


def visible_record(words: memoryview, node: int, snapshot: int, cleared_at: int, at_ms: int | None = None) -> int:
    """The record of a key that is visible at ``snapshot``, 0 if the key is absent then.

    ``cleared_at`` is the newest version up to ``snapshot`` that cleared the key, 0 if none did. ``at_ms`` is the time
    of reading in ms since the epoch; without it, the clock is read for a record that expires.
    """
    record: int = words[node]
    version = words[record]
    if version > snapshot:
        record = _older_record(words, record, snapshot)
        if not record:
            return 0
        version = words[record]
    if version < cleared_at:
        return 0
    meta = words[record + RECORD_META]
    if meta > LENGTH_MASK:  # it has flags
        if meta & TOMBSTONE:
            return 0
        if meta & EXPIRES and words[record + RECORD_EXPIRES] <= (now_ms() if at_ms is None else at_ms):
            return 0
    return record


def is_cleared(words: memoryview, node: int, cleared_at: int) -> bool:
    """Whether a range tombstone at version ``cleared_at`` deletes the newest record of a key, published or not."""
    return bool(words[words[node]] < cleared_at)


def value_at(words: memoryview, mm: mmap, record: int, snapshot: int) -> VersionedValue:
    """A copy of a record that is visible at ``snapshot``."""
    meta = words[record + RECORD_META]
    start, expires_ms = record * 8 + RECORD_VALUE_BYTE, 0
    if meta & EXPIRES:
        expires_ms = words[record + RECORD_EXPIRES]
        start += 8
    length = meta & LENGTH_MASK
    if length > MAX_ENCODED_VALUE_BYTES:
        verify(words, snapshot)
        raise damaged(f"a value of {length:,} bytes")
    if compiled:
        return versioned_value(VersionedValue, copied(words, start, length), words[record], expires_ms)
    return _new_tuple(VersionedValue, (mm[start : start + length], words[record], expires_ms))


def node_words(key_bytes: int) -> int:
    """The words of the node of a key with so many bytes."""
    return NODE_HEADER_WORDS + (key_bytes + 7 >> 3)


def record_words(value_bytes: int, expires: int) -> int:
    """The words of a record of a value with so many bytes; with ``expires`` other than 0 it has a time to expire."""
    return RECORD_HEADER_WORDS + (value_bytes + 7 >> 3) + (1 if expires else 0)


def is_beside(words: memoryview, node: int, record: int, allocated: int) -> bool:
    """Whether a key's record is part of its node's allocation, so that it is freed with the node.

    ``allocated`` are the words allocated at the node. Where the node's allocation ends with its key, the next
    allocation may begin, and may be a record of the same key.
    """
    own_words = node_words(words[node + NODE_KEY_LENGTH])
    return record - node == own_words and allocated > own_words


def write_node(mm: mmap, node: int, key: bytes, record: int) -> None:
    """Write the node of a new key, whose first record is ``record``."""
    start, length = node * 8, len(key)
    pack_two(mm, start, record, length)
    start += NODE_KEY_BYTE
    if compiled:
        write_bytes(mm, start, key)
    else:
        mm[start : start + length] = key


def write_record(mm: mmap, record: int, version: int, previous: int, value: bytes | None, expires_ms: int) -> None:
    """Write a record in front of ``previous``; ``value`` None is a tombstone, ``expires_ms`` 0 never expires."""
    start = record * 8
    if value is None:
        pack_three(mm, start, version, previous, TOMBSTONE)
        return
    length = len(value)
    if expires_ms:
        pack_four(mm, start, version, previous, length | EXPIRES, expires_ms)
        start += RECORD_VALUE_BYTE + 8
    else:
        pack_three(mm, start, version, previous, length)
        start += RECORD_VALUE_BYTE
    if compiled:
        write_bytes(mm, start, value)
    else:
        mm[start : start + length] = value


def damaged(found: str) -> CorruptionError:
    """The error for ``found``, which no intact segment has."""
    return CorruptionError("the segment in memory", 0, "intact structures", found)


def _older_record(words: memoryview, record: int, snapshot: int) -> int:
    """The newest record with a version up to ``snapshot``, from ``record`` on down; 0 if there is none."""
    steps, above = 0, NEWEST
    while record and words[record] > snapshot:
        record = words[record + RECORD_PREVIOUS]
        steps += 1
        if steps % _STEPS_BETWEEN_CHECKS == 0:
            verify(words, snapshot)
            if record and words[record] >= above:  # versions fall along a chain: here it goes in a circle
                raise damaged("a chain of versions that do not fall")
            above = words[record]
    return record
