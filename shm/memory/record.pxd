# C types of ``record.py``. The constants are those of ``layout`` and ``limits``, loaded once.
cimport cython

from shoal.shm.memory.snapshots cimport verify

cdef unsigned long long BUCKET_MASK, DIRECTORY_WORD, EXPIRES, LENGTH_MASK, NODE_HEADER_WORDS, NODE_KEY_BYTE
cdef unsigned long long NODE_KEY_LENGTH, RECORD_EXPIRES, RECORD_META, RECORD_PREVIOUS, RECORD_VALUE_BYTE, REMOVED
cdef unsigned long long TOMBSTONE, W_HASH_MASK, MAX_ENCODED_VALUE_BYTES, RECORD_HEADER_WORDS, _STEPS_BETWEEN_CHECKS
cdef object _new_tuple

@cython.locals(
    digest=cython.ulonglong, bucket=cython.ulonglong, i=cython.ulonglong, first=cython.ulonglong,
    length=cython.ulonglong, node=cython.ulonglong, start=cython.ulonglong,
)
cpdef unsigned long long find_node(
    const unsigned long long[::1] words, object mm, unsigned long long seed, bytes key
) except? -1

@cython.locals(record=cython.ulonglong, version=cython.ulonglong, meta=cython.ulonglong)
cpdef unsigned long long visible_record(
    const unsigned long long[::1] words,
    unsigned long long node,
    unsigned long long snapshot,
    unsigned long long cleared_at,
    object at_ms=*,
) except? -1

cpdef bint is_cleared(const unsigned long long[::1] words, unsigned long long node, unsigned long long cleared_at) except -1

@cython.locals(meta=cython.ulonglong, start=cython.ulonglong, length=cython.ulonglong, expires_ms=cython.ulonglong)
cpdef object value_at(
    const unsigned long long[::1] words, object mm, unsigned long long record, unsigned long long snapshot
)

cpdef long long node_words(long long key_bytes) except? -1

cpdef long long record_words(long long value_bytes, unsigned long long expires) except? -1

@cython.locals(own_words=cython.longlong)
cpdef bint is_beside(
    const unsigned long long[::1] words, unsigned long long node, unsigned long long record, unsigned long long allocated
) except -1

@cython.locals(start=cython.ulonglong, length=cython.ulonglong)
cpdef object write_node(unsigned char[::1] mm, unsigned long long node, bytes key, unsigned long long record)

@cython.locals(start=cython.ulonglong, length=cython.ulonglong)
cpdef object write_record(
    unsigned char[::1] mm,
    unsigned long long record,
    unsigned long long version,
    unsigned long long previous,
    bytes value,
    unsigned long long expires_ms,
)

@cython.locals(steps=cython.ulonglong, above=cython.ulonglong)
cdef unsigned long long _older_record(
    const unsigned long long[::1] words, unsigned long long record, unsigned long long snapshot
) except? -1
