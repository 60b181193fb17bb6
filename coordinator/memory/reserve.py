"""The memory that is kept for deletes, lent to what else must find room."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from shoal.coordinator.memory.writer import Writer


@contextlib.contextmanager
def reserve_in_use(writer: Writer) -> Iterator[None]:
    """Let data use the memory that is kept for deletes.

    In recovery: what was committed fitted, but perhaps lies less well this time. A store that can only delete is better
    than none. In commits of the coordinator itself: they remove more than they write.
    """
    heap = writer.heap
    kept, heap.reserve_blocks = heap.reserve_blocks, 0
    try:
        yield
    finally:
        heap.reserve_blocks = kept
        writer.forget_budget()
