# C types of ``hash_index.py``.
cimport cython

from shoal.coordinator.memory.heap cimport Heap
from shoal.shm.memory.record cimport find_node

cdef unsigned long long BUCKET_DEPTH, BUCKET_MASK, DIRECTORY_WORD, NODE_KEY_BYTE, NODE_KEY_LENGTH, REMOVED, W_HASH_MASK


cdef class HashIndex:
    cdef object _segment
    cdef unsigned long long[::1] _words
    cdef object _mm
    cdef Heap _heap
    cdef unsigned long long _seed
    cdef readonly long long _split_at
    cdef long long _join_at
    cdef long long _capacity
    cdef long long _backed
    cdef readonly dict _fill
    cdef readonly dict _live
    cdef readonly list replaced

    cpdef unsigned long long find(self, bytes key) except? -1
    @cython.locals(entries=cython.longlong)
    cpdef object prepare(self, long long new_keys)
    @cython.locals(digest=cython.ulonglong, bucket=cython.ulonglong, i=cython.ulonglong, fill=dict)
    cpdef object insert(self, bytes key, unsigned long long node)
    @cython.locals(
        count=cython.Py_ssize_t, depth=cython.Py_ssize_t, mask=cython.ulonglong, ends=cython.ulonglong[::1],
        sorted_digests=cython.ulonglong[::1], sorted_nodes=cython.ulonglong[::1], at=cython.Py_ssize_t,
        digest=cython.ulonglong, position=cython.ulonglong, low_bits=cython.ulonglong, first=cython.ulonglong,
    )
    cpdef object build(self, const unsigned long long[::1] digests, const unsigned long long[::1] nodes)
    @cython.locals(middle=cython.Py_ssize_t, i=cython.ulonglong, bucket=cython.ulonglong)
    cdef object _place(
        self, Py_ssize_t depth, unsigned long long low_bits, unsigned long long[::1] digests,
        unsigned long long[::1] nodes, Py_ssize_t first, Py_ssize_t end
    )
    @cython.locals(digest=cython.ulonglong, bucket=cython.ulonglong, i=cython.ulonglong)
    cpdef object remove(self, bytes key, unsigned long long node)
    @cython.locals(bucket=cython.ulonglong, table=cython.ulonglong[::1], at=cython.Py_ssize_t, i=cython.ulonglong)
    cdef unsigned long long _new_bucket(
        self, unsigned long long depth, unsigned long long[::1] digests, unsigned long long[::1] nodes,
        Py_ssize_t first, Py_ssize_t end
    ) except? -1
    @cython.locals(
        depth=cython.ulonglong, entries=list, digests=cython.ulonglong[::1], nodes=cython.ulonglong[::1],
        count=cython.Py_ssize_t, first=cython.ulonglong, middle=cython.Py_ssize_t, parts=list,
        new_depth=cython.ulonglong, low_bits=cython.ulonglong, begin=cython.Py_ssize_t, end=cython.Py_ssize_t,
        fresh=cython.ulonglong, i=cython.ulonglong,
    )
    cpdef object _split(self, unsigned long long bucket, unsigned long long digest)
    @cython.locals(digests=cython.ulonglong[::1], at=cython.Py_ssize_t, entry=cython.ulonglong, start=cython.ulonglong)
    cdef object _digests(self, list entries)


@cython.locals(middle=cython.Py_ssize_t, at=cython.Py_ssize_t, digest=cython.ulonglong, node=cython.ulonglong)
cdef Py_ssize_t _part(
    unsigned long long[::1] digests, unsigned long long[::1] nodes, Py_ssize_t first, Py_ssize_t end, Py_ssize_t depth
) except -1
