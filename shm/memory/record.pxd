cimport cython

@cython.locals(digest=cython.ulonglong, bucket=cython.ulonglong, i=cython.ulonglong, first=cython.ulonglong, node=cython.ulonglong, start=cython.ulonglong)
cpdef unsigned long long find_node(const unsigned long long[::1] words, object mm, unsigned long long seed, bytes key) except? -1
