# A value from msgpack, in one walk over its bytes, where it has a usual form; all else is left to msgpack.
#
# The bytes may be those of another process: ``at`` never passes ``end``, and lists grow only as elements are found.
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.float cimport PyFloat_FromDouble
from libc.string cimport memcpy

from bytes_out cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

cdef extern from "Python.h":
    object PyUnicode_DecodeUTF8(const char *at, Py_ssize_t size, const char *errors)

cdef enum:
    MOST_DEPTH = 16
    NIL = 0xC0

cdef struct Cursor:
    const unsigned char *at
    const unsigned char *end


# Take a big-endian number of ``width`` bytes; -1 if there are not so many.
cdef inline long long take_number(Cursor *cursor, int width) noexcept nogil:
    cdef long long value = 0
    cdef int i
    if cursor.end - cursor.at < width:
        return -1
    for i in range(width):
        value = value << 8 | cursor.at[i]
    cursor.at += width
    return value


# Take the header of bytes, all of which must be there: their length, -1 for anything else.
cdef inline Py_ssize_t take_bytes_length(Cursor *cursor) noexcept nogil:
    cdef int tag
    cdef long long length
    if cursor.at >= cursor.end:
        return -1
    tag = cursor.at[0]
    if not 0xC4 <= tag <= 0xC6:
        return -1
    cursor.at += 1
    length = take_number(cursor, 1 << (tag - 0xC4))
    return <Py_ssize_t> length if 0 <= length <= cursor.end - cursor.at else -1


# Take the header of a text, all of which must be there: its length in bytes, -1 for anything else.
cdef inline Py_ssize_t take_text_length(Cursor *cursor) noexcept nogil:
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
        length = take_number(cursor, 1 << (tag - 0xD9))
    else:
        return -1
    return <Py_ssize_t> length if 0 <= length <= cursor.end - cursor.at else -1


# Take the header of a list: how many elements it says, at most as many as bytes are left; -1 for anything else.
cdef inline Py_ssize_t take_list_length(Cursor *cursor) noexcept nogil:
    cdef int tag
    cdef long long length
    if cursor.at >= cursor.end:
        return -1
    tag = cursor.at[0]
    cursor.at += 1
    if 0x90 <= tag <= 0x9F:
        length = tag & 0x0F
    elif tag == 0xDC or tag == 0xDD:
        length = take_number(cursor, 2 << (tag - 0xDC))
    else:
        return -1
    return <Py_ssize_t> length if 0 <= length <= cursor.end - cursor.at else -1


cdef inline bint is_nil(Cursor *cursor) noexcept nogil:
    return cursor.at < cursor.end and cursor.at[0] == NIL


cdef inline bytes take_bytes(Cursor *cursor, Py_ssize_t length):
    cdef bytes taken = PyBytes_FromStringAndSize(<const char *> cursor.at, length)
    cursor.at += length
    return taken


# A text; NotImplemented for anything else.
cdef inline object take_text(Cursor *cursor):
    cdef Py_ssize_t length = take_text_length(cursor)
    if length < 0:
        return NotImplemented
    cursor.at += length
    try:
        return PyUnicode_DecodeUTF8(<const char *> cursor.at - length, length, NULL)
    except UnicodeDecodeError:
        return NotImplemented


# A value; NotImplemented for bytes that are none, and for what is left to msgpack: extensions, floats of 32 bits, maps
# with other keys than texts, deep nesting.
cdef inline object take_value(Cursor *cursor, int depth):
    cdef int tag, width
    cdef Py_ssize_t length, i
    cdef unsigned long long number
    cdef double real
    cdef list items
    cdef dict pairs
    if cursor.at >= cursor.end:
        return NotImplemented
    tag = cursor.at[0]
    if tag <= 0x7F or tag >= 0xE0:
        cursor.at += 1
        return tag if tag <= 0x7F else tag - 0x100
    if 0xC4 <= tag <= 0xC6:
        length = take_bytes_length(cursor)
        return take_bytes(cursor, length) if length >= 0 else NotImplemented
    if 0xA0 <= tag <= 0xBF or 0xD9 <= tag <= 0xDB:
        return take_text(cursor)
    if 0x90 <= tag <= 0x9F or tag == 0xDC or tag == 0xDD:
        length = take_list_length(cursor)
        if length < 0 or depth >= MOST_DEPTH:
            return NotImplemented
        items = []
        for i in range(length):
            item = take_value(cursor, depth + 1)
            if item is NotImplemented:
                return NotImplemented
            items.append(item)
        return items
    if 0x80 <= tag <= 0x8F or tag == 0xDE or tag == 0xDF:
        cursor.at += 1
        length = tag & 0x0F if tag <= 0x8F else <Py_ssize_t> take_number(cursor, 2 << (tag - 0xDE))
        if not 0 <= length <= cursor.end - cursor.at or depth >= MOST_DEPTH:
            return NotImplemented
        pairs = {}
        for i in range(length):
            tag = cursor.at[0] if cursor.at < cursor.end else 0
            if not (0xA0 <= tag <= 0xBF or 0xD9 <= tag <= 0xDB):
                return NotImplemented
            key = take_value(cursor, depth + 1)
            item = NotImplemented if key is NotImplemented else take_value(cursor, depth + 1)
            if item is NotImplemented:
                return NotImplemented
            pairs[intern(key)] = item
        return pairs
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


# The value whose msgpack is ``raw``; NotImplemented for what is left to msgpack.
cdef inline object usual_unpacked(bytes raw):
    cdef Cursor cursor
    cursor.at = <const unsigned char *> PyBytes_AS_STRING(raw)
    cursor.end = cursor.at + PyBytes_GET_SIZE(raw)
    value = take_value(&cursor, 0)
    return value if cursor.at == cursor.end else NotImplemented
