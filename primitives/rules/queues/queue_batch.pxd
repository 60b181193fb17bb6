cimport cython

from shoal.primitives.rules.queues.queue_rules cimport claim_from, complete_in, put_into
from shoal.primitives.rules.queues.records cimport Queue


cdef class QueueBatch:
    cdef Queue _queue
    cdef object _now_ms
    cdef Py_ssize_t _tasks

    cpdef begin(self, now_ms)
    @cython.locals(queue=Queue)
    cpdef decide(self, str name, list arguments)
    cpdef list writes(self)
    cdef _count(self, Py_ssize_t tasks)
    cdef _check_put(self, user_key, list tasks)
