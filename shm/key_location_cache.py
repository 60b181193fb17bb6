"""Where the keys of one prefix are in a segment: what a view keeps between two reads, for the reader that fills it."""

from __future__ import annotations


class KeyLocationCache:
    """A key prefix and the key nodes found under it so far. It is void when the epoch changes.

    Threads share it. Epoch and nodes are replaced together, in one store, so no thread takes the nodes of one epoch for
    those of another.
    """

    __slots__ = ("prefix", "state")

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.state: tuple[int, dict[str, int]] = (-1, {})  # epoch; rest of the key -> node
