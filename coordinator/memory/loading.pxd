# C types of ``loading.py``.
cimport cython

from shoal.coordinator.memory.heap cimport Heap
from shoal.coordinator.memory.writer cimport Plan, Writer
from shoal.shm.memory.record cimport write_node, write_record

cdef long long BLOCK_WORDS, NODE_HEADER_WORDS, _INDEX_WORDS


cdef class KeyLoader:
    cdef Writer _writer
    cdef unsigned char[::1] _mm
    cdef unsigned long long _seed
    cdef object _digests
    cdef object _nodes

    @cython.locals(writer=Writer, plan=Plan, keys=list, seed=cython.ulonglong, key=bytes)
    cpdef object add(self, list writes, object versions)
    @cython.locals(
        heap=Heap, nodes=list, key=bytes, value=bytes, expires_ms=cython.longlong, version=cython.longlong,
        new_node=cython.longlong, node=cython.longlong, record=cython.longlong,
    )
    cpdef list _write(self, list writes, object versions, list new_nodes, list records)
