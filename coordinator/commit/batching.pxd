cimport cython

from shoal.coordinator.commit.reading cimport read_newest
from shoal.coordinator.memory.writer cimport Writer


cdef class Batching:
    cdef public Writer _writer
    cdef public object _batched, _limits, _now_ms, _epoch
    cdef public dict _kept

    @cython.locals(operations=list, mutations=bytes)
    cpdef tuple key_of(self, request)
    @cython.locals(outcomes=list, nodes=dict, writes=list, session=tuple)
    cpdef decide(self, tuple key, list requests, now_ms, sessions)
    @cython.locals(nodes=dict, kept=tuple, writer=Writer, node=cython.ulonglong)
    cpdef tuple take(self, tuple key, now_ms)
    @cython.locals(nodes=dict, writes=list, key=tuple, i=Py_ssize_t)
    cpdef keep(self, batch, version, written_nodes)
