cimport cython


cpdef bytes canonical(value)
cpdef bytes event_hash(str chain, sequence, event_type, payload, timestamp, prev_hash)
cdef _settle(value, int depth)
