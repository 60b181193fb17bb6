cimport cython

from shoal.primitives.rules.queues.records cimport Queue, claim_entry, claim_key, decode_claim
from shoal.primitives.rules.queues.task_record cimport Task, check_numbers, entry_id
from shoal.primitives.rules.queues.transitions cimport attempted, end, give_back, held_by, leave, wait, waiting


@cython.locals(queue=Queue)
cpdef put(read, now_ms, bytes key, priority, delay_ms, max_attempts, user_key, is_new, list tasks)
@cython.locals(task=Task, at=Py_ssize_t, task_id=bytes)
cpdef list put_into(Queue queue, now_ms, priority, delay_ms, max_attempts, user_key, is_new, list tasks)
@cython.locals(queue=Queue)
cpdef claim(read, now_ms, bytes key, name, holder, pid, ttl_ms, ticket, former_token, limit)
@cython.locals(task=Task, entry_key=bytes, entry=bytes, ids=list, result=list, task_id=bytes)
cpdef list claim_from(Queue queue, now_ms, name, holder, pid, ttl_ms, ticket, former_token, limit)
@cython.locals(queue=Queue)
cpdef complete(read, now_ms, bytes key, name, bytes task_id, holder, token, bytes result)
@cython.locals(task=Task)
cpdef complete_in(Queue queue, now_ms, name, bytes task_id, holder, token, bytes result)
cdef list _claimed(bytes task_id, Task task)
@cython.locals(task=Task)
cdef Task _held(Queue queue, name, bytes task_id, holder, token)
