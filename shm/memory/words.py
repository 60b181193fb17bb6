"""Words in shared memory, and every assumption about memory order. No other file may assume anything.

- A word is 8 bytes, aligned, little-endian (the machine's order). A load or store through ``memoryview.cast("Q")`` is
  one machine instruction (CPython copies 8 aligned bytes), so a word is never seen half written. ``struct.pack_into``
  and slices make no such promise: they write only to memory that no reader can reach yet.
- Stores become visible in program order, and loads happen in program order (x86 TSO). On other machines the writer
  calls ``barrier`` between writing and publishing; readers that are registered with the kernel then see that order.
- Compiled modules load and store words in C, where the compiler may reorder them on every machine. Therefore:
  - whatever writes more than one word in C (``native/bytes_at.pxd``) ends with a release fence, so the store that links
    a node, a record, a bucket or an index node comes after the words it leads to. The other stores that link or publish
    (published version, horizon, epoch, the count of a leaf, rows of range tombstones) come after ``publish_barrier``;
  - a reader passes an acquire fence after it has loaded the published version or pinned a snapshot, and another before
    it loads the horizon (``snapshots.verify``). The loads in between follow references, each of which depends on the
    load before it; every machine but Alpha keeps that order.
  On x86-64 these fences are no instructions. Where both sides run compiled, they are enough on other machines too.
- A reader's store may be delayed past its own later load, on x86 too. The writer's ``barrier`` makes up for that: when
  it returns, every store that a registered reader made before is visible (membarrier(2), 1.2 us).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time

from shoal.shm.host.libc import membarrier

_CMD_GLOBAL_EXPEDITED = 1 << 1
_CMD_REGISTER_GLOBAL_EXPEDITED = 1 << 2
_MACHINE = os.uname().machine

STORES_ARE_ORDERED = _MACHINE in ("x86_64", "AMD64", "i686")
# Without membarrier: a store buffer drains by itself within nanoseconds, so after a millisecond it is certainly empty.
_DRAIN_S = 0.001


_registered = membarrier(_CMD_REGISTER_GLOBAL_EXPEDITED)


def register_reader() -> None:
    """Register this process for the writer's barriers. A forked child must register again."""
    membarrier(_CMD_REGISTER_GLOBAL_EXPEDITED)


def barrier() -> None:
    """Return once every registered reader's earlier stores are visible here, and ours to every reader."""
    if not (_registered and membarrier(_CMD_GLOBAL_EXPEDITED)):
        time.sleep(_DRAIN_S)


def publish_barrier() -> None:
    """Order earlier stores before the store that publishes them. It costs nothing where stores are ordered."""
    if not STORES_ARE_ORDERED:
        barrier()


def words_of(mapping: mmap.mmap) -> memoryview:
    """The mapping as an array of words: ``words[i]`` is the 8 bytes at ``8 * i``."""
    return memoryview(mapping).cast("Q")


def unmap(mapping: mmap.mmap, words: memoryview) -> None:
    """Unmap a mapping. Every later use of it, or of ``words``, raises ValueError."""
    words.release()
    with contextlib.suppress(BufferError):  # another thread is copying from it: it is unmapped when that copy is done
        mapping.close()
