# C types of ``heap.py``. All numbers are signed: ``-(-words // BLOCK_WORDS)`` rounds up.
cimport cython

cdef long long BLOCK_WORDS, _LARGEST_CLASS, _CLASSES
cdef list _CLASS_OF
cdef tuple _SIZES


cdef class Heap:
    cdef object _segment
    cdef long long _step_blocks
    cdef readonly long long first_block
    cdef readonly long long block_count
    cdef public long long reserve_blocks
    cdef object _ready
    cdef object _untaken
    cdef dict _pool_of_block
    cdef readonly dict _free_in_block
    cdef dict _large
    cdef list _current
    cdef list _current_block
    cdef list _partial
    cdef public long long used_words
    cdef public long long padding_words
    cdef public object allocated

    @cython.locals(size_class=cython.longlong, free=list)
    cpdef long long allocate(self, long long words) except? -1
    @cython.locals(size_class=cython.longlong, pool=cython.longlong, free=list)
    cpdef long long allocate_index(self, long long words) except? -1
    @cython.locals(block=cython.longlong, free=list, words=cython.longlong, blocks=cython.longlong, pool=cython.longlong, size=cython.longlong)
    cpdef object free(self, long long reference)
    @cython.locals(block=cython.longlong)
    cpdef long long size_of(self, long long reference) except? -1
    cpdef long long rounded(self, long long words) except? -1
    cpdef list _next_block(self, long long pool)
    @cython.locals(blocks=cython.longlong, block=cython.longlong)
    cpdef long long _allocate_large(self, long long words) except? -1
