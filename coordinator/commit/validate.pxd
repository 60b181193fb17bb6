cimport cython

from shoal.coordinator.commit.conflict_window cimport ConflictWindow


@cython.locals(keys=list, ranges=list, sweeps=bint)
cpdef validate(commit_set, ConflictWindow window, latest_ms)
