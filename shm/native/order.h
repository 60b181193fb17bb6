/* Order of loads and stores of words that other processes read at the same time (C11 memory order, GCC's builtins).
 *
 * acquire: no later load or store comes before it. release: no earlier load or store comes after it. On x86-64 they
 * are no instructions, and only keep the compiler from reordering. ``shm/memory/words.py`` says which word needs which.
 */
#ifndef SHOAL_ORDER_H
#define SHOAL_ORDER_H

static inline unsigned long long shoal_load_acquire(const unsigned long long *word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void shoal_store_release(unsigned long long *word, unsigned long long value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* Order loads before this point before loads after it: a reader, after it has loaded the published version, and before
 * it loads the horizon and believes what it has copied. */
static inline void shoal_fence_acquire(void) {
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
}

/* Order stores before this point before stores after it: the writer, before it links or publishes what it has written. */
static inline void shoal_fence_release(void) {
    __atomic_thread_fence(__ATOMIC_RELEASE);
}

#endif
