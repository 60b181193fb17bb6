# The hash of keys and checksums, called in C. ``xxhash.h`` is that of the xxhash package (LICENSE.xxhash).
from libc.string cimport memset


cdef extern from *:
    """
    #define XXH_INLINE_ALL
    #include "xxhash.h"
    """
    ctypedef struct XXH128_hash_t:
        pass
    ctypedef struct XXH128_canonical_t:
        pass
    XXH128_hash_t XXH3_128bits(const void *data, size_t length) nogil
    void XXH128_canonicalFromHash(XXH128_canonical_t *digest, XXH128_hash_t hashed) nogil
    unsigned long long XXH3_64bits_withSeed(const void *data, size_t length, unsigned long long seed) nogil


# As ``xxhash.xxh3_64_intdigest``.
cdef inline unsigned long long xxh3_64_intdigest(bytes data, unsigned long long seed=0):
    return XXH3_64bits_withSeed(<const char *> data, len(data), seed)


# The 16 bytes of ``xxhash.xxh3_128_digest``, then 16 zero bytes (``primitives/rules/hash_chain.py``).
cdef inline bytes xxh3_128_padded(bytes data):
    cdef char digest[32]
    memset(digest, 0, 32)
    XXH128_canonicalFromHash(<XXH128_canonical_t *> digest, XXH3_128bits(<const char *> data, len(data)))
    return digest[:32]
