cimport cython

from shoal.shm.host.waiting cimport Lookout

@cython.locals(written=Py_ssize_t)
cpdef write_all(int fd, bytes data, double give_up_s=*)
cpdef wait_ready(poller, double give_up_s)
cpdef bytes read_message(int fd, poller, buffer, list ready, Lookout lookout, double look_s, double give_up_s=*, double keep_s=*)
