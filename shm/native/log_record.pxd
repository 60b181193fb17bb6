# A record of the write-ahead log as bytes, checksum and padding included (``coordinator/log/format.py`` has the format).
from libc.string cimport memcpy, memset

from bytes_out cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, put_u32, put_u64
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
