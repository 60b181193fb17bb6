cimport cython

from shoal.primitives.rules.hash_chain cimport event_hash


cpdef bytes event_key(bytes prefix, sequence)
cpdef bytes type_key(bytes prefix, bytes event_type)


cdef class Appending:
    cdef public object timestamp
    cdef object _read, _metadata
    cdef bytes _metadata_key, _prefix
    cdef dict _heads, _changed
    cdef list _writes, _open
    cdef Py_ssize_t _bytes, _open_bytes

    cpdef list decide(self, _name, list arguments)
    @cython.locals(results=list)
    cpdef list add(self, chain, entries)
    @cython.locals(raw_type=bytes, size=Py_ssize_t, head=list)
    cpdef put(self, sequence, event_type, payload, timestamp, prev_hash, own_hash)
    cdef _close_record(self, last)
    cpdef end(self, sequence, head_hash, chain)
    cdef _check_size(self, Py_ssize_t more_bytes)
    @cython.locals(writes=list, prefix=bytes, raw_type=bytes, head=list)
    cpdef list writes(self)
