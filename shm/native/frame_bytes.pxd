# Frames, requests and answers as bytes (``shm/wire/frames.py``, ``request.py``, ``answer.py``).
from libc.string cimport memcpy

from bytes_out cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, get_u32, get_u64, put_u32, put_u64
from unpacked cimport Cursor, take_value

cdef enum:
    LENGTH = 4
    ANSWER = 28  # the frame's length, commit id, status, version
    REQUEST = 32  # the frame's length, and the header of a request


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


# A request, framed.
cdef inline bytes framed_request(
    unsigned long long commit_id, unsigned long long snapshot, unsigned long long valid_until_ms, bytes reads, bytes mutations
):
    cdef Py_ssize_t n_reads = PyBytes_GET_SIZE(reads), n_mutations = PyBytes_GET_SIZE(mutations)
    cdef bytes raw = PyBytes_FromStringAndSize(NULL, REQUEST + n_reads + n_mutations)
    cdef char *at = PyBytes_AS_STRING(raw)
    put_u32(at, <unsigned long long> (REQUEST - LENGTH + n_reads + n_mutations))
    put_u64(at + 4, commit_id)
    put_u64(at + 12, snapshot)
    put_u64(at + 20, valid_until_ms)
    put_u32(at + 28, <unsigned long long> n_reads)
    memcpy(at + REQUEST, PyBytes_AS_STRING(reads), <size_t> n_reads)
    memcpy(at + REQUEST + n_reads, PyBytes_AS_STRING(mutations), <size_t> n_mutations)
    return raw


# Commit id, status, version and details of an answer of a status up to ``most`` whose details have a usual form, or which
# has none; None for any other answer. The bytes came from another process: see ``unpacked.pxd``.
cdef inline tuple usual_answer(bytes message, unsigned long long most):
    cdef const unsigned char *at = <const unsigned char *> PyBytes_AS_STRING(message)
    cdef Py_ssize_t length = PyBytes_GET_SIZE(message)
    cdef Cursor cursor
    cdef object details
    if length < ANSWER - LENGTH or get_u64(at + 8) > most:
        return None
    if length == ANSWER - LENGTH:
        details = []
    else:
        cursor.at, cursor.end = at + ANSWER - LENGTH, at + length
        details = take_value(&cursor, 0)
        if type(details) is not list or cursor.at != cursor.end:
            return None
    return (get_u64(at), get_u64(at + 8), get_u64(at + 16), details)
