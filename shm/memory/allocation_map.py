"""The state of every allocation in a segment: what its allocator says of it, and how the check has met it.

One byte for each allocation. Nothing here is shared: a check builds it in its own process.
"""

from __future__ import annotations

from array import array

from shoal.shm.memory.layout import BLOCK_WORDS

# States of an allocation.
FREE = 0
IN_USE = 1  # allocated, and not met yet
MET = 2  # reachable
MET_AT_VERSION = 3  # reachable at the version of the check: it must not be allocated again meanwhile
HISTORY = 4  # an older record of a key
WAITING = 5  # waits to be reclaimed
FRESH = 6  # allocated since the check began


class AllocationMap:
    """Built from the coordinator's answers, block by block. ``problems`` lists faults in these answers alone."""

    def __init__(self) -> None:
        self._blocks: dict[int, tuple[int, bytearray]] = {}  # by block: words of an allocation, and the state of each
        self.problems: list[str] = []

    def add(self, block: int, words: int, free: bytes) -> None:
        """Add a block of allocations of ``words`` words each; ``free`` says where free ones begin, 2 bytes for each.

        If ``words`` is below 0, it is one large record in a run of ``-words`` blocks.
        """
        if words < 0:
            self._blocks[block] = (-words * BLOCK_WORDS, bytearray((IN_USE,)))
            return
        states = bytearray((IN_USE,)) * (BLOCK_WORDS // words)
        self._blocks[block] = (words, states)
        for offset in array("H", free):
            at, rest = divmod(offset, words)
            if rest or at >= len(states) or states[at] == FREE:
                self.problems.append(f"word {offset} of block {block} begins no record, or is free twice")
            else:
                states[at] = FREE

    def get(self, reference: int) -> int:
        """The state of the allocation at ``reference``; FREE if none begins there."""
        block, offset = divmod(reference, BLOCK_WORDS)
        found = self._blocks.get(block)
        if found is None:
            return FREE
        at, rest = divmod(offset, found[0])
        return FREE if rest or at >= len(found[1]) else found[1][at]

    def set(self, reference: int, state: int) -> None:
        """Note the state of an allocation that ``get`` found in use."""
        block, offset = divmod(reference, BLOCK_WORDS)
        words, states = self._blocks[block]
        states[offset // words] = state

    def size_of(self, reference: int) -> int:
        """Words of the allocation at ``reference``, 0 if its block is not in use."""
        found = self._blocks.get(reference // BLOCK_WORDS)
        return 0 if found is None else found[0]

    def words_but(self, *states: int) -> int:
        """Words of all allocations in other states than these."""
        return sum(words * (len(each) - sum(map(each.count, states))) for words, each in self._blocks.values())

    def references(self, state: int) -> list[int]:
        """All allocations in a state."""
        return [
            block * BLOCK_WORDS + at * words
            for block, (words, each) in self._blocks.items()
            if each.count(state)
            for at, found in enumerate(each)
            if found == state
        ]
