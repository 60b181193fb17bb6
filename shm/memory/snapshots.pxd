# C types of ``snapshots.py``.
cimport cython

cdef unsigned long long W_HORIZON, W_PUBLISHED

@cython.locals(horizon=cython.ulonglong)
cpdef object verify(const unsigned long long[::1] words, unsigned long long snapshot)
