cimport cython


cdef class FrameBuffer:
    cdef readonly list _pieces
    cdef readonly object wanted_bytes
    cdef Py_ssize_t _missing

    @cython.locals(message=bytes, messages=list, position=Py_ssize_t, end=Py_ssize_t, missing=Py_ssize_t, length=Py_ssize_t)
    cpdef list feed(self, bytes data)
    cdef _miss(self, Py_ssize_t missing)
