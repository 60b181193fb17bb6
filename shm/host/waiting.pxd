cimport cython

cdef double LONG_OFFER_S
cdef int FEW_OFFERS


cdef class Lookout:
    cdef double _rest_s, _rests_until_s
    cdef int _short_offers

    cpdef bint rests(self, double now_s) except -1

    @cython.locals(before_s=double, after_s=double, offer_from_s=double, until_s=double, offers=bint)
    cpdef look(self, poll, double look_s, double keep_s=*, int fd=*, Py_ssize_t n_bytes=*)
    @cython.locals(busy=bint)
    cdef bint _rests_after(self, double offer_s, double now_s) except -1
