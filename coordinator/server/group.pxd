cdef class Group:
    cdef public list requests, asking, answers
