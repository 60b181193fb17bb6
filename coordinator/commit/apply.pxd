cimport cython

from shoal.coordinator.commit.conflict_window cimport ConflictWindow


cpdef apply_commit(ConflictWindow window, sessions, version, list clears, list writes, outcomes)
