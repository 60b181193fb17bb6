# C types of ``reader.py``.
cimport cython

from shoal.shm.memory.record cimport find_node, is_cleared, value_at, visible_record
from shoal.shm.memory.snapshots cimport verify

cdef unsigned long long EPOCH_BITS, INDEX_ENTRIES, MAX_ENCODED_VALUE_BYTES, MAX_ENGINE_KEY_BYTES, NODE_KEY_BYTE
cdef unsigned long long NODE_KEY_LENGTH, RECORD_META, RECORD_VALUE_BYTE, W_HORIZON, W_ORDER_ROOT, W_PUBLISHED
cdef unsigned long long W_RANGE_TOMBSTONES, _MOST_BRANCHES
cdef object _NO_EPOCH, _NO_WORDS


cdef class Reader:
    cdef const unsigned long long[::1] _epoch_words
    cdef const unsigned long long[::1] _words
    cdef readonly object words
    cdef public object at_ms
    cdef readonly object _mm
    cdef unsigned long long _generation
    cdef unsigned long long _seed
    cdef bint _retired
    cdef object _limits
    cdef object _moved
    cdef object _tombstones
    cdef list _caches
    cdef long long _cached_locations

    cpdef object retire(self)
    cpdef object close(self)
    @cython.locals(
        snapshot=cython.ulonglong, epoch=cython.longlong, nodes=dict, node=cython.longlong, record=cython.ulonglong,
        version=cython.ulonglong, length=cython.ulonglong, start=cython.ulonglong,
    )
    cpdef object get_named(self, object cache, object name)
    @cython.locals(snapshot=cython.ulonglong)
    cpdef object find_latest(self, bytes key)
    @cython.locals(node=cython.ulonglong, cleared_at=cython.ulonglong, record=cython.ulonglong)
    cpdef object find(self, bytes key, unsigned long long snapshot)
    cpdef object verify(self, unsigned long long snapshot)
    @cython.locals(
        cleared_at=cython.ulonglong, cleared_below=bytes, batch=list, at_end=cython.bint, below=cython.bint, node=cython.ulonglong,
        key=bytes, record=cython.ulonglong,
    )
    cpdef tuple _read(self, list nodes, bytes lower, bytes upper, unsigned long long snapshot)
    @cython.locals(node=cython.ulonglong)
    cpdef long long _look_up(self, object cache, object name, dict nodes, unsigned long long snapshot) except? -1
    cpdef object _empty_caches(self)
    @cython.locals(epoch=cython.ulonglong)
    cpdef bint _renew(self, object cache) except -1
    @cython.locals(length=cython.ulonglong, start=cython.ulonglong)
    cpdef bytes _key(self, unsigned long long node, unsigned long long snapshot)
    @cython.locals(count=cython.ulonglong, first=cython.ulonglong, taken=cython.ulonglong, entries=list)
    cpdef list _entries(self, unsigned long long node, unsigned long long most, unsigned long long snapshot)
    @cython.locals(low=cython.longlong, high=cython.longlong, middle=cython.longlong, node=cython.ulonglong, key=bytes)
    cpdef long long _last_not_above(self, list nodes, bytes lower, long long levels, unsigned long long snapshot) except? -1
    cpdef object _outside(self, unsigned long long snapshot, object error)
