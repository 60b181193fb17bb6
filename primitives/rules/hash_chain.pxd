cimport cython


cpdef bytes canonical(value)
cpdef bytes event_hash(str chain, sequence, event_type, payload, timestamp, prev_hash)
@cython.locals(in_order=bint, last=str)
cdef dict _flat(dict value)
cdef _settle(value, int depth)
