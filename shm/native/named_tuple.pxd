# Named tuples made in C: ``tuple.__new__(kind, (first, second))`` without the tuple in between.
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_SET_ITEM


cdef extern from *:
    """
    static inline PyObject *shoal_new_tuple(PyObject *kind, Py_ssize_t size) {
        return ((PyTypeObject *) kind)->tp_alloc((PyTypeObject *) kind, size);
    }
    """
    object shoal_new_tuple(object kind, Py_ssize_t size)


# ``kind`` is ``VersionedValue``: a subclass of tuple with three fields and no others.
cdef inline object versioned_value(object kind, bytes value, unsigned long long version, unsigned long long expires_ms):
    cdef object made = shoal_new_tuple(kind, 3)
    cdef object number
    Py_INCREF(value)
    PyTuple_SET_ITEM(made, 0, value)
    number = version
    Py_INCREF(number)
    PyTuple_SET_ITEM(made, 1, number)
    number = expires_ms
    Py_INCREF(number)
    PyTuple_SET_ITEM(made, 2, number)
    return made


# ``kind`` is a subclass of tuple with so many fields and no others.
cdef inline object of_two(object kind, object first, object second):
    cdef object made = shoal_new_tuple(kind, 2)
    Py_INCREF(first)
    PyTuple_SET_ITEM(made, 0, first)
    Py_INCREF(second)
    PyTuple_SET_ITEM(made, 1, second)
    return made


cdef inline object of_three(object kind, object first, object second, object third):
    cdef object made = shoal_new_tuple(kind, 3)
    Py_INCREF(first)
    PyTuple_SET_ITEM(made, 0, first)
    Py_INCREF(second)
    PyTuple_SET_ITEM(made, 1, second)
    Py_INCREF(third)
    PyTuple_SET_ITEM(made, 2, third)
    return made
