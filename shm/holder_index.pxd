cimport cython

cpdef bytes entry_key(holder, bytes held_key)
cpdef bytes entries_of(holder)
cpdef tuple decode_key(bytes key)
cpdef decode_ttl_ms(bytes value)
