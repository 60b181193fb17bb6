cimport cython

cpdef bytes encode_record(version, synced_version, boot_id, client_id, commit_id, bytes mutations, bytes decided)
@cython.locals(fields=tuple, length=Py_ssize_t, start=Py_ssize_t, end=Py_ssize_t, split=Py_ssize_t)
cpdef decode_record(bytes data, Py_ssize_t offset)
cdef Py_ssize_t _padded(Py_ssize_t end)
@cython.locals(writes=list, outcomes=list, results=list)
cpdef decode_commit(record, long long format_version=*)
