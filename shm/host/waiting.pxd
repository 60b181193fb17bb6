cimport cython


cdef class Lookout:
    cdef double _looks_since_s, _rest_s, _rests_until_s

    cpdef bint rests(self, double now_s) except -1

    @cython.locals(
        begin_s=double, before_s=double, after_s=double, offer_from_s=double, until_s=double, long_offer_s=double, offers=bint
    )
    cpdef look(self, poll, double look_s, double keep_s=*, int fd=*, Py_ssize_t n_bytes=*)
    @cython.locals(as_before=bint)
    cdef _rest(self, double now_s)
