# C types of ``loading.py``.
cimport cython

from shoal.coordinator.memory.heap cimport Heap
from shoal.coordinator.memory.writer cimport Plan, Writer
from shoal.shm.memory.record cimport node_words, record_words, write_node, write_record

cdef long long BESIDE_WORDS, BLOCK_WORDS, _INDEX_WORDS
cdef unsigned long long EXPIRES, LENGTH_MASK, RECORD_META, RECORD_PREVIOUS, TOMBSTONE


@cython.locals(
    plan=Plan, sizes=list, fresh=list, nodes=list, new_nodes=list, used=cython.Py_ssize_t, i=cython.Py_ssize_t, key=bytes,
    value=bytes, expires_ms=cython.longlong, node=cython.longlong, record=cython.longlong,
)
cpdef object apply_versions(Writer writer, list writes, list versions)
@cython.locals(
    words=cython.ulonglong[::1], nodes=list, sizes=list, i=cython.Py_ssize_t, node=cython.ulonglong, meta=cython.ulonglong
)
cdef list _but_in_place(Writer writer, list writes, Plan plan)
@cython.locals(words=cython.ulonglong[::1], record=cython.ulonglong)
cdef object _write_over(Writer writer, long long version, bytes key, bytes value, long long expires_ms, long long node)


cdef class KeyLoader:
    cdef Writer _writer
    cdef unsigned char[::1] _mm
    cdef unsigned long long _seed
    cdef object _digests
    cdef object _nodes

    @cython.locals(sizes=list, places=list, nodes=list)
    cpdef object add(self, list keys, list values, list expires_ms, list versions)
    @cython.locals(
        digests=cython.ulonglong[::1], nodes=list, at=cython.Py_ssize_t, i=cython.Py_ssize_t, key=bytes, value=bytes,
        expires=cython.longlong, seed=cython.ulonglong, node=cython.longlong, own_words=cython.longlong,
        record=cython.longlong,
    )
    cdef list _write(self, list keys, list values, list expires_ms, list versions, list sizes, list places)
    @cython.locals(heap=Heap, keys=cython.longlong, words=cython.longlong, size=cython.longlong)
    cdef object _keep_room(self, Py_ssize_t new_keys, list sizes)


@cython.locals(i=cython.Py_ssize_t, sizes=list, node=cython.longlong, record=cython.longlong)
cdef list _sizes(list keys, list values, list expires_ms)
