cdef class Group:
    cdef readonly list requests, asking
    cdef public list answers
