# A record of the write-ahead log as bytes, checksum and padding included, and back (``coordinator/log/format.py`` has the format).
from libc.string cimport memcpy, memset

from bytes_out cimport (
    PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, get_u32, get_u64, put_u32, put_u64
)
from xxh3 cimport XXH3_64bits_withSeed

cdef enum:
    HEAD = 56
    CHECKED_FROM = 16


cdef inline bytes log_record(
    unsigned long long magic,
    unsigned long long version,
    unsigned long long synced_version,
    unsigned long long boot_id,
    unsigned long long client_id,
    unsigned long long commit_id,
    bytes mutations,
    bytes decided,
):
    cdef Py_ssize_t first = PyBytes_GET_SIZE(mutations)
    cdef Py_ssize_t second = PyBytes_GET_SIZE(decided)
    cdef Py_ssize_t end = HEAD + 4 + first + second
    cdef Py_ssize_t padding = -end & 7
    cdef bytes raw = PyBytes_FromStringAndSize(NULL, end + padding)
    cdef char *at = PyBytes_AS_STRING(raw)
    cdef unsigned long long head = magic | <unsigned long long> (4 + first + second) << 32
    put_u64(at, head)
    put_u64(at + 16, version)
    put_u64(at + 24, synced_version)
    put_u64(at + 32, boot_id)
    put_u64(at + 40, client_id)
    put_u64(at + 48, commit_id)
    put_u32(at + HEAD, <unsigned long long> first)
    memcpy(at + HEAD + 4, PyBytes_AS_STRING(mutations), <size_t> first)
    memcpy(at + HEAD + 4 + first, PyBytes_AS_STRING(decided), <size_t> second)
    memset(at + end, 0, <size_t> padding)
    put_u64(at + 8, XXH3_64bits_withSeed(at + CHECKED_FROM, <size_t> (end - CHECKED_FROM), 0) ^ head)
    return raw


# The fields of the whole record at ``offset``, which is 0 or more; None if there is none.
cdef inline tuple whole_record(bytes data, Py_ssize_t offset, unsigned long long magic):
    cdef Py_ssize_t left = PyBytes_GET_SIZE(data) - offset, end, first
    cdef const unsigned char *at = <const unsigned char *> PyBytes_AS_STRING(data) + offset
    cdef unsigned long long head
    if offset < 0 or left < HEAD + 4:
        return None
    head = get_u64(at)
    end = HEAD + <Py_ssize_t> (head >> 32)
    if (head & <unsigned long long> 0xFFFFFFFF) != magic or end > left or end < HEAD + 4:
        return None
    if XXH3_64bits_withSeed(at + CHECKED_FROM, <size_t> (end - CHECKED_FROM), 0) ^ head != get_u64(at + 8):
        return None
    first = HEAD + 4 + <Py_ssize_t> get_u32(at + HEAD)
    if first > end:
        return None
    return (
        get_u64(at + 16), get_u64(at + 24), get_u64(at + 32), get_u64(at + 40), get_u64(at + 48),
        PyBytes_FromStringAndSize(<const char *> at + HEAD + 4, first - HEAD - 4),
        PyBytes_FromStringAndSize(<const char *> at + first, end - first),
    )
