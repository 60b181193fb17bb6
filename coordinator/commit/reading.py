"""How the decision of a commit reads the store: ``admission`` and ``batching`` read keys through this alone.

An exception in a decision is normally the fault of one request. It becomes the answer to that client, and the
coordinator goes on. An exception from the store itself means that an invariant of the segment is broken. It becomes
``BrokenStoreError``, which no ``except Exception`` catches, so it ends the coordinator.
"""

from __future__ import annotations

from shoal.coordinator.memory.writer import Writer
from shoal.shm.operation import VersionedValue


class BrokenStoreError(BaseException):
    """The segment cannot be read by the process that writes it: the coordinator ends.

    It is not an ``Exception``: code that answers a client with its error must not catch it.
    """


def read_newest(
    writer: Writer, key: bytes, now_ms: int, nodes: dict[bytes, int] | None = None
) -> VersionedValue | None:
    """What ``key`` holds now; its node is noted in ``nodes``.

    TypeError if ``key`` is not bytes. BrokenStoreError if the segment cannot be read.
    """
    if type(key) is not bytes:
        raise TypeError(f"an operation reads a key of type {type(key).__name__}")
    try:
        return writer.newest(key, now_ms, nodes)
    except MemoryError:  # the copy of a large value
        raise
    except Exception as error:
        raise BrokenStoreError(f"reading the newest value of {key!r} failed: {error!r}") from error
