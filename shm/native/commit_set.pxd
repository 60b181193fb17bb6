# A request in its usual form, parsed in one walk over its bytes (``shm/wire/request.py`` has the format and the rules).
#
# ``usual_request`` and ``usual_mutations`` return None for every form that is not the usual one, right or wrong: then the
# caller asks msgpack and checks what that returns. What they do return is what the caller would have come to.
# The bytes came from another process: ``at`` never passes ``end``, and lists grow only as elements are found.
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.float cimport PyFloat_FromDouble
from libc.string cimport memcpy

from bytes_out cimport PyBytes_AS_STRING, PyBytes_GET_SIZE, get_u32, get_u64

cdef extern from "Python.h":
    object PyUnicode_DecodeUTF8(const char *at, Py_ssize_t size, const char *errors)

cdef enum:
    HEADER = 28
    MOST_DEPTH = 16
    NIL = 0xC0

cdef struct Cursor:
    const unsigned char *at
    const unsigned char *end
    # The caller's limits, in bytes. In more bytes than ``most_nested`` lists must be counted, which is not done here.
    Py_ssize_t most_key
    Py_ssize_t most_value
    Py_ssize_t most_nested


# Take a big-endian number of ``width`` bytes; -1 if there are not so many.
cdef inline long long _number(Cursor *cursor, int width) noexcept nogil:
    cdef long long value = 0
    cdef int i
    if cursor.end - cursor.at < width:
        return -1
    for i in range(width):
        value = value << 8 | cursor.at[i]
    cursor.at += width
    return value


# Take the header of bytes, all of which must be there: their length, -1 for anything else.
cdef inline Py_ssize_t _bytes_length(Cursor *cursor) noexcept nogil:
    cdef int tag
    cdef long long length
    if cursor.at >= cursor.end:
        return -1
    tag = cursor.at[0]
    if not 0xC4 <= tag <= 0xC6:
        return -1
    cursor.at += 1
    length = _number(cursor, 1 << (tag - 0xC4))
    return <Py_ssize_t> length if 0 <= length <= cursor.end - cursor.at else -1


# Take the header of a text, all of which must be there: its length in bytes, -1 for anything else.
cdef inline Py_ssize_t _text_length(Cursor *cursor) noexcept nogil:
    cdef int tag
    cdef long long length
    if cursor.at >= cursor.end:
        return -1
    tag = cursor.at[0]
    if 0xA0 <= tag <= 0xBF:
        length = tag & 0x1F
        cursor.at += 1
    elif 0xD9 <= tag <= 0xDB:
        cursor.at += 1
        length = _number(cursor, 1 << (tag - 0xD9))
    else:
        return -1
    return <Py_ssize_t> length if 0 <= length <= cursor.end - cursor.at else -1


# Take the header of a list: how many elements it says, at most as many as bytes are left; -1 for anything else.
cdef inline Py_ssize_t _list_length(Cursor *cursor) noexcept nogil:
    cdef int tag
    cdef long long length
    if cursor.at >= cursor.end:
        return -1
    tag = cursor.at[0]
    cursor.at += 1
    if 0x90 <= tag <= 0x9F:
        length = tag & 0x0F
    elif tag == 0xDC or tag == 0xDD:
        length = _number(cursor, 2 << (tag - 0xDC))
    else:
        return -1
    return <Py_ssize_t> length if 0 <= length <= cursor.end - cursor.at else -1


cdef inline bint _is_nil(Cursor *cursor) noexcept nogil:
    return cursor.at < cursor.end and cursor.at[0] == NIL


cdef inline bytes _take(Cursor *cursor, Py_ssize_t length):
    cdef bytes taken = PyBytes_FromStringAndSize(<const char *> cursor.at, length)
    cursor.at += length
    return taken


# A key of 1 byte up to the limit; None for anything else.
cdef inline bytes _key(Cursor *cursor):
    cdef Py_ssize_t length = _bytes_length(cursor)
    return _take(cursor, length) if 1 <= length <= cursor.most_key else None


# Any value but a map, an extension or a float of 32 bits; NotImplemented for these, and for bytes that are no value.
cdef inline object _value(Cursor *cursor, int depth):
    cdef int tag, width
    cdef Py_ssize_t length, i
    cdef unsigned long long number
    cdef double real
    cdef list items
    if cursor.at >= cursor.end:
        return NotImplemented
    tag = cursor.at[0]
    if tag <= 0x7F or tag >= 0xE0:
        cursor.at += 1
        return tag if tag <= 0x7F else tag - 0x100
    if 0xC4 <= tag <= 0xC6:
        length = _bytes_length(cursor)
        return _take(cursor, length) if length >= 0 else NotImplemented
    if 0xA0 <= tag <= 0xBF or 0xD9 <= tag <= 0xDB:
        length = _text_length(cursor)
        if length < 0:
            return NotImplemented
        cursor.at += length
        return PyUnicode_DecodeUTF8(<const char *> cursor.at - length, length, NULL)
    if 0x90 <= tag <= 0x9F or tag == 0xDC or tag == 0xDD:
        length = _list_length(cursor)
        if length < 0 or depth >= MOST_DEPTH:
            return NotImplemented
        items = []
        for i in range(length):
            item = _value(cursor, depth + 1)
            if item is NotImplemented:
                return NotImplemented
            items.append(item)
        return items
    cursor.at += 1
    if tag == NIL:
        return None
    if tag == 0xC2 or tag == 0xC3:
        return tag == 0xC3
    if 0xCB <= tag <= 0xD3:
        width = 8 if tag == 0xCB else 1 << (tag - 0xCC & 3)  # 0xCC to 0xCF without, 0xD0 to 0xD3 with a sign
        if cursor.end - cursor.at < width:
            return NotImplemented
        number = 0
        for i in range(width):
            number = number << 8 | cursor.at[i]
        cursor.at += width
        if tag == 0xCB:
            memcpy(&real, &number, 8)
            return PyFloat_FromDouble(real)
        if tag <= 0xCF:
            return number
        width = 64 - 8 * width
        return <long long> (number << width) >> width
    return NotImplemented


# [key, value or nil, expiry, key, ...]; None for any other form, and for a key that stands there twice.
cdef inline list _writes(Cursor *cursor):
    cdef Py_ssize_t count = _list_length(cursor), length, i
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
        key = _key(cursor)
        if key is None:
            return None
        if _is_nil(cursor):
            cursor.at += 1
            value = None
        else:
            length = _bytes_length(cursor)
            if not 0 <= length <= cursor.most_value:
                return None
            value = _take(cursor, length)
        if cursor.at >= cursor.end:
            return None
        tag = cursor.at[0]
        if tag <= 0x7F:
            cursor.at += 1
            expires_ms = tag
        elif 0xCC <= tag <= 0xCF:
            expires_ms = _value(cursor, 0)
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
cdef inline list _operations(Cursor *cursor):
    cdef Py_ssize_t count = _list_length(cursor), length, more, i
    cdef list operations, arguments
    cdef object argument
    if count < 0:
        return None
    operations = []
    for i in range(count):
        if _list_length(cursor) != 2:
            return None
        length = _text_length(cursor)
        if length < 0:
            return None
        cursor.at += length
        name = PyUnicode_DecodeUTF8(<const char *> cursor.at - length, length, NULL)
        more = _list_length(cursor) - 1
        argument = _key(cursor) if more >= 0 else None
        if argument is None:
            return None
        arguments = [argument]
        while more:
            argument = _value(cursor, 0)
            if argument is NotImplemented:
                return None
            arguments.append(argument)
            more -= 1
        operations.append([name, arguments])
    return operations


# (writes, clears, operations, control) of mutations without clears and control; None for any other form.
cdef inline tuple _mutations(Cursor *cursor):
    cdef list writes, operations
    cdef Py_ssize_t size = cursor.end - cursor.at
    if _list_length(cursor) != 4:
        return None
    writes = _writes(cursor)
    if writes is None or not _is_nil(cursor):
        return None
    cursor.at += 1
    if _is_nil(cursor):
        cursor.at += 1
        operations = []
    else:
        operations = _operations(cursor) if size <= cursor.most_nested else None
    if operations is None or not _is_nil(cursor) or cursor.end - cursor.at != 1:
        return None
    return writes, [], operations, None


cdef inline tuple usual_mutations(bytes mutations, Py_ssize_t most_key, Py_ssize_t most_value, Py_ssize_t most_nested):
    cdef Cursor cursor
    cursor.most_key, cursor.most_value, cursor.most_nested = most_key, most_value, most_nested
    cursor.at = <const unsigned char *> PyBytes_AS_STRING(mutations)
    cursor.end = cursor.at + PyBytes_GET_SIZE(mutations)
    return _mutations(&cursor)


# The keys and ranges that were read, put into the two lists; False for any other form.
cdef inline bint _reads(Cursor *cursor, list keys, list ranges) except -1:
    cdef Py_ssize_t count, length, i
    cdef bytes key, lower
    if cursor.end - cursor.at > cursor.most_nested or _list_length(cursor) != 2:
        return False
    count = _list_length(cursor)
    if count < 0:
        return False
    for i in range(count):
        key = _key(cursor)
        if key is None:
            return False
        keys.append(key)
    count = _list_length(cursor)
    if count < 0:
        return False
    for i in range(count):
        if _list_length(cursor) != 2:
            return False
        length = _bytes_length(cursor)
        if not 0 <= length <= cursor.most_key:
            return False
        lower = _take(cursor, length)
        length = _bytes_length(cursor)
        if not 0 <= length <= cursor.most_key:
            return False
        ranges.append((lower, _take(cursor, length)))
    return cursor.at == cursor.end


# The fields of a ``CommitSet``; None if the request has any other form.
cdef inline tuple usual_request(bytes message, Py_ssize_t most_key, Py_ssize_t most_value, Py_ssize_t most_nested):
    cdef const unsigned char *start = <const unsigned char *> PyBytes_AS_STRING(message)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
    cdef Py_ssize_t reads
    cdef Cursor cursor
    cdef list keys_read = [], ranges_read = []
    cdef tuple parts
    cdef bytes mutations
    if size < HEADER:
        return None
    reads = <Py_ssize_t> get_u32(start + 24)
    if reads > size - HEADER:
        return None
    cursor.most_key, cursor.most_value, cursor.most_nested = most_key, most_value, most_nested
    cursor.at = start + HEADER
    cursor.end = cursor.at + reads
    if reads and not _reads(&cursor, keys_read, ranges_read):
        return None
    cursor.at = start + HEADER + reads
    cursor.end = start + size
    mutations = PyBytes_FromStringAndSize(<const char *> cursor.at, cursor.end - cursor.at)
    parts = _mutations(&cursor)
    if parts is None:
        return None
    return (
        get_u64(start), get_u64(start + 8), get_u64(start + 16), keys_read, ranges_read,
        parts[0], parts[1], parts[2], parts[3], mutations,
    )
