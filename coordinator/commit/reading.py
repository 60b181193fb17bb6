"""How a decision reads the store, and how an unreadable store is told from arguments that make no sense.

A decision is guarded against every exception: whatever fails in it is told to its client alone. An exception out of the
store itself is different. It means that an invariant is broken, so it must pass every such guard and end the
coordinator.
"""

from __future__ import annotations

from shoal.coordinator.memory.writer import Writer
from shoal.shm.operation import VersionedValue


class BrokenStoreError(BaseException):
    """The segment cannot be read by the process that writes it: the coordinator ends.

    It is no ``Exception``, so no guard around a decision takes it for the client's fault.
    """


def read_newest(
    writer: Writer, key: bytes, now_ms: int, nodes: dict[bytes, int] | None = None
) -> VersionedValue | None:
    """``Writer.newest`` for a decision: TypeError if ``key`` is not bytes, BrokenStoreError for a broken segment."""
    if type(key) is not bytes:
        raise TypeError(f"an operation reads a key of type {type(key).__name__}")
    try:
        return writer.newest(key, now_ms, nodes)
    except MemoryError:  # the copy of a large value
        raise
    except Exception as error:
        raise BrokenStoreError(f"reading the newest value of {key!r} failed: {error!r}") from error
