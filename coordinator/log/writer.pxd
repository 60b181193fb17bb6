cimport cython

from shoal.coordinator.log.format cimport encode_record

cdef Py_ssize_t RECORD_OVERHEAD_BYTES


cdef class WalWriter:
    cdef object __weakref__
    cdef object _storage, _store_id, _new_lock, _to_fill, _spare, _lock, _sync_turn, _file
    cdef public object boot_id, wake, failed, room, make_room, name_newest, removed_since_s
    cdef public object last_version, synced_version, lost_version, named_number, number
    cdef public dict first_versions
    cdef public list _unsynced
    cdef public bint fills_ahead, is_short
    cdef object _next_number, _fill_step_bytes, _usual_bytes
    cdef public object bytes_written
    cdef Py_ssize_t _position, _end, _growth_end

    cpdef bint has_room(self, Py_ssize_t body_bytes) except -1
    @cython.locals(raw=bytes, position=Py_ssize_t)
    cpdef append(self, version, client_id, commit_id, bytes mutations, bytes decided)
