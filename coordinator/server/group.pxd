cimport cython

from shoal.coordinator.server.clients cimport Client


cdef class Group:
    cdef public list requests, asking, answers, others, left
    cdef public bint has_turns
    cdef object _in_turn

    cpdef add(self, Client client, request)
    cpdef submit(self, decide)
    @cython.locals(client=Client, told=list)
    cpdef _decide(self, decide, list asking, list requests)
