cimport cython


cdef class ReadySet:
    cdef object _open
    cdef public object root, depth, first
    cdef public bytes head, tail

    @cython.locals(head=bytes)
    cpdef take_least(self)
    @cython.locals(head=bytes, last=bytes)
    cpdef add(self, bytes entry)
    @cython.locals(head=bytes, tail=bytes)
    cpdef remove(self, bytes entry)
    @cython.locals(tail=bytes)
    cdef _add_behind(self, bytes entry)
    cdef _refill(self)
    cdef _keep(self, pages)


@cython.locals(at=Py_ssize_t)
cdef bytes _with(bytes entries, bytes entry)
@cython.locals(end=Py_ssize_t)
cdef bytes _without(bytes entries, bytes entry)
