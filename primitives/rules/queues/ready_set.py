"""The ready tasks of a queue: a sorted set of which both ends lie in the queue's own record.

    head     the least entries, ``INLINE`` at most, sorted; never empty unless the set is
    pages    entries in the middle (``ordered_pages``)
    tail     the greatest entries, as many, sorted

Every entry of ``head`` is less than every one in pages, and those are less than every entry of ``tail``. A claim takes
the first of ``head``, a put mostly adds behind ``tail``. Only one in ``INLINE`` of them takes or adds a page, a whole
one. A set that is small has no page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from shoal.primitives.rules.queues.ordered_pages import ENTRY_BYTES, OrderedPages, position
from shoal.shm.errors import CorruptionError

INLINE = 24
_INLINE_BYTES = INLINE * ENTRY_BYTES

# Opens the pages of a set, given their state: root, depth, first.
Open = Callable[[int, int, int], OrderedPages]


class ReadySet:
    """One set. Its attributes are its state, which the caller keeps."""

    def __init__(self, open_pages: Open, root: int, depth: int, first: int, head: bytes, tail: bytes) -> None:
        self._open = open_pages
        self.root = root
        self.depth = depth
        self.first = first
        self.head = head
        self.tail = tail

    def take_least(self) -> bytes | None:
        """Remove the least entry and return it, or None."""
        head = self.head
        if not head:
            return None
        self.head = head[ENTRY_BYTES:]
        if len(head) == ENTRY_BYTES:
            self._refill()
        return head[:ENTRY_BYTES]

    def add(self, entry: bytes) -> None:
        """Add an entry that is not in the set."""
        head = self.head
        is_whole = not self.root and not self.tail
        if is_whole and (not head or entry > head[-ENTRY_BYTES:]):
            if len(head) < _INLINE_BYTES:
                self.head = head + entry
            else:
                self.tail = entry
        elif entry < head[-ENTRY_BYTES:]:
            head = _with(head, entry)
            if len(head) > _INLINE_BYTES:
                head, last = head[:-ENTRY_BYTES], head[-ENTRY_BYTES:]
                self._add_behind(last)
            self.head = head
        else:
            self._add_behind(entry)

    def remove(self, entry: bytes) -> bool:
        """Remove an entry; whether it was in the set."""
        head, tail = self.head, self.tail
        if head and entry <= head[-ENTRY_BYTES:]:
            self.head = _without(head, entry)
            found = len(self.head) < len(head)
            if not self.head:
                self._refill()
            return found
        if tail and entry >= tail[:ENTRY_BYTES]:
            self.tail = _without(tail, entry)
            return len(self.tail) < len(tail)
        if not self.root:
            return False
        pages = self._open(self.root, self.depth, self.first)
        found = pages.remove(entry)
        self._keep(pages)
        return found

    def entries(self) -> Iterator[bytes]:
        """All entries in order."""
        yield from _parts(self.head)
        yield from self._open(self.root, self.depth, self.first).entries()
        yield from _parts(self.tail)

    def _add_behind(self, entry: bytes) -> None:
        """Add an entry that is greater than all of ``head``."""
        tail = self.tail
        if self.root and (not tail or entry < tail[:ENTRY_BYTES]):
            pages = self._open(self.root, self.depth, self.first)
            if tail or entry < pages.greatest():
                pages.add(entry)
                self._keep(pages)
                return
        tail = _with(tail, entry)
        if len(tail) > _INLINE_BYTES:
            pages = self._open(self.root, self.depth, self.first)
            pages.append(tail[:-ENTRY_BYTES])
            self._keep(pages)
            tail = tail[-ENTRY_BYTES:]
        self.tail = tail

    def _refill(self) -> None:
        """``head`` has become empty: what follows it comes there."""
        if self.root:
            pages = self._open(self.root, self.depth, self.first)
            self.head = pages.take_page()
            if len(self.head) % ENTRY_BYTES:
                raise CorruptionError("the record of a queue", 0, "a page of entries", f"{len(self.head)} bytes")
            self._keep(pages)
        else:
            self.head, self.tail = self.tail, b""

    def _keep(self, pages: OrderedPages) -> None:
        self.root, self.depth, self.first = pages.root, pages.depth, pages.first


def _with(entries: bytes, entry: bytes) -> bytes:
    if entry > entries[-ENTRY_BYTES:]:
        return entries + entry
    at = position(entries, ENTRY_BYTES, entry) * ENTRY_BYTES
    return entries[:at] + entry + entries[at:]


def _without(entries: bytes, entry: bytes) -> bytes:
    end = position(entries, ENTRY_BYTES, entry) * ENTRY_BYTES
    if entries[end - ENTRY_BYTES : end] != entry:
        return entries
    return entries[: end - ENTRY_BYTES] + entries[end:]


def _parts(entries: bytes) -> Iterator[bytes]:
    for at in range(0, len(entries), ENTRY_BYTES):
        yield entries[at : at + ENTRY_BYTES]
