"""Where everything is in a segment and in a page of snapshot slots. Writer and readers share this one file.

A segment (a memfd of ``max_bytes``, sparse) is

    byte 0            header, one word each, below
    byte 4096         hash directory: one word per entry, the word index of a bucket
    heap_byte         heap of 16 KiB blocks: buckets, index nodes, key nodes, version records

A *reference* is a word index into the segment (byte offset / 8), 48 bits at most; 0 is none.

    key node          word 0  reference of the newest version record
                      word 1  length of the key in bytes
                      then    the key, padded to a word
                      then    its first version record, if node and record together are at most BESIDE_WORDS: who
                              reads a key that was written once touches one stretch of memory. Overwritten, the
                              words stay with the node until the key is gone.
    version record    word 0  commit version
                      word 1  reference of the previous record, 0 none
                      word 2  length of the value in bytes | TOMBSTONE | EXPIRES
                      word 3  only with EXPIRES: when it expires, ms since the epoch
                      then    the value, padded to a word
    bucket            BUCKET_ENTRIES words, each a key node; 0 empty, REMOVED was removed. Probing starts at
                      bits 32..39 of the hash and goes up by one, around the end. No bits of the hash are kept
                      beside the reference: to take them apart cost a reader more than they saved.
                      word BUCKET_ENTRIES (the last): the number of low hash bits all its keys share.
    index node        word 0  number of entries, then that many references, in key order:
                      root -> branches -> leaves -> key nodes
    tombstone chunk   word 0  reference of the chunk before it, which may have gone when no row of it is left
                      word 1  where its first word stands in the stream of all rows that ever were
                      then    rows: commit version, one word with the lengths of the lower key (32 bits) and the upper
                              key, the lower key, the upper key, each padded to a word. A row is in one chunk.

The segment is rebuilt from checkpoint and log on every start: this layout may change freely between versions.
"""

from __future__ import annotations

from shoal.shm.limits import BLOCK_BYTES, BUCKET_ENTRIES

MAGIC = int.from_bytes(b"shoalseg", "little")
LAYOUT_VERSION = 2

HEADER_BYTES = 4096

# Header words. All are written by the coordinator alone.
W_MAGIC = 0
W_LAYOUT_VERSION = 1
W_GENERATION = 2  # which coordinator, as counted in the store directory
W_PUBLISHED = 3  # newest commit version a reader may see; the store of this word publishes a group of commits
W_HORIZON = 4  # snapshots below it may meet reused memory: a reader checks after copying
W_HASH_MASK = 5  # number of directory entries - 1
W_ORDER_ROOT = 6  # reference of the ordered index's root
W_CLEARS = 7  # reference of the newest chunk of range tombstones, 0 if there are none
W_KEYS = 8  # live keys
W_BYTES_USED = 9
W_CLIENTS = 10
W_COORDINATOR_PID = 11
W_MAX_BYTES = 12
W_HASH_SEED = 13
W_CLEARS_BEGIN = 14  # where the oldest range tombstone begins in the stream of rows, in words
W_CLEARS_END = 15  # and where the newest ends
W_CLEARS_SWEPT = 16  # range tombstones up to this version have gone, or may go

DIRECTORY_WORD = HEADER_BYTES // 8
BLOCK_WORDS = BLOCK_BYTES // 8

REMOVED = 1  # a bucket entry whose key is gone; 0 would end the probe of keys behind it

TOMBSTONE = 1 << 32
EXPIRES = 1 << 33
LENGTH_MASK = (1 << 32) - 1

NODE_HEADER_WORDS = 2
BESIDE_WORDS = 32
RECORD_HEADER_WORDS = 3
TOMBSTONE_CHUNK_HEADER_WORDS = 2

BUCKET_MASK = BUCKET_ENTRIES - 1
BUCKET_WORDS = BUCKET_ENTRIES + 1

# The epoch word is not in the segment but in a file that all coordinators of a store share: the generation of the one
# that serves << EPOCH_BITS | how often key nodes have gone or ranges were cleared, which voids what readers keep.
EPOCH_BITS = 40

# Snapshot slots: word 0 is how many slots have ever been in use, word i a pinned version or 0.
SLOTS_WORD_USED = 0


def directory_bytes(max_bytes: int) -> int:
    """Room for the directory when the whole heap is buckets, eight times over; sparse, so free until used."""
    wanted = max_bytes // 256
    return 1 << max(12, (wanted - 1).bit_length())


def words_for(n_bytes: int) -> int:
    """Words that hold ``n_bytes``."""
    return (n_bytes + 7) >> 3
