# C types of ``writer.py``.
cimport cython

from shoal.coordinator.memory.hash_index cimport HashIndex
from shoal.coordinator.memory.heap cimport Heap
from shoal.coordinator.memory.ordered_index cimport OrderedIndex
from shoal.shm.memory.record cimport is_beside, value_at, visible_record, write_node, write_record

cdef unsigned long long NEWEST
cdef long long BESIDE_WORDS, BLOCK_WORDS, EXPIRES, LENGTH_MASK, NODE_HEADER_WORDS, RECORD_EXPIRES, RECORD_HEADER_WORDS
cdef long long RECORD_META, TOMBSTONE, W_BYTES_USED, W_KEYS, W_PUBLISHED, _LARGEST_SMALL


cdef class Plan:
    cdef public list nodes
    cdef public list new_nodes
    cdef public list sizes


cdef class Writer:
    cdef readonly object segment
    cdef readonly object limits
    cdef public object epoch_words
    cdef readonly Heap heap
    cdef readonly HashIndex hash_index
    cdef readonly OrderedIndex ordered_index
    cdef readonly object expiry
    cdef unsigned long long[::1] _words
    cdef unsigned char[::1] _mm
    cdef public list new_keys
    cdef public object range_tombstones
    cdef readonly object tombstone_table
    cdef readonly object _clears_by_key
    cdef readonly object garbage
    cdef public long long garbage_words
    cdef public long long dead_words
    cdef readonly object deleted_keys
    cdef public long long keys
    cdef long long _budget_words

    cpdef object raise_epoch(self)
    cpdef object forget_budget(self)
    @cython.locals(node=cython.longlong, record=cython.ulonglong)
    cpdef object newest(self, bytes key, object now_ms, dict nodes=*)
    cpdef unsigned long long version_at(self, unsigned long long node) except? -1
    @cython.locals(
        hash_index=HashIndex, plan=Plan, nodes=list, new_nodes=list, sizes=list, words=cython.longlong,
        blocks=cython.longlong, new_keys=cython.longlong, grows=cython.bint, at=cython.Py_ssize_t, key=bytes,
        value=bytes, expires_ms=object, node=cython.longlong, size=cython.longlong, new_node=cython.longlong,
    )
    cpdef Plan plan(self, list writes, object clears=*, dict known=*, bint fits=*)
    @cython.locals(
        records=list, nodes=list, new_nodes=list, i=cython.Py_ssize_t, key=bytes, value=bytes,
        expires_ms=cython.longlong, node=cython.longlong, new_node=cython.longlong, record=cython.longlong,
    )
    cpdef object apply(self, long long version, list clears, list writes, Plan plan)
    cpdef object end_group(self, long long version)
    cpdef object publish(self, long long version)
    cpdef object discard(self, long long version, long long reference, long long words)
    @cython.locals(words=cython.longlong)
    cpdef object discard_record(self, long long version, long long node, long long record, long long meta)
    @cython.locals(heap=Heap, obsolete=tuple, done=cython.longlong, words=cython.longlong)
    cpdef long long free_obsolete(self, long long horizon, long long most) except? -1
    cpdef long long _index_words(self, long long new_keys) except? -1
    @cython.locals(heap=Heap)
    cpdef list allocate(self, list sizes)
    @cython.locals(previous=cython.ulonglong)
    cpdef object delete(self, long long version, bytes key, long long node, long long record)
    @cython.locals(previous=cython.ulonglong, meta=cython.ulonglong)
    cpdef object overwrite(self, long long version, bytes key, bytes value, long long expires_ms, long long node, long long record)
    cpdef object add(self, long long version, bytes key, bytes value, long long expires_ms, long long new_node, long long record)
