cdef class WorkingPlace:
    cdef readonly object path
    cdef bytes _found_at
    cdef object _directory

    cpdef bint was_moved(self) except -1
