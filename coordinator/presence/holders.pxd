cimport cython

from shoal.shm.holder_index cimport decode_key, decode_ttl_ms


cdef class _Holder:
    cdef public double seen_s
    cdef public object ttl_ms


cdef class Holders:
    cdef public object _writer, _engine, _monotonic_s
    cdef public dict _known, _gone
    cdef public double _looked_s, _clock_s, _retry_s, _next_s, _rests_until_s

    @cython.locals(key=bytes, value=bytes, before=_Holder, ttl_s=double)
    cpdef note(self, write)
    cpdef bint may_be_due(self, double now_s) except -1
    @cython.locals(now_s=double)
    cdef _look(self)
