# Bytes objects that are filled in C: allocated once, written in place, then returned. Numbers are little-endian.
from cpython.bytes cimport PyBytes_FromStringAndSize


cdef extern from "Python.h":
    char *PyBytes_AS_STRING(object data) nogil
    Py_ssize_t PyBytes_GET_SIZE(object data) nogil


cdef inline void put_u32(char *at, unsigned long long value) noexcept nogil:
    cdef int i
    for i in range(4):
        at[i] = <char> ((value >> 8 * i) & 0xFF)


cdef inline void put_u64(char *at, unsigned long long value) noexcept nogil:
    cdef int i
    for i in range(8):
        at[i] = <char> ((value >> 8 * i) & 0xFF)


cdef inline unsigned long long get_u32(const unsigned char *at) noexcept nogil:
    return at[0] | at[1] << 8 | at[2] << 16 | <unsigned long long> at[3] << 24


cdef inline unsigned long long get_u64(const unsigned char *at) noexcept nogil:
    return get_u32(at) | get_u32(at + 4) << 32
