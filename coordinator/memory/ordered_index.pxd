# C types of ``ordered_index.py``.
cimport cython

from shoal.coordinator.memory.heap cimport Heap

cdef long long INDEX_ENTRIES, W_ORDER_ROOT
cdef unsigned long long NODE_KEY_BYTE, NODE_KEY_LENGTH
cdef Py_ssize_t _RECENT_NODES


cdef class _Branch:
    cdef public list fences
    cdef public list leaves
    cdef public unsigned long long reference


cdef class OrderedIndex:
    cdef object _segment
    cdef unsigned long long[::1] _words
    cdef Heap _heap
    cdef readonly Py_ssize_t _leaf_entries
    cdef readonly Py_ssize_t _branch_entries
    cdef readonly Py_ssize_t leaf_words
    cdef list _fences
    cdef readonly list branches
    cdef unsigned long long _root
    cdef readonly long long leaf_count
    cdef readonly list replaced
    cdef set _recent
    cdef Py_ssize_t _changed

    @cython.locals(position=cython.Py_ssize_t, appended=cython.Py_ssize_t, branch=_Branch)
    cpdef object insert(self, list keys)
    @cython.locals(branch=_Branch, branch_at=cython.Py_ssize_t, leaf_at=cython.Py_ssize_t)
    cpdef tuple _locate(self, bytes key)
    cpdef tuple _turn_to(self, bytes key)
    cpdef object _write_changed(self)
    @cython.locals(first=cython.ulonglong)
    cpdef list _entries(self, unsigned long long node)
    @cython.locals(
        entries=list, old_count=cython.Py_ssize_t, at_end=cython.bint, continues=cython.bint, low=cython.Py_ssize_t,
        last=cython.Py_ssize_t, key=bytes, parts=list,
    )
    cpdef Py_ssize_t _merge(
        self, Py_ssize_t branch_at, Py_ssize_t leaf_at, list keys, Py_ssize_t position, bytes end_fence
    ) except -1
    @cython.locals(count=cython.longlong, room=cython.longlong, first=cython.Py_ssize_t, key=bytes)
    cpdef Py_ssize_t _append(
        self, unsigned long long leaf, list keys, Py_ssize_t position, bytes end_fence
    ) except -1
    cpdef object _note(self, object node)
    @cython.locals(high=cython.Py_ssize_t, middle=cython.Py_ssize_t)
    cpdef Py_ssize_t _position(self, list entries, bytes key, Py_ssize_t low) except -1
    @cython.locals(start=cython.ulonglong, length=cython.ulonglong, is_before=cython.bint)
    cdef bint _is_before(self, unsigned long long node, bytes key) except -1
    @cython.locals(node=cython.ulonglong)
    cpdef unsigned long long _write(self, list entries, Py_ssize_t room=*) except? 0
