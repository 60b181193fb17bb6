cimport cython

from shoal.primitives.rules.queues.records cimport Queue, body_key, claim_key, decode_claim
from shoal.primitives.rules.queues.task_record cimport Task, delayed_entry, entry_id, entry_order, ready_entry


@cython.locals(task=Task)
cpdef waiting(Queue queue, bytes task_id)
@cython.locals(task=Task)
cpdef list held_by(Queue queue, holder, ticket)
cpdef wait(Queue queue, bytes task_id, Task task)
cpdef end(Queue queue, bytes task_id, Task task, status, ended_ms)
cpdef give_back(Queue queue, bytes task_id, Task task)
cpdef attempted(Queue queue, bytes task_id, Task task, error, now_ms, retry_ms)
cpdef leave(Queue queue, bytes task_id, Task task)
