cimport cython

from shoal.coordinator.memory.writer cimport Writer


cdef class Reclaimer:
    cdef object _writer, _words, _published_at
    cdef public object limits, pinned, held, revoked, insists_until_s
    cdef long long _left, _swept
    cdef public bint paused

    @cython.locals(writer=Writer)
    cpdef bint due(self) except -1
