from shoal.shm.operation cimport one_write


cpdef decode_record(raw)
cdef bytes _encoded(version, updated_at, value)
cdef _last(read, key)
cdef _changed(key, last, now_ms, value)
cdef _write(key, version, now_ms, last, value, result)
