# Whole numbers of 8 bytes, little-endian, one after the other: as ``struct`` packs and unpacks them, in a third of the time.
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM

from bytes_out cimport PyBytes_AS_STRING, PyBytes_GET_SIZE, get_u64, put_u64


# The first ``count`` numbers of ``raw``; None if it is shorter, or one of them is above ``most``.
cdef inline tuple unpacked_words(bytes raw, Py_ssize_t count, unsigned long long most):
    cdef const unsigned char *start = <const unsigned char *> PyBytes_AS_STRING(raw)
    cdef Py_ssize_t at
    cdef object number
    cdef tuple words
    if PyBytes_GET_SIZE(raw) < 8 * count:
        return None
    for at in range(count):
        if get_u64(start + 8 * at) > most:
            return None
    words = PyTuple_New(count)
    for at in range(count):
        number = get_u64(start + 8 * at)
        Py_INCREF(number)
        PyTuple_SET_ITEM(words, at, number)
    return words


# Numbers from -2**63 to 2**63 - 1 as bytes; OverflowError for others.
cdef inline bytes packed_words(list words):
    cdef Py_ssize_t at, count = PyList_GET_SIZE(words)
    cdef bytes raw = PyBytes_FromStringAndSize(NULL, 8 * count)
    cdef char *out = PyBytes_AS_STRING(raw)
    cdef long long number
    for at in range(count):
        number = <object> PyList_GET_ITEM(words, at)
        put_u64(out + 8 * at, <unsigned long long> number)
    return raw
