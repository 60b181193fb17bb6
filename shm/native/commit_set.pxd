# A request in its usual form, parsed in one walk over its bytes (``shm/wire/request.py`` has the format and the rules).
#
# ``usual_request`` and ``usual_mutations`` return None for every form that is not the usual one, right or wrong: then the
# caller asks msgpack and checks what that returns. What they do return is what the caller would have come to.
# The bytes came from another process: see ``unpacked.pxd``.
from cpython.bytes cimport PyBytes_FromStringAndSize

from bytes_out cimport PyBytes_AS_STRING, PyBytes_GET_SIZE, get_u32, get_u64
from unpacked cimport (
    Cursor, is_nil, take_bytes, take_bytes_length, take_list_length, take_text, take_value
)

cdef enum:
    HEADER = 28

# The caller's limits, in bytes. In more bytes than ``nested`` lists must be counted, which is not done here.
cdef struct Most:
    Py_ssize_t key
    Py_ssize_t value
    Py_ssize_t nested


# A key of 1 byte up to the limit; None for anything else.
cdef inline bytes _key(Cursor *cursor, Most *most):
    cdef Py_ssize_t length = take_bytes_length(cursor)
    return take_bytes(cursor, length) if 1 <= length <= most.key else None


# [key, value or nil, expiry, key, ...]; None for any other form, and for a key that stands there twice.
cdef inline list _writes(Cursor *cursor, Most *most):
    cdef Py_ssize_t count = take_list_length(cursor), length, i
    cdef list writes
    cdef set keys = None
    cdef bytes key
    cdef object value, expires_ms
    cdef int tag
    cdef unsigned long long number
    if count < 0 or count % 3:
        return None
    writes = []
    if count > 3:
        keys = set()
    for i in range(count // 3):
        key = _key(cursor, most)
        if key is None:
            return None
        if is_nil(cursor):
            cursor.at += 1
            value = None
        else:
            length = take_bytes_length(cursor)
            if not 0 <= length <= most.value:
                return None
            value = take_bytes(cursor, length)
        if cursor.at >= cursor.end:
            return None
        tag = cursor.at[0]
        if tag <= 0x7F:
            cursor.at += 1
            expires_ms = tag
        elif 0xCC <= tag <= 0xCF:
            expires_ms = take_value(cursor, 0)
            if expires_ms is NotImplemented:
                return None
            number = expires_ms
            if number >> 63:
                return None
        else:
            return None
        writes.append(key)
        writes.append(value)
        writes.append(expires_ms)
        if keys is not None:
            keys.add(key)
    return None if keys is not None and len(keys) * 3 != count else writes


# [[name, [key, ...]], ...]; None for any other form.
cdef inline list _operations(Cursor *cursor, Most *most):
    cdef Py_ssize_t count = take_list_length(cursor), more, i
    cdef list operations, arguments
    cdef object argument
    if count < 0:
        return None
    operations = []
    for i in range(count):
        if take_list_length(cursor) != 2:
            return None
        name = take_text(cursor)
        if name is NotImplemented:
            return None
        more = take_list_length(cursor) - 1
        argument = _key(cursor, most) if more >= 0 else None
        if argument is None:
            return None
        arguments = [argument]
        while more:
            argument = take_value(cursor, 0)
            if argument is NotImplemented:
                return None
            arguments.append(argument)
            more -= 1
        operations.append([name, arguments])
    return operations


# (writes, clears, operations, control) of mutations without clears; None for any other form.
cdef inline tuple _mutations(Cursor *cursor, Most *most):
    cdef list writes, operations
    cdef object name, arguments
    cdef Py_ssize_t size = cursor.end - cursor.at
    if take_list_length(cursor) != 4:
        return None
    writes = _writes(cursor, most)
    if writes is None or not is_nil(cursor):
        return None
    cursor.at += 1
    if is_nil(cursor):
        cursor.at += 1
        operations = []
    else:
        operations = _operations(cursor, most) if size <= most.nested else None
    if operations is None:
        return None
    if is_nil(cursor):
        return (writes, [], operations, None) if cursor.end - cursor.at == 1 else None
    if size > most.nested or take_list_length(cursor) != 2:
        return None
    name = take_text(cursor)
    if name is NotImplemented:
        return None
    arguments = take_value(cursor, 0)
    if arguments is NotImplemented or cursor.at != cursor.end:
        return None
    return writes, [], operations, (name, arguments)


cdef inline tuple usual_mutations(bytes mutations, Py_ssize_t most_key, Py_ssize_t most_value, Py_ssize_t most_nested):
    cdef Cursor cursor
    cdef Most most
    most.key, most.value, most.nested = most_key, most_value, most_nested
    cursor.at = <const unsigned char *> PyBytes_AS_STRING(mutations)
    cursor.end = cursor.at + PyBytes_GET_SIZE(mutations)
    return _mutations(&cursor, &most)


# The keys and ranges that were read, put into the two lists; False for any other form.
cdef inline bint _reads(Cursor *cursor, Most *most, list keys, list ranges) except -1:
    cdef Py_ssize_t count, length, i
    cdef bytes key, lower
    if cursor.end - cursor.at > most.nested or take_list_length(cursor) != 2:
        return False
    count = take_list_length(cursor)
    if count < 0:
        return False
    for i in range(count):
        key = _key(cursor, most)
        if key is None:
            return False
        keys.append(key)
    count = take_list_length(cursor)
    if count < 0:
        return False
    for i in range(count):
        if take_list_length(cursor) != 2:
            return False
        length = take_bytes_length(cursor)
        if not 0 <= length <= most.key:
            return False
        lower = take_bytes(cursor, length)
        length = take_bytes_length(cursor)
        if not 0 <= length <= most.key:
            return False
        ranges.append((lower, take_bytes(cursor, length)))
    return cursor.at == cursor.end


# The fields of a ``CommitSet``; None if the request has any other form.
cdef inline tuple usual_request(bytes message, Py_ssize_t most_key, Py_ssize_t most_value, Py_ssize_t most_nested):
    cdef const unsigned char *start = <const unsigned char *> PyBytes_AS_STRING(message)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
    cdef Py_ssize_t reads
    cdef Cursor cursor
    cdef Most most
    cdef list keys_read = [], ranges_read = []
    cdef tuple parts
    cdef bytes mutations
    if size < HEADER:
        return None
    reads = <Py_ssize_t> get_u32(start + 24)
    if reads > size - HEADER:
        return None
    most.key, most.value, most.nested = most_key, most_value, most_nested
    cursor.at = start + HEADER
    cursor.end = cursor.at + reads
    if reads and not _reads(&cursor, &most, keys_read, ranges_read):
        return None
    cursor.at = start + HEADER + reads
    cursor.end = start + size
    mutations = PyBytes_FromStringAndSize(<const char *> cursor.at, cursor.end - cursor.at)
    parts = _mutations(&cursor, &most)
    if parts is None:
        return None
    return (
        get_u64(start), get_u64(start + 8), get_u64(start + 16), keys_read, ranges_read,
        parts[0], parts[1], parts[2], parts[3], mutations,
    )
