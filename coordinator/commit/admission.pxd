cimport cython

from shoal.coordinator.commit.conflict_window cimport ConflictWindow
from shoal.coordinator.commit.reading cimport read_newest
from shoal.coordinator.commit.validate cimport validate
from shoal.shm.wire.request cimport check_writes


cdef class Admission:
    cdef public object note_own_write, _operations, _writer, _clock, _last_ms, _latest_ms
    cdef public dict _sent, _decided, _nodes
    cdef public bint time_stands
    cdef public ConflictWindow _window

    cpdef now_ms(self)
    cpdef conflict(self, request, next_version)
    @cython.locals(nodes=dict, writes=list, results=list)
    cpdef tuple decide(self, request)
    @cython.locals(writes=list, results=list, sent=dict, decided=dict)
    cpdef tuple _decide_operations(self, request, dict nodes)
    cpdef _read(self, key)
    @cython.locals(at=Py_ssize_t, key=bytes)
    cpdef note_own(self, list writes)
