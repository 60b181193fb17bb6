cimport cython

from shoal.coordinator.commit.admission cimport Admission
from shoal.coordinator.commit.apply cimport apply_commit
from shoal.coordinator.commit.batching cimport Batching
from shoal.coordinator.commit.conflict_window cimport ConflictWindow
from shoal.coordinator.memory.writer cimport Plan, Writer
from shoal.shm.wire.answer cimport encode_answer


cdef class CommitEngine:
    cdef public object operations, sessions, version, published
    cdef public Writer _writer
    cdef public object history, _reclaimer, _log, _clock, _limits
    cdef public ConflictWindow _window
    cdef public Admission _admission
    cdef public Batching _batching
    cdef public bint _sync_each_group

    @cython.locals(
        session=tuple, outcome=tuple, writes=list, clears=list, mutations=bytes, decided=bytes, results=list, nodes=dict
    )
    cpdef bytes submit(self, client_id, request, in_line=*)
    @cython.locals(answers=list, batches=dict, members=list, part=list, told=list, i=Py_ssize_t)
    cpdef list submit_together(self, list requests)
    cpdef finish_group(self)
    @cython.locals(writes=list, outcomes=list, plan=Plan)
    cpdef list submit_batch(self, key, list requests, one)
    cdef Plan _commit_own(self, list writes, bytes mutations, bytes decided=*, dict nodes=*, outcomes=*, list clears=*)
    @cython.locals(body_bytes=Py_ssize_t, writer=Writer, plan=Plan)
    cdef Plan _commit(
        self, client_id, commit_id, list clears, list writes, bytes mutations, bytes decided, dict nodes, outcomes
    )
