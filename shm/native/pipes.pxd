# Pipes and epoll for descriptors that do not block, and the clock: what ``shm/host`` and ``shm/wire`` call in C.
# Reading and writing keep the interpreter's lock, because they do not wait; the other calls release it.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport read, write

cdef extern from "sched.h" nogil:
    int sched_yield()

cdef extern from "epoll.h" nogil:
    struct shoal_event:
        uint32_t events
        int fd
    int shoal_epoll_wait(int epoll_fd, shoal_event *found, int most, int timeout_ms)

cdef enum:
    EVENTS = 64  # as many as are taken at a time; the others come with the next call
    STACK_BYTES = 32 * 1024  # as many as are read at a time, unless a large message is under way


# As ``time.perf_counter`` on Linux.
cdef inline double now_s() noexcept nogil:
    cdef timespec at
    clock_gettime(CLOCK_MONOTONIC, &at)
    return <double> at.tv_sec + <double> at.tv_nsec * 1e-9


# Run the handlers of signals that have come. Plain Python does that between its steps, compiled code only here.
cdef inline int handle_signals() except -1:
    return PyErr_CheckSignals()


# As ``os.sched_yield``. Signal handlers run then, as between two steps of Python, and may raise.
cdef inline int offer_processor() except -1:
    with nogil:
        sched_yield()
    return PyErr_CheckSignals()


# As ``os.read``, but None if there is nothing to read now.
cdef inline bytes read_some(int fd, Py_ssize_t n_bytes):
    cdef char on_stack[STACK_BYTES]
    cdef bytes made = None
    cdef char *to = on_stack
    cdef Py_ssize_t got
    if n_bytes > STACK_BYTES:
        made = PyBytes_FromStringAndSize(NULL, n_bytes)
        to = PyBytes_AS_STRING(made)
    while True:
        got = read(fd, to, <size_t> n_bytes)
        if got >= 0:
            return made if got == n_bytes and made is not None else PyBytes_FromStringAndSize(to, got)
        if errno == EAGAIN:
            return None
        if errno != EINTR:
            PyErr_SetFromErrno(OSError)
        PyErr_CheckSignals()


# As ``os.write`` of ``data`` from the byte ``begin`` on, but 0 if there is no room now.
cdef inline Py_ssize_t write_some(int fd, bytes data, Py_ssize_t begin) except -1:
    cdef Py_ssize_t n_bytes
    while True:
        n_bytes = write(fd, PyBytes_AS_STRING(data) + begin, <size_t> (PyBytes_GET_SIZE(data) - begin))
        if n_bytes >= 0:
            return n_bytes
        if errno == EAGAIN:
            return 0
        if errno != EINTR:
            PyErr_SetFromErrno(OSError)
        PyErr_CheckSignals()


# As ``select.epoll.poll``: [(descriptor, events)]. It may return before its time, and then finds nothing.
cdef inline list poll_events(int epoll_fd, int timeout_ms):
    cdef shoal_event found[EVENTS]
    cdef int n, i
    with nogil:
        n = shoal_epoll_wait(epoll_fd, found, EVENTS, timeout_ms)
    if n < 0 and errno != EINTR:
        PyErr_SetFromErrno(OSError)
    PyErr_CheckSignals()  # also without EINTR: a loop of compiled calls runs signal handlers here and nowhere else
    return [(found[i].fd, found[i].events) for i in range(n)]
