cimport cython

from shoal.primitives.rules.queues.records cimport Queue, claim_entry, claim_key, decode_claim
from shoal.primitives.rules.queues.task_record cimport Task, entry_id
from shoal.primitives.rules.queues.transitions cimport attempted, end, give_back, held_by, leave, wait, waiting


@cython.locals(queue=Queue, task=Task, at=Py_ssize_t)
cpdef put(read, now_ms, bytes key, priority, delay_ms, max_attempts, user_key, is_new, list tasks)
@cython.locals(queue=Queue, task=Task, entry_key=bytes, ids=list, result=list)
cpdef claim(read, now_ms, bytes key, name, holder, pid, ttl_ms, ticket, former_token, limit)
@cython.locals(queue=Queue, task=Task)
cpdef complete(read, now_ms, bytes key, name, bytes task_id, holder, token, bytes result)
cdef list _claimed(bytes task_id, Task task)
@cython.locals(queue=Queue, task=Task)
cdef tuple _held(read, bytes key, name, bytes task_id, holder, token)
