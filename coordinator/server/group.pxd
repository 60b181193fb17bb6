cimport cython

from shoal.coordinator.server.clients cimport Client


cdef class Group:
    cdef public list requests, asking, answers, others, left
    cdef public bint has_turns
    cdef object _in_turn

    cpdef add(self, Client client, request)
    cpdef submit(self, decide)
    @cython.locals(going=list, client=Client)
    cpdef submit_in_turn(self, turns, decide, engine, now_s)
    @cython.locals(asking=list, requests=list, client=Client)
    cdef _take_turns(self, turns, list going, now_s)
    @cython.locals(client=Client, told=list)
    cpdef _decide(self, decide, list asking, list requests)
