cimport cython


# ``write_all`` and ``read_message`` are called as Python functions: tests replace them here.
cdef class Channel:
    cdef public object client_id, depth, commit_id, attachment

@cython.locals(message=bytes)
cpdef tuple commit_through(Channel channel, bytes request, attach, timeout_s, double give_up_s)
cdef tuple _looks_s(attachment)
cpdef give_up(Channel channel, attachment)
