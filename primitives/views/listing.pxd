# C types of ``listing.py``.
cimport cython

@cython.locals(key=bytes)
cpdef list names(found, Py_ssize_t skip)

@cython.locals(listed=list, key=bytes, name=str, raw=bytes)
cpdef list named_values(found, Py_ssize_t skip)

@cython.locals(name=str)
cdef str _name(bytes key, Py_ssize_t skip)
