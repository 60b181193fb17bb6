cimport cython

from shoal.coordinator.commit.engine cimport CommitEngine
from shoal.coordinator.server.clients cimport Client
from shoal.coordinator.server.group cimport Group
from shoal.coordinator.server.maintenance cimport Maintenance
from shoal.shm.files.store_place cimport WorkingPlace
from shoal.shm.host.waiting cimport Lookout


cdef class Server:
    cdef public object _writer, _control_requests, _meta, _idle_timeout_s, _keep_files, _limits, _host, _monotonic_s
    cdef public CommitEngine _engine
    cdef public Maintenance _maintenance
    cdef public WorkingPlace _place
    cdef public object _group_delay, _epoll, _poll, _processes, _control, _turns
    cdef public dict _clients, _answer_fds
    cdef public Lookout _lookout
    cdef public double _maintain_every_s, _spin_s, _crowded_spin_s, _alone_since_s, _maintained_at_s, _look_until_s
    cdef public bint _had_clients
    cdef public int _wake_fd
    cdef readonly int wake_write_fd
    cdef public bint stopping

    @cython.locals(
        group=Group, events=list, client=Client, fd=object, other=tuple, finishing_s=double, read_s=double, busy=bint,
        now_s=double,
    )
    cpdef _turn(self)
    @cython.locals(client=Client, answer=bytes)
    cdef _send_all(self, list answers)
    cpdef list _submit_together(self, list requests)
    cdef bint _was_moved(self) except -1
    @cython.locals(look_s=double, keep_s=double, only=Client)
    cdef list _wait(self, Group group)
    @cython.locals(data=bytes)
    cdef _read(self, Client client, Group group)
    @cython.locals(requests=list, messages=list, is_sound=bint)
    cdef _take_in(self, Client client, bytes data, Group group)
    cdef _send(self, Client client, bytes data)
    cdef _flush(self, Client client)
    cdef bint _is_idle(self) except -1
