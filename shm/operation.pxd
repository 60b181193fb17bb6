cpdef one_write(key, value, expires_ms, result)
