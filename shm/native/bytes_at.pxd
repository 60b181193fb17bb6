# Bytes of a segment in C, where plain Python takes slices of its ``mmap``. Each is as safe as a slice: what would lie
# outside the segment is left out, or is IndexError where it is written. What writes ends with a release fence: the store
# that links what was written comes after it.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF
from libc.string cimport memcmp, memcpy
from order cimport fence_release


cdef inline unsigned long long _inside(
    const unsigned long long[::1] words, unsigned long long start, unsigned long long length
) noexcept nogil:
    """How many of ``length`` bytes from byte ``start`` on are in the segment."""
    cdef unsigned long long size = <unsigned long long> words.shape[0] * 8
    if start >= size:
        return 0
    return length if length <= size - start else size - start


# As ``mm[start : start + length]``.
cdef inline bytes copied(const unsigned long long[::1] words, unsigned long long start, unsigned long long length):
    length = _inside(words, start, length)
    if length == 0:
        return b""
    return PyBytes_FromStringAndSize(<const char *> &words[0] + start, <Py_ssize_t> length)


# As ``mm[start : start + len(key)] == key``.
cdef inline bint equal(const unsigned long long[::1] words, unsigned long long start, bytes key):
    cdef unsigned long long length = <unsigned long long> PyBytes_GET_SIZE(key)
    if _inside(words, start, length) != length:
        return False
    return length == 0 or memcmp(<const char *> &words[0] + start, PyBytes_AS_STRING(key), length) == 0


# As ``mm[start : start + length] < key``, the bytes compared without a sign.
cdef inline bint less(
    const unsigned long long[::1] words, unsigned long long start, unsigned long long length, bytes key
):
    cdef unsigned long long key_length = <unsigned long long> PyBytes_GET_SIZE(key)
    cdef unsigned long long shorter
    cdef int order = 0
    length = _inside(words, start, length)
    shorter = length if length < key_length else key_length
    if shorter:
        order = memcmp(<const char *> &words[0] + start, PyBytes_AS_STRING(key), shorter)
    return order < 0 or (order == 0 and length < key_length)


# As ``words[start : start + count].tolist()``.
cdef inline list listed(const unsigned long long[::1] words, unsigned long long start, unsigned long long count):
    cdef unsigned long long size = <unsigned long long> words.shape[0]
    cdef list found
    cdef Py_ssize_t at
    cdef object word
    if start >= size:
        return []
    if count > size - start:
        count = size - start
    found = PyList_New(<Py_ssize_t> count)
    for at in range(<Py_ssize_t> count):
        word = words[start + at]
        Py_INCREF(word)
        PyList_SET_ITEM(found, at, word)
    return found


# ``mm[start : start + len(content)] = content``; IndexError if that is not in the segment.
cdef inline int write_bytes(unsigned char[::1] mm, unsigned long long start, bytes content) except -1:
    cdef unsigned long long length = <unsigned long long> PyBytes_GET_SIZE(content)
    cdef unsigned long long size = <unsigned long long> mm.shape[0]
    if start > size or length > size - start:
        raise IndexError("bytes outside the segment")
    if length:
        memcpy(&mm[start], PyBytes_AS_STRING(content), length)
    fence_release()
    return 0


# ``words[start : start + len(content)] = content``; IndexError if that is not in the segment.
cdef inline int write_words(unsigned long long[::1] words, unsigned long long start, list content) except -1:
    cdef unsigned long long size = <unsigned long long> words.shape[0]
    cdef Py_ssize_t at, count = len(content)
    if start > size or <unsigned long long> count > size - start:
        raise IndexError("words outside the segment")
    for at in range(count):
        words[start + at] = content[at]
    fence_release()
    return 0


# As ``struct.Struct("<QQ").pack_into``, and so on for three and four words. ``start`` is a multiple of 8.
cdef inline unsigned long long *_words_at(
    unsigned char[::1] mm, unsigned long long start, unsigned long long n_bytes
) except NULL:
    cdef unsigned long long size = <unsigned long long> mm.shape[0]
    if start > size or n_bytes > size - start:
        raise IndexError("words outside the segment")
    return <unsigned long long *> &mm[start]


cdef inline int pack_two(
    unsigned char[::1] mm, unsigned long long start, unsigned long long first, unsigned long long second
) except -1:
    cdef unsigned long long *words = _words_at(mm, start, 16)
    words[0] = first
    words[1] = second
    fence_release()
    return 0


cdef inline int pack_three(
    unsigned char[::1] mm,
    unsigned long long start,
    unsigned long long first,
    unsigned long long second,
    unsigned long long third,
) except -1:
    cdef unsigned long long *words = _words_at(mm, start, 24)
    words[0] = first
    words[1] = second
    words[2] = third
    fence_release()
    return 0


cdef inline int pack_four(
    unsigned char[::1] mm,
    unsigned long long start,
    unsigned long long first,
    unsigned long long second,
    unsigned long long third,
    unsigned long long fourth,
) except -1:
    cdef unsigned long long *words = _words_at(mm, start, 32)
    words[0] = first
    words[1] = second
    words[2] = third
    words[3] = fourth
    fence_release()
    return 0
