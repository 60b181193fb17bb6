cdef class KeyLocationCache:
    cdef public bytes prefix
    cdef public tuple state
