cimport cython

from shoal.shm.memory.snapshots cimport SnapshotPage
from shoal.shm.wire.frames cimport FrameBuffer
from shoal.shm.wire.request cimport decode_request


cdef class Client:
    cdef public object _host
    cdef readonly object client_id, pid
    cdef readonly SnapshotPage page
    cdef readonly FrameBuffer buffer
    cdef readonly int request_fd, answer_fd
    cdef public object database_id, depth, pipeline, comes_back, last_group, was_back
    cdef public bytes backlog
    cdef public object wrote_s, in_loop, waits

    cpdef bytes receive(self)
    @cython.locals(requests=list, refused=list, message=bytes)
    cpdef tuple requests(self, bytes data, known)
    @cython.locals(written=Py_ssize_t)
    cpdef bint send(self, bytes data) except -1
    cpdef bint flush(self) except -1
