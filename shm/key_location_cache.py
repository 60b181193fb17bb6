"""The key-location cache: where keys of a prefix are in a segment. A view keeps it; the segment's reader fills it."""

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
