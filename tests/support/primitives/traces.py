"""What the tests of traces share."""

from __future__ import annotations

from shoal import Trace, TraceType

THOUGHT = TraceType.Thought("hm")


def ids_of(found: list[Trace]) -> list[str]:
    return [trace.id for trace in found]
