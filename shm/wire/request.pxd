cimport cython

@cython.locals(usual=tuple)
cpdef decode_request(bytes message, known)
@cython.locals(usual=tuple)
cpdef decode_mutations(bytes mutations)
cdef _check_known(list operations, known)
cpdef check_writes(writes)
