# C types of ``replay.py``.
cimport cython

from shoal.coordinator.commit.apply cimport apply_commit
from shoal.coordinator.commit.conflict_window cimport ConflictWindow
from shoal.coordinator.memory.writer cimport Writer


cdef object _replay(list batch, Writer writer, object reclaimer, ConflictWindow window, object limits)
@cython.locals(newest=dict, written=list, at=cython.Py_ssize_t, key=bytes, writes=list)
cdef object _apply_together(list commits, Writer writer, object reclaimer)
cdef object _apply_alone(object commit, Writer writer, object reclaimer)
cdef object _free_before(object commit, Writer writer, object reclaimer)
cdef object _apply(object commit, Writer writer)
cpdef object publish(Writer writer, object reclaimer, long long version)
