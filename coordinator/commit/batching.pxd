cimport cython

from shoal.coordinator.commit.reading cimport read_newest


cdef class Batching:
    cdef public object _writer, _operations, _limits, _now_ms, _epoch
    cdef public dict _kept

    @cython.locals(operations=list)
    cpdef tuple key_of(self, request)
    @cython.locals(outcomes=list, nodes=dict, writes=list, session=tuple)
    cpdef decide(self, tuple key, list requests, now_ms, sessions)
    @cython.locals(nodes=dict)
    cpdef tuple take(self, tuple key, now_ms)
    @cython.locals(nodes=dict, writes=list, i=Py_ssize_t)
    cpdef keep(self, batch, version, written_nodes)
