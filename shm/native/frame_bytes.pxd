# Frames and answers as bytes (``shm/wire/frames.py``, ``shm/wire/answer.py``).
from libc.string cimport memcpy

from bytes_out cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, get_u32, put_u32, put_u64

cdef enum:
    LENGTH = 4
    ANSWER = 28  # the frame's length, commit id, status, version


# The message if ``data`` is one whole frame and nothing else; None for anything else.
cdef inline bytes only_message(bytes data):
    cdef const unsigned char *start = <const unsigned char *> PyBytes_AS_STRING(data)
    cdef Py_ssize_t length = PyBytes_GET_SIZE(data) - LENGTH
    if length < 0 or get_u32(start) != <unsigned long long> length:
        return None
    return PyBytes_FromStringAndSize(<const char *> start + LENGTH, length)


# An answer whose details are ``body``, framed.
cdef inline bytes framed_answer(
    unsigned long long commit_id, unsigned long long status, unsigned long long version, bytes body
):
    cdef Py_ssize_t length = PyBytes_GET_SIZE(body)
    cdef bytes raw = PyBytes_FromStringAndSize(NULL, ANSWER + length)
    cdef char *at = PyBytes_AS_STRING(raw)
    put_u32(at, <unsigned long long> (ANSWER - LENGTH + length))
    put_u64(at + 4, commit_id)
    put_u64(at + 12, status)
    put_u64(at + 20, version)
    if length:
        memcpy(at + ANSWER, PyBytes_AS_STRING(body), <size_t> length)
    return raw
