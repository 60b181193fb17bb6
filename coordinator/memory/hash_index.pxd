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
    @cython.locals(entries=cython.longlong, wanted=cython.longlong, target=cython.longlong)
    cpdef object prepare(self, long long new_keys)
    @cython.locals(digest=cython.ulonglong, bucket=cython.ulonglong, i=cython.ulonglong, fill=dict)
    cpdef object insert(self, bytes key, unsigned long long node)
    @cython.locals(
        depth=cython.Py_ssize_t, mask=cython.ulonglong, parts=list, at=cython.Py_ssize_t, digest=cython.ulonglong,
        low_bits=cython.Py_ssize_t, flat=list,
    )
    cpdef object build(self, const unsigned long long[::1] digests, const unsigned long long[::1] nodes)
    @cython.locals(half=list, i=cython.ulonglong, bucket=cython.ulonglong)
    cpdef object _place(self, Py_ssize_t depth, unsigned long long low_bits, list entries)
    @cython.locals(digest=cython.ulonglong, bucket=cython.ulonglong, i=cython.ulonglong)
    cpdef object remove(self, bytes key, unsigned long long node)
    @cython.locals(bucket=cython.ulonglong, digest=cython.ulonglong, entry=cython.ulonglong, i=cython.ulonglong, table=list)
    cpdef unsigned long long _new_bucket(self, unsigned long long depth, list entries) except? -1
    @cython.locals(
        depth=cython.ulonglong, entries=list, first=cython.ulonglong, in_two=cython.bint, low=list, high=list,
        entry=cython.ulonglong, start=cython.ulonglong, entry_digest=cython.ulonglong, new_depth=cython.ulonglong,
        low_bits=cython.ulonglong, part=list, fresh=cython.ulonglong, i=cython.ulonglong, key=bytes,
    )
    cpdef object _split(self, unsigned long long bucket, unsigned long long digest)
