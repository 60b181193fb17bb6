"""Every piece of memory of a segment, as its allocator has it and as a walk meets it: a byte for each."""

from __future__ import annotations

from array import array

from shoal.shm.memory.layout import BLOCK_WORDS

# What is known of a piece.
FREE = 0
IN_USE = 1  # and not met yet
MET = 2  # reachable
MET_AT_VERSION = 3  # reachable at the version of the check: it must not be given to anyone else
HISTORY = 4  # a record below a key's newest
WAITING = 5  # to be reclaimed
FRESH = 6  # allocated since the check began


class AllocationMap:
    """Built from the coordinator's answers, block by block; ``problems`` has what is wrong with these alone."""

    def __init__(self) -> None:
        self._pieces: dict[int, tuple[int, bytearray]] = {}  # by block: words of a piece, and a byte for each
        self.problems: list[str] = []

    def add(self, block: int, words: int, free: bytes) -> None:
        """Take in a block of pieces of so many words, and where free ones begin; minus so many, a run of blocks."""
        if words < 0:
            self._pieces[block] = (-words * BLOCK_WORDS, bytearray((IN_USE,)))
            return
        states = bytearray((IN_USE,)) * (BLOCK_WORDS // words)
        self._pieces[block] = (words, states)
        for offset in array("H", free):
            at, beside = divmod(offset, words)
            if beside or at >= len(states) or states[at] == FREE:
                self.problems.append(f"word {offset} of block {block} begins no record, or is free twice")
            else:
                states[at] = FREE

    def get(self, reference: int) -> int:
        """The state of the piece at ``reference``; FREE if no piece begins there."""
        block, offset = divmod(reference, BLOCK_WORDS)
        found = self._pieces.get(block)
        if found is None:
            return FREE
        at, beside = divmod(offset, found[0])
        return FREE if beside or at >= len(found[1]) else found[1][at]

    def set(self, reference: int, state: int) -> None:
        """Note a state of a piece that ``get`` found in use."""
        block, offset = divmod(reference, BLOCK_WORDS)
        words, states = self._pieces[block]
        states[offset // words] = state

    def size_of(self, reference: int) -> int:
        """Words of the piece at ``reference``, 0 if its block is not in use."""
        found = self._pieces.get(reference // BLOCK_WORDS)
        return 0 if found is None else found[0]

    def words_but(self, *states: int) -> int:
        """Words of all pieces in other states than these."""
        return sum(words * (len(each) - sum(map(each.count, states))) for words, each in self._pieces.values())

    def references(self, state: int) -> list[int]:
        """All pieces in a state."""
        return [
            block * BLOCK_WORDS + at * words
            for block, (words, each) in self._pieces.items()
            if each.count(state)
            for at, found in enumerate(each)
            if found == state
        ]
