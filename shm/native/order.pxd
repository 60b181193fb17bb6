cdef extern from "order.h":
    unsigned long long load_acquire "shoal_load_acquire"(const unsigned long long *word) nogil
    void store_release "shoal_store_release"(unsigned long long *word, unsigned long long value) nogil
    void fence_acquire "shoal_fence_acquire"() nogil
    void fence_release "shoal_fence_release"() nogil
