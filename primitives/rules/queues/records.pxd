cimport cython

from shoal.primitives.rules.queues.ready_set cimport ReadySet
from shoal.primitives.rules.queues.task_record cimport Task, decode_task, encode_task, entry_order
from shoal.shm.holder_index cimport entry_key


cpdef bytes body_key(bytes base, bytes task_id, bytes which)
cpdef bytes claim_key(holder, ticket)
cpdef bytes claim_entry(ttl_ms, bytes base, token, list ids)
@cython.locals(fields=list, ids=list)
cpdef tuple decode_claim(bytes raw)
cdef bint _are_ids(list ids) except -1
@cython.locals(fields=tuple)
cdef tuple _decode_queue(bytes raw)


cdef class WriteSet:
    cdef public bytes base
    cdef public object last_page
    cdef public dict writes
    cdef object _read

    cpdef bytes get(self, bytes key)


cdef class Queue:
    cdef public bytes key, base
    cdef public object sequence, due_ms, _token, _last_token, _read
    cdef public ReadySet ready
    cdef public list counts
    cdef tuple _delayed
    cdef WriteSet _write_set

    cpdef begin(self)
    cpdef list writes(self)
    @cython.locals(flat=list)
    cpdef list flat_writes(self)
    @cython.locals(writes=dict)
    cdef dict _changed(self)
    @cython.locals(ready=ReadySet, delayed=tuple, fields=list, raw=bytes)
    cdef bytes _record(self)
    cpdef bytes get(self, bytes key)
    cpdef put(self, bytes key, bytes value)
    @cython.locals(raw=bytes)
    cpdef Task task(self, bytes task_id)
    cpdef put_task(self, bytes task_id, Task task)
    cpdef store_body(self, bytes task_id, bytes which, bytes body)
    cpdef take_tokens(self, count)
