cimport cython

@cython.locals(usual=tuple)
cpdef decode_request(bytes message, known)
@cython.locals(usual=tuple)
cpdef decode_mutations(bytes mutations)
cdef _check_known(list operations, known)
@cython.locals(at=Py_ssize_t)
cpdef check_writes(writes)
cpdef bytes framed_request(
    unsigned long long commit_id, unsigned long long snapshot, unsigned long long valid_until_ms, bytes reads, bytes mutations
)
cpdef check_size(Py_ssize_t size_bytes)
