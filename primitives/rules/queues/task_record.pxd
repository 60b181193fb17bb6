cimport cython


cdef class Task:
    cdef public object sequence, status, priority, attempt, max_attempts, created_ms, due_ms
    cdef public object payload, result, error, key, token, holder, ticket, pid


@cython.locals(raw=bytes)
cpdef bytes encode_task(Task task)
cpdef Task decode_task(bytes raw)
@cython.locals(at=Py_ssize_t, task=Task)
cdef Task _decoded(bytes raw)
cpdef bytes ready_entry(bytes task_id, Task task)
cpdef bytes delayed_entry(bytes task_id, Task task)
cpdef entry_order(bytes entry)
cpdef bytes entry_id(bytes entry)
