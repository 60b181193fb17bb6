cimport cython

from shoal.coordinator.server.clients cimport Client


cdef class Group:
    cdef public list requests, asking, answers, others

    cpdef bint has_operations(self) except -1
    cpdef submit(self, decide)
    @cython.locals(client=Client, told=list)
    cpdef _decide(self, decide, list asking, list requests)
