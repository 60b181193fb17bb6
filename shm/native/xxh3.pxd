# The hash of keys and checksums, called in C. ``xxhash.h`` is that of the xxhash package (LICENSE.xxhash).
cdef extern from *:
    """
    #define XXH_INLINE_ALL
    #include "xxhash.h"
    """
    unsigned long long XXH3_64bits_withSeed(const void *data, size_t length, unsigned long long seed) nogil


# As ``xxhash.xxh3_64_intdigest``.
cdef inline unsigned long long xxh3_64_intdigest(bytes data, unsigned long long seed=0):
    return XXH3_64bits_withSeed(<const char *> data, len(data), seed)
