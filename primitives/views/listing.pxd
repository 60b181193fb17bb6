cimport cython


@cython.locals(listed=list, key=bytes, name=str)
cpdef list names(found, Py_ssize_t skip)
@cython.locals(listed=list, key=bytes, name=str, raw=bytes)
cpdef list named_values(found, Py_ssize_t skip)
