cimport cython

from shoal.coordinator.commit.conflict_window cimport ConflictWindow


@cython.locals(keys=list, ranges=list)
cpdef validate(commit_set, ConflictWindow window)
