# C types of ``snapshots.py``.
cimport cython

cdef long long _AT_WORK
cdef unsigned long long MAX_SNAPSHOTS_PER_PROCESS, SLOTS_WORD_USED, W_HORIZON, W_PUBLISHED

@cython.locals(horizon=cython.ulonglong)
cpdef object verify(const unsigned long long[::1] words, unsigned long long snapshot)


cdef class SnapshotPage:
    cdef unsigned long long[::1] _slots

    cpdef object note_work(self, unsigned long long at_work)
    @cython.locals(used=cython.ulonglong, words=list)
    cpdef list pinned(self)
