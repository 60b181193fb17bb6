"""A sorted set of entries in small pages: the least one is found with one read, however many there are.

An entry is 32 bytes. A leaf page holds up to ``_LEAF`` entries, sorted. An inner page holds up to ``_INNER`` children:
the least entry that may lie in each, then its page number. The first bound of an inner page does not count. The state
of a set is three numbers: the root page (0: there is no entry), how many levels of inner pages there are, and the page
of the least entry.

Pages that are empty are removed; pages that are not full are never joined, so a page may hold one entry. Entries that
are added at the end leave full pages behind. Every change is O(depth) reads, and writes one page, or seldom a few.

The pages are ordinary records. So they are published, recovered and validated as any other, and an entry that was
removed leaves nothing behind that a later reader of the least one has to pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

ENTRY_BYTES = 32
_NUMBER_BYTES = 8
_CHILD_BYTES = ENTRY_BYTES + _NUMBER_BYTES
_LEAF = 24
_INNER = 96


class Pages(NamedTuple):
    """Where pages are kept, by number."""

    get: Callable[[int], bytes]  # raises CorruptionError if it is not there
    put: Callable[[int, bytes | None], None]  # None removes it
    new: Callable[[], int]  # a number that was never given


# An inner page on the way down: its number, its bytes, and which child was taken.
_Step = tuple[int, bytes, int]


class OrderedPages:
    """One set. ``root``, ``depth`` and ``first`` are its state, which the caller keeps."""

    __slots__ = ("_pages", "depth", "first", "root")

    def __init__(self, pages: Pages, root: int, depth: int, first: int) -> None:
        self._pages = pages
        self.root = root
        self.depth = depth
        self.first = first

    def least(self) -> bytes | None:
        """The least entry, or None."""
        return self._pages.get(self.first)[:ENTRY_BYTES] if self.root else None

    def take_least(self) -> bytes | None:
        """Remove the least entry and return it, or None."""
        if not self.root:
            return None
        page = self._pages.get(self.first)
        entry = page[:ENTRY_BYTES]
        if len(page) > ENTRY_BYTES:
            self._pages.put(self.first, page[ENTRY_BYTES:])
        else:
            self.remove(entry)
        return entry

    def add(self, entry: bytes) -> None:
        """Add an entry that is not in the set."""
        pages = self._pages
        if not self.root:
            self.root = self.first = pages.new()
            pages.put(self.root, entry)
            return
        path, leaf = self._path(entry)
        page = pages.get(leaf)
        at = position(page, ENTRY_BYTES, entry) * ENTRY_BYTES
        grown = page[:at] + entry + page[at:]
        if len(grown) <= _LEAF * ENTRY_BYTES:
            pages.put(leaf, grown)
            return
        cut = at if at == len(page) else _LEAF // 2 * ENTRY_BYTES
        right = pages.new()
        pages.put(leaf, grown[:cut])
        pages.put(right, grown[cut:])
        self._add_child(path, grown[cut : cut + ENTRY_BYTES], right)

    def append(self, entries: bytes) -> None:
        """Add a page of sorted entries, each of which is greater than all in the set."""
        path = self._path(entries[:ENTRY_BYTES])[0]
        number = self._pages.new()
        self._pages.put(number, entries)
        if self.root:
            self._add_child(path, entries[:ENTRY_BYTES], number)
        else:
            self.root = self.first = number

    def take_page(self) -> bytes:
        """Remove the page of the least entries from a set that has some, and return it."""
        leaf = self.first
        page = self._pages.get(leaf)
        path = self._path(page[:ENTRY_BYTES])[0]
        self._pages.put(leaf, None)
        self._remove_child(path, leaf)
        return page

    def greatest(self) -> bytes:
        """The greatest entry of a set that has some."""
        page = self._pages.get(self.root)
        for _ in range(self.depth):
            page = self._pages.get(_child(page, len(page) // _CHILD_BYTES - 1))
        return page[-ENTRY_BYTES:]

    def remove(self, entry: bytes) -> bool:
        """Remove an entry; whether it was in the set."""
        if not self.root:
            return False
        path, leaf = self._path(entry)
        page = self._pages.get(leaf)
        end = position(page, ENTRY_BYTES, entry) * ENTRY_BYTES
        if not end or page[end - ENTRY_BYTES : end] != entry:
            return False
        left = page[: end - ENTRY_BYTES] + page[end:]
        self._pages.put(leaf, left or None)
        if not left:
            self._remove_child(path, leaf)
        return True

    def entries(self) -> Iterator[bytes]:
        """All entries in order."""
        if self.root:
            yield from self._entries_below(self.root, self.depth)

    def _entries_below(self, number: int, depth: int) -> Iterator[bytes]:
        page = self._pages.get(number)
        if not depth:
            for at in range(0, len(page), ENTRY_BYTES):
                yield page[at : at + ENTRY_BYTES]
            return
        for index in range(len(page) // _CHILD_BYTES):
            yield from self._entries_below(_child(page, index), depth - 1)

    def _path(self, entry: bytes) -> tuple[list[_Step], int]:
        """The inner pages down to the leaf where ``entry`` is or belongs, and the number of that leaf."""
        path = []
        number = self.root
        for _ in range(self.depth):
            page = self._pages.get(number)
            index = max(0, position(page, _CHILD_BYTES, entry) - 1)
            path.append((number, page, index))
            number = _child(page, index)
        return path, number

    def _add_child(self, path: list[_Step], bound: bytes, number: int) -> None:
        """Add a page behind the child that ``path`` leads to."""
        pages = self._pages
        for parent, page, index in reversed(path):
            at = (index + 1) * _CHILD_BYTES
            grown = page[:at] + bound + number.to_bytes(_NUMBER_BYTES, "big") + page[at:]
            if len(grown) <= _INNER * _CHILD_BYTES:
                pages.put(parent, grown)
                return
            cut = at if at == len(page) else _INNER // 2 * _CHILD_BYTES
            number = pages.new()
            pages.put(parent, grown[:cut])
            pages.put(number, grown[cut:])
            bound = grown[cut : cut + ENTRY_BYTES]
        old, self.root = self.root, pages.new()
        self.depth += 1
        first = bytes(ENTRY_BYTES) + old.to_bytes(_NUMBER_BYTES, "big")
        pages.put(self.root, first + bound + number.to_bytes(_NUMBER_BYTES, "big"))

    def _remove_child(self, path: list[_Step], leaf: int) -> None:
        """Remove the empty page that ``path`` leads to from its parent, and parents that are empty then."""
        pages = self._pages
        for parent, page, index in reversed(path):
            left = page[: index * _CHILD_BYTES] + page[(index + 1) * _CHILD_BYTES :]
            pages.put(parent, left or None)
            if left:
                break
        else:
            self.root = self.depth = self.first = 0
            return
        while self.depth and len(page := pages.get(self.root)) == _CHILD_BYTES:
            pages.put(self.root, None)
            self.root = _child(page, 0)
            self.depth -= 1
        if leaf == self.first:
            self.first = self.root
            for _ in range(self.depth):
                self.first = _child(pages.get(self.first), 0)


def position(page: bytes, size: int, entry: bytes) -> int:
    """How many of a page's parts, ``size`` bytes each, begin with an entry that is not greater than ``entry``."""
    low, high = 0, len(page) // size
    if high and page[(high - 1) * size : (high - 1) * size + ENTRY_BYTES] <= entry:
        return high  # at the end, where most are added
    while low < high:
        middle = (low + high) // 2
        if page[middle * size : middle * size + ENTRY_BYTES] <= entry:
            low = middle + 1
        else:
            high = middle
    return low


def _child(page: bytes, index: int) -> int:
    at = index * _CHILD_BYTES + ENTRY_BYTES
    return int.from_bytes(page[at : at + _NUMBER_BYTES], "big")
