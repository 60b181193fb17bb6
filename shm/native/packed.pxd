# A value as msgpack, as ``msgpack.Packer().pack`` makes it, where it is of exact types and has the usual size and depth.
#
# Two walks: how many bytes it takes, then the bytes. No code of a value runs meanwhile, so nothing changes in between.
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memcpy

from bytes_out cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except? NULL
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    double PyFloat_AS_DOUBLE(object number)

cdef extern from *:
    """
    // Whether iterating over a tuple gives what is in it: one of a user's own type may give something else.
    #define SHOAL_GIVES_ITS_ITEMS(value) (Py_TYPE(value)->tp_iter == PyTuple_Type.tp_iter)
    """
    bint SHOAL_GIVES_ITS_ITEMS(object value)

cdef enum:
    MOST_DEPTH = 16
    ODD = -1  # left to msgpack


cdef inline int _width(unsigned long long value) noexcept nogil:
    return 1 if value <= 0xFF else 2 if value <= 0xFFFF else 4 if value >> 32 == 0 else 8


# Bytes of the header of so many bytes (``fixed`` 0), of a text (32), or of elements of a list or dict (16).
cdef inline Py_ssize_t _header_size(Py_ssize_t length, int fixed) noexcept nogil:
    if length < fixed:
        return 1
    if length <= 0xFF and fixed != 16:
        return 2
    return 3 if length <= 0xFFFF else 5 if length >> 32 == 0 else ODD


cdef inline Py_ssize_t _int_size(object value):
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow:  # 2**63 and more
        return ODD
    if -32 <= number <= 127:
        return 1
    if number > 0:
        return 1 + _width(<unsigned long long> number)
    return 2 if number >= -0x80 else 3 if number >= -0x8000 else 5 if number >= -0x80000000 else 9


cdef inline Py_ssize_t _text_size(str text) except -2:
    cdef Py_ssize_t length = 0
    try:
        PyUnicode_AsUTF8AndSize(text, &length)
    except UnicodeEncodeError:
        return ODD
    return length + _header_size(length, 32)


# How many bytes ``value`` takes; ODD if it is left to msgpack. ``extension`` is msgpack's type, itself a tuple.
cdef inline Py_ssize_t _size(object value, object extension, int depth) except -2:
    cdef Py_ssize_t total, size, length
    cdef object kind = type(value)
    if kind is bytes:
        length = PyBytes_GET_SIZE(value)
        return length + _header_size(length, 0)
    if kind is int:
        return _int_size(value)
    if kind is str:
        return _text_size(value)
    if value is None or kind is bool:
        return 1
    if kind is float:
        return 9
    if depth >= MOST_DEPTH:
        return ODD
    if kind is list:
        total = _header_size(len(<list> value), 16)
        for item in <list> value:
            size = _size(item, extension, depth + 1)
            if size < 0:
                return ODD
            total += size
        return total
    if kind is tuple or (
        isinstance(value, tuple) and not isinstance(value, extension) and SHOAL_GIVES_ITS_ITEMS(value)
    ):
        total = _header_size(len(<tuple> value), 16)
        for item in <tuple> value:
            size = _size(item, extension, depth + 1)
            if size < 0:
                return ODD
            total += size
        return total
    if kind is dict:
        total = _header_size(len(<dict> value), 16)
        for key, item in (<dict> value).items():
            if type(key) is not str:
                return ODD
            size = _text_size(key)
            if size < 0:
                return ODD
            total += size
            size = _size(item, extension, depth + 1)
            if size < 0:
                return ODD
            total += size
        return total
    return ODD


cdef inline unsigned char *_put_number(unsigned char *at, unsigned long long value, int width) noexcept nogil:
    cdef int i
    for i in range(width):
        at[i] = <unsigned char> (value >> 8 * (width - 1 - i) & 0xFF)
    return at + width


# ``wide`` is the first byte of a header whose length takes 1 byte (or 2, if ``fixed`` is 16).
cdef inline unsigned char *_put_header(
    unsigned char *at, Py_ssize_t length, int fixed, int short, int wide
) noexcept nogil:
    cdef int width
    if length < fixed:
        at[0] = <unsigned char> (short | length)
        return at + 1
    width = <int> _header_size(length, fixed) - 1
    if fixed == 16:
        at[0] = <unsigned char> (wide + (width == 4))
    else:
        at[0] = <unsigned char> (wide + (0 if width == 1 else 1 if width == 2 else 2))
    return _put_number(at + 1, <unsigned long long> length, width)


cdef inline unsigned char *_put_int(unsigned char *at, object value):
    cdef long long number = value
    cdef int width
    if -32 <= number <= 127:
        at[0] = <unsigned char> (number & 0xFF)
        return at + 1
    width = <int> _int_size(value) - 1
    at[0] = <unsigned char> (
        (0xCC if number > 0 else 0xD0) + (0 if width == 1 else 1 if width == 2 else 2 if width == 4 else 3)
    )
    return _put_number(at + 1, <unsigned long long> number, width)


cdef inline unsigned char *_put_text(unsigned char *at, str text) except NULL:
    cdef Py_ssize_t length = 0
    cdef const char *raw = PyUnicode_AsUTF8AndSize(text, &length)
    at = _put_header(at, length, 32, 0xA0, 0xD9)
    memcpy(at, raw, <size_t> length)
    return at + length


cdef inline unsigned char *_put(unsigned char *at, object value) except NULL:
    cdef Py_ssize_t length
    cdef unsigned long long bits
    cdef double real
    cdef object kind = type(value)
    if kind is bytes:
        length = PyBytes_GET_SIZE(value)
        at = _put_header(at, length, 0, 0, 0xC4)
        memcpy(at, PyBytes_AS_STRING(value), <size_t> length)
        return at + length
    if kind is int:
        return _put_int(at, value)
    if kind is str:
        return _put_text(at, value)
    if value is None:
        at[0] = 0xC0
        return at + 1
    if kind is bool:
        at[0] = 0xC3 if value is True else 0xC2
        return at + 1
    if kind is float:
        real = PyFloat_AS_DOUBLE(value)
        memcpy(&bits, &real, 8)
        at[0] = 0xCB
        return _put_number(at + 1, bits, 8)
    if kind is list:
        at = _put_header(at, len(<list> value), 16, 0x90, 0xDC)
        for item in <list> value:
            at = _put(at, item)
        return at
    if kind is dict:
        at = _put_header(at, len(<dict> value), 16, 0x80, 0xDE)
        for key, item in (<dict> value).items():
            at = _put(_put_text(at, key), item)
        return at
    at = _put_header(at, len(<tuple> value), 16, 0x90, 0xDC)
    for item in <tuple> value:
        at = _put(at, item)
    return at


# ``value`` as msgpack; None if it is left to msgpack.
cdef inline bytes usual_packed(object value, object extension):
    cdef Py_ssize_t size = _size(value, extension, 0)
    cdef bytes raw
    if size < 0:
        return None
    raw = PyBytes_FromStringAndSize(NULL, size)
    _put(<unsigned char *> PyBytes_AS_STRING(raw), value)
    return raw
