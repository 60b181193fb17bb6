cimport cython

cdef long long _NONE, _MOST_ATTEMPTS, _TASK_BYTES, _CLAIM_BYTES, _ID_AT


@cython.final
cdef class Task:
    cdef public long long sequence, status, priority, attempt, max_attempts, created_ms, due_ms
    cdef public bytes payload, result, key
    cdef public str error
    cdef public long long token, holder, ticket, pid


cpdef check_numbers(tuple numbers)
@cython.locals(payload=bytes, result=bytes, key=bytes, error=bytes)
cpdef bytes encode_task(Task task)
cpdef Task decode_task(bytes raw)
@cython.locals(at=Py_ssize_t, length=Py_ssize_t, which=int, task=Task, parts=list)
cdef Task _decoded(bytes raw)
cpdef bytes ready_entry(bytes task_id, Task task)
cpdef bytes delayed_entry(bytes task_id, Task task)
cpdef entry_order(bytes entry)
cpdef bytes entry_id(bytes entry)
