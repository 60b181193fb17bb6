"""What a decision reads of the store, and how a store that cannot be read is told from arguments that make no sense.

A decision is guarded against every exception: whatever a request stumbles over is its client's affair alone. An
exception out of the store itself is not. It means that an invariant is broken, so it passes every such guard.
"""

from __future__ import annotations

from shoal.coordinator.memory.writer import Writer
from shoal.shm.operation import VersionedValue


class BrokenStoreError(BaseException):
    """The segment cannot be read by the process that writes it: the coordinator ends.

    No ``Exception``, so that no guard around a decision takes it for its client's fault.
    """


def read_newest(
    writer: Writer, key: bytes, now_ms: int, nodes: dict[bytes, int] | None = None
) -> VersionedValue | None:
    """``Writer.newest`` for a decision: TypeError for a key that is none, BrokenStoreError for a broken segment."""
    if type(key) is not bytes:
        raise TypeError(f"an operation reads a key of type {type(key).__name__}")
    try:
        return writer.newest(key, now_ms, nodes)
    except MemoryError:  # the copy of a large value
        raise
    except Exception as error:
        raise BrokenStoreError(f"reading the newest value of {key!r} failed: {error!r}") from error
