from shoal.coordinator.commit.engine cimport CommitEngine
from shoal.coordinator.memory.writer cimport Writer


cdef class Maintenance:
    cdef object _reclaimer, _limits, _window, _checks, _checkpointer, _history
    cdef CommitEngine _engine
    cdef Writer _writer
    cdef public object upkeep
    cdef public bint busy

    cpdef after_turn(self, double now_s)
