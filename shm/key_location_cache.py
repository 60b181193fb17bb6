"""Where the keys of one prefix are in a segment: what an engine keeps for a view between two reads."""

from __future__ import annotations


class KeyLocationCache:
    """A key prefix, and where its keys are: what a reader keeps between two reads. Void in another epoch.

    Threads share it: epoch and nodes are taken together, so nobody looks for one epoch's nodes in another's segment.
    """

    __slots__ = ("prefix", "state")

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.state: tuple[int, dict[str, int]] = (-1, {})  # epoch; rest of the key -> node
