# The record of a task of a queue, its numbers first: "<qBqIIqqHHHH" of ``struct``, and "<qqqq" of one that is claimed.
# ``primitives.rules.queues.task_record`` has the format, and checks the numbers.
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memcpy

from bytes_out cimport PyBytes_AS_STRING, PyBytes_GET_SIZE, get_u32, get_u64, put_u32, put_u64

cdef enum:
    NUMBERS_BYTES = 49
    CLAIM_BYTES = 32
    NOTHING = 0xFFFF  # the length of what is not there


# A number of a record, from byte ``at`` on; the caller has made sure that the record is long enough.
cdef inline long long word_at(bytes raw, Py_ssize_t at):
    return <long long> get_u64(<const unsigned char *> PyBytes_AS_STRING(raw) + at)


cdef inline long long half_word_at(bytes raw, Py_ssize_t at):
    return <long long> get_u32(<const unsigned char *> PyBytes_AS_STRING(raw) + at)


cdef inline Py_ssize_t length_at(bytes raw, Py_ssize_t at):
    cdef const unsigned char *start = <const unsigned char *> PyBytes_AS_STRING(raw) + at
    return start[0] | start[1] << 8


cdef inline int byte_at(bytes raw, Py_ssize_t at):
    return (<const unsigned char *> PyBytes_AS_STRING(raw))[at]


cdef inline Py_ssize_t part_bytes(bytes part):
    return 0 if part is None else PyBytes_GET_SIZE(part)


cdef inline char *_put_part(char *at, char *length_at, bytes part):
    cdef Py_ssize_t length = NOTHING if part is None else PyBytes_GET_SIZE(part)
    length_at[0] = <char> (length & 0xFF)
    length_at[1] = <char> (length >> 8)
    if part is None:
        return at
    memcpy(at, PyBytes_AS_STRING(part), length)
    return at + length


# A record; the numbers are in their bounds, and no part is as long as NOTHING.
cdef inline bytes packed_task(
    long long sequence, int status, long long priority, unsigned long long attempt, unsigned long long max_attempts,
    long long created_ms, long long due_ms, bint is_claimed, long long token, long long holder, long long ticket,
    long long pid, bytes payload, bytes result, bytes error, bytes key,
):
    cdef Py_ssize_t head = NUMBERS_BYTES + (CLAIM_BYTES if is_claimed else 0)
    cdef Py_ssize_t size = head + part_bytes(payload) + part_bytes(result) + part_bytes(error) + part_bytes(key)
    cdef bytes raw = PyBytes_FromStringAndSize(NULL, size)
    cdef char *out = PyBytes_AS_STRING(raw)
    cdef char *at = out + head
    put_u64(out, <unsigned long long> sequence)
    out[8] = <char> status
    put_u64(out + 9, <unsigned long long> priority)
    put_u32(out + 17, attempt)
    put_u32(out + 21, max_attempts)
    put_u64(out + 25, <unsigned long long> created_ms)
    put_u64(out + 33, <unsigned long long> due_ms)
    if is_claimed:
        put_u64(out + NUMBERS_BYTES, <unsigned long long> token)
        put_u64(out + NUMBERS_BYTES + 8, <unsigned long long> holder)
        put_u64(out + NUMBERS_BYTES + 16, <unsigned long long> ticket)
        put_u64(out + NUMBERS_BYTES + 24, <unsigned long long> pid)
    at = _put_part(at, out + 41, payload)
    at = _put_part(at, out + 43, result)
    at = _put_part(at, out + 45, error)
    _put_part(at, out + 47, key)
    return raw


# An entry: two numbers, big-endian, and an id.
cdef inline void _put_big(char *at, unsigned long long value) noexcept nogil:
    cdef int i
    for i in range(8):
        at[i] = <char> ((value >> 8 * (7 - i)) & 0xFF)


cdef inline bytes packed_entry(unsigned long long order, unsigned long long sequence, bytes task_id):
    cdef Py_ssize_t length = PyBytes_GET_SIZE(task_id)
    cdef bytes raw = PyBytes_FromStringAndSize(NULL, 16 + length)
    cdef char *out = PyBytes_AS_STRING(raw)
    _put_big(out, order)
    _put_big(out + 8, sequence)
    memcpy(out + 16, PyBytes_AS_STRING(task_id), length)
    return raw


# The same of a ready task: those of a higher priority first. No priority is -2**63.
cdef inline bytes packed_ready(long long priority, long long sequence, bytes task_id):
    return packed_entry(<unsigned long long> 0x7FFFFFFFFFFFFFFF - <unsigned long long> priority, <unsigned long long> sequence, task_id)
