from shoal.coordinator.memory.writer cimport Writer


cpdef read_newest(Writer writer, key, now_ms, nodes=*)
