"""The operations that are measured, by name.

A new operation is a class in ``kv``, ``contention``, ``primitives`` or ``queue``, an entry here, and a method of the
same name in ``peers.base.Session`` and in the session of every peer that can do it. The tables list the peers that
cannot.
"""

from __future__ import annotations

from .base import Operation, Step
from .contention import Hot, Think
from .kv import Get, Pipelined, Put, ReadModifyWrite, Scan
from .primitives import Append, CompareAndSwap, Cross, RecordTrace
from .queue import Queue

_KINDS: tuple[type[Operation], ...] = (
    *(Get, Scan, Put, Pipelined, ReadModifyWrite, Think, Hot),
    *(Append, CompareAndSwap, RecordTrace, Cross, Queue),
)
OPERATIONS: dict[str, type[Operation]] = {kind.name: kind for kind in _KINDS}

__all__ = ["OPERATIONS", "Operation", "Step"]
