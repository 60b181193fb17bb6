cpdef read_newest(writer, key, now_ms, nodes=*)
