cimport cython


cdef class ConflictWindow:
    cdef public object floor, _tombstones, _cleared
    cdef public dict _latest, _swept
    cdef public set _sweeps
    cdef public list _versions, _keys, _new_clears

    cpdef add_write(self, version, bytes key)
    @cython.locals(latest=dict)
    cpdef add_writes(self, version, list keys)
    cpdef written_since(self, bytes key, snapshot, bint sweeps=*)
    @cython.locals(keys=list, first=Py_ssize_t)
    cpdef written_in(self, list ranges, snapshot, bint sweeps=*)
    cdef _range_tombstones(self)


@cython.locals(lowers=list, uppers=list, at=Py_ssize_t, after=Py_ssize_t, key=bytes, lower=bytes, upper=bytes)
cdef _first_within(list keys, Py_ssize_t first, list ranges)
