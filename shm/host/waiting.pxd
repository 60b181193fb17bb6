cimport cython


cdef class Lookout:
    cdef double _rest_s, _rests_until_s

    @cython.locals(
        begin_s=double, before_s=double, after_s=double, offer_from_s=double, until_s=double, long_offer_s=double, offers=bint
    )
    cpdef look(self, poll, double look_s, double keep_s=*, int fd=*, Py_ssize_t n_bytes=*)
    @cython.locals(just_over=bint)
    cdef _rest(self, double now_s)
