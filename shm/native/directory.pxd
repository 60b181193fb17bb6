# The working directory (``shm/files/store_place.py``).
from bytes_out cimport PyBytes_AS_STRING
from libc.string cimport strcmp
from posix.unistd cimport getcwd

cdef enum:
    PATH_BYTES = 4096


# 1 if ``path`` is what ``os.getcwdb`` returns, 0 if it is not; -1 if only ``os.getcwdb`` can tell.
cdef inline int is_working_directory(bytes path) noexcept:
    cdef char found[PATH_BYTES]
    if getcwd(found, PATH_BYTES) == NULL:
        return -1
    return strcmp(found, PyBytes_AS_STRING(path)) == 0
