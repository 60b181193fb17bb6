# C types of ``transaction.py``.
from shoal.shm.key_location_cache cimport KeyLocationCache
from shoal.shm.memory.reader cimport Reader


cdef class EngineTransaction:
    cdef object __weakref__
    cdef readonly str _ended
    cdef readonly bint read_only
    cdef readonly unsigned long long snapshot
    cdef readonly object attachment, version
    cdef Reader _reader
    cdef dict _keys_read, _writes
    cdef list _ranges_read, _clears, _required, _deferred, _committed
    cdef object _connection, _slot
    cdef unsigned long long _valid_until_ms

    cpdef bytes get_named(self, KeyLocationCache cache, name)
    cpdef object find(self, bytes key)
    cpdef put(self, bytes key, bytes value, expires_ms=*)
    cpdef delete(self, bytes key)
    cpdef commit(self)
    cpdef tuple _encoded(self)
    cpdef abandon(self)
    cpdef _end(self, str how)
    cpdef _write(self, write)
    cpdef _check_writable(self)
    cpdef _refuse_use(self)
    cpdef _note_expiry(self, unsigned long long expires_ms)

cdef _as_read(write)
cdef list _as_pair(write)
