"""Where everything is in a segment and in a page of snapshot slots. The writer and the readers share this one file.

A segment is a sparse memfd of ``max_bytes``:

    byte 0            header, one word each, below
    byte 4096         hash directory: one word per entry, the word index of a bucket
    heap_byte         heap of 16 KiB blocks: buckets, index nodes, key nodes, version records, tombstone chunks

A *reference* is a word index into the segment (byte offset / 8), 48 bits at most; 0 means none.

    key node          word 0  reference of the newest version record
                      word 1  length of the key in bytes
                      then    the key, padded to a word
                      then    the key's first version record, if node and record together are at most BESIDE_WORDS.
                              A read of a key that was written once then touches one stretch of memory. When the key
                              is overwritten, these words stay with the node until the key leaves the indexes.
    version record    word 0  commit version
                      word 1  reference of the previous record, 0 if there is none
                      word 2  length of the value in bytes | TOMBSTONE | EXPIRES
                      word 3  only with EXPIRES: when it expires, ms since the epoch
                      then    the value, padded to a word
    bucket            BUCKET_ENTRIES words, each a key node. 0 is empty, REMOVED is an entry whose key is gone. Probing
                      starts at bits 32..39 of the hash and goes up by one, around the end. No hash bits are kept in
                      the entry: a reader lost more by masking them out than it gained.
                      word BUCKET_ENTRIES (the last): the number of low hash bits all its keys share.
    index node        word 0  number of entries
                      then    that many references, in key order: root -> branches -> leaves -> key nodes
    tombstone chunk   word 0  reference of the chunk before it, which may be free when no row of it is left
                      word 1  where its first row stands in the stream of all rows ever written, in words
                      then    rows, each in one chunk:
                              word 0  commit version
                              word 1  length of the lower key (low 32 bits) and of the upper key (high 32 bits)
                              then    the lower key, then the upper key, each padded to a word

A *range tombstone* (one row) at version V says: the commit at V cleared the keys of ``[lower, upper)``, so records of
these keys older than V are deleted. The list of ranges a commit clears is called its ``clears``.

The segment is rebuilt from checkpoint and log at every start, so this layout may change freely between versions.
"""

from __future__ import annotations

from shoal.shm.limits import BLOCK_BYTES, BUCKET_ENTRIES, TOMBSTONE_CHUNK_WORDS

MAGIC = int.from_bytes(b"shoalseg", "little")
LAYOUT_VERSION = 2

HEADER_BYTES = 4096

# Header words. Only the coordinator writes them.
W_MAGIC = 0
W_LAYOUT_VERSION = 1
W_GENERATION = 2  # number of the coordinator, counted in the store directory
W_PUBLISHED = 3  # newest commit version a reader may see; storing this word publishes a group of commits
W_HORIZON = 4  # a snapshot below it may meet reused memory: a reader compares after it has copied
W_HASH_MASK = 5  # number of directory entries - 1
W_ORDER_ROOT = 6  # reference of the ordered index's root
W_RANGE_TOMBSTONES = 7  # reference of the newest chunk of range tombstones, 0 if there are none
W_KEYS = 8  # live keys
W_BYTES_USED = 9
W_CLIENTS = 10
W_COORDINATOR_PID = 11
W_MAX_BYTES = 12
W_HASH_SEED = 13
W_RANGE_TOMBSTONES_BEGIN = 14  # where the oldest range tombstone begins in the stream of rows, in words
W_RANGE_TOMBSTONES_END = 15  # and where the newest ends
W_RANGE_TOMBSTONES_SWEPT = 16  # range tombstones up to this version are removed, or may be
W_HISTORY_MS = 17  # how long past versions are kept; 0: not at all, and then the next three mean nothing
W_HISTORY_VERSION = 18  # the oldest version that is kept
W_HISTORY_SINCE_US = 19  # since when that version was the newest, us since the epoch
W_HISTORY_BYTES = 20  # what past versions take in memory

DIRECTORY_WORD = HEADER_BYTES // 8
BLOCK_WORDS = BLOCK_BYTES // 8

REMOVED = 1  # a bucket entry whose key is gone; 0 would end the probe of the keys behind it

# Key node: words from its reference, and bytes from the byte of its reference.
NODE_KEY_LENGTH = 1
NODE_HEADER_WORDS = 2
NODE_KEY_BYTE = NODE_HEADER_WORDS * 8

# Version record, likewise. Without EXPIRES the value begins at RECORD_VALUE_BYTE, with it one word later.
RECORD_PREVIOUS = 1
RECORD_META = 2
RECORD_EXPIRES = 3
RECORD_HEADER_WORDS = 3
RECORD_VALUE_BYTE = RECORD_HEADER_WORDS * 8

# Bits of RECORD_META.
TOMBSTONE = 1 << 32  # the key is deleted
EXPIRES = 1 << 33
LENGTH_MASK = (1 << 32) - 1

BESIDE_WORDS = 32  # a key node and its first record are allocated together if they are no longer

INDEX_ENTRIES = 1  # index node: the word of its first entry

CHUNK_FIRST = 1  # tombstone chunk: the word that says where its first row stands in the stream
TOMBSTONE_CHUNK_HEADER_WORDS = BLOCK_WORDS - TOMBSTONE_CHUNK_WORDS

BUCKET_DEPTH = BUCKET_ENTRIES  # bucket: the word that says how many low hash bits all its keys share
BUCKET_MASK = BUCKET_ENTRIES - 1
BUCKET_WORDS = BUCKET_ENTRIES + 1

# The epoch word is not in the segment but in a file that all coordinators of a store share. It is the generation of the
# coordinator that serves << EPOCH_BITS | the number of times key nodes were removed or ranges cleared. When it changes,
# the key locations that readers keep are void.
EPOCH_BITS = 40

# Page of snapshot slots: word 0 is the highest slot ever used; word i is the version that slot i pins + 1, or 0.
SLOTS_WORD_USED = 0


def directory_bytes(max_bytes: int) -> int:
    """Bytes of the directory: eight times what a heap full of buckets needs. Unused, they take no memory."""
    wanted = max_bytes // 256
    return 1 << max(12, (wanted - 1).bit_length())


def words_for(n_bytes: int) -> int:
    """The number of words that ``n_bytes`` take."""
    return (n_bytes + 7) >> 3
