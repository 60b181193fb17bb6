"""Keys in order: root -> branches -> leaves -> key nodes, three levels, copy-on-write per node.

Written by the coordinator alone, once per group of commits for all keys that are new in it, so it costs nothing when
a key is only overwritten. Readers need no lock:
- a leaf only ever grows at its end, where it has room: the reference is stored, then the count. Any other change writes
  a new leaf, then one store swings the branch's reference to it;
- when leaves come or go, the branch is copied and the root's reference swung; likewise the root and the header;
- what was replaced stays whole until no snapshot from before is left (``reclaim``).
A reader on an old node misses only keys newer than its snapshot. Three levels hold 10^8 keys.

Keys mostly come in rising streams (events, times, ids made in order), each ending in the middle of the key space. So a
full leaf splits where such a stream goes on, and from there on its keys are appended where they are, without a copy
of the leaf.

The coordinator keeps a private mirror of the upper levels: ``fence[i] <= every key of node i < fence[i + 1]``, found
with ``bisect`` in C. Readers, who have no fences, compare with the first key below a node.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from operator import gt

from shoal.coordinator.memory.heap import Heap
from shoal.shm.limits import BRANCH_ENTRIES, LEAF_ENTRIES
from shoal.shm.memory.layout import W_ORDER_ROOT
from shoal.shm.memory.record import node_key
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.words import publish_barrier

# Streams of keys that are followed at the same time, times the keys a group adds to each.
_RECENT_NODES = 512


class _Branch:
    __slots__ = ("fences", "leaves", "reference")

    def __init__(self, fences: list[bytes], leaves: list[int]) -> None:
        self.fences = fences
        self.leaves = leaves
        self.reference = 0


class OrderedIndex:
    """The writer's side of the ordered index."""

    def __init__(self, segment: Segment, heap: Heap) -> None:
        self._segment = segment
        self._words = segment.words
        self._heap = heap
        self._fences: list[bytes] = []
        self._branches: list[_Branch] = []
        self._root = 0
        self.leaf_count = 0  # what a commit of scattered new keys may have to copy
        self.replaced: list[int] = []  # nodes no longer reachable, for reclaim
        self._recent: set[int] = set()  # key nodes inserted lately: a key right after one of them goes on with a stream

    def insert(self, keys: list[tuple[bytes, int]]) -> None:
        """Add ``(key, node)`` pairs, sorted, none of them present."""
        position = 0
        while position < len(keys):
            position = self._insert_into_one_leaf(keys, position)

    def remove(self, keys: list[tuple[bytes, int]]) -> None:
        """Take out ``(key, node)`` pairs, sorted, all of them present."""
        position = 0
        while position < len(keys):
            branch_at, leaf_at, end_fence = self._locate(keys[position][0])
            gone = set()
            while position < len(keys) and (end_fence is None or keys[position][0] < end_fence):
                gone.add(keys[position][1])
                position += 1
            branch = self._branches[branch_at]
            entries = self._entries(branch.leaves[leaf_at])
            kept = [node for node in entries if node not in gone]
            assert len(kept) == len(entries) - len(gone), "removing a key that is not in the ordered index"
            self._replace_leaf(branch_at, leaf_at, [kept] if kept else [])

    def iterate(self, lower: bytes, upper: bytes | None) -> Iterator[tuple[bytes, int]]:
        """The writer's own walk over ``[lower, upper)``; the index must not change meanwhile."""
        if not self._branches:
            return
        branch_at, leaf_at, _ = self._locate(lower)
        for branch in self._branches[branch_at:]:
            for leaf in branch.leaves[leaf_at:]:
                for node in self._entries(leaf):
                    key = node_key(self._segment, node)
                    if upper is not None and key >= upper:
                        return
                    if key >= lower:
                        yield key, node
            leaf_at = 0

    def references(self) -> Iterator[int]:
        """Every index node in use (for the integrity walk)."""
        if self._root:
            yield self._root
        for branch in self._branches:
            yield branch.reference
            yield from branch.leaves

    def branch_differs(self, branch_at: int) -> bool | None:
        """Whether a branch in the segment is not what the mirror has; None if there is no such branch (any more)."""
        if branch_at >= len(self._branches):
            return None
        branch, words = self._branches[branch_at], self._words
        if words[W_ORDER_ROOT] != self._root or words[self._root + 1 + branch_at] != branch.reference:
            return True
        if self._entries(branch.reference) != branch.leaves or len(branch.fences) != len(branch.leaves):
            return True
        # The first leaf of a branch answers for keys below its fence, too.
        firsts = [node_key(self._segment, words[leaf + 1]) for leaf in branch.leaves[1:]]
        return any(map(gt, branch.fences[1:], firsts))

    def _locate(self, key: bytes) -> tuple[int, int, bytes | None]:
        """Branch, leaf in it, and the fence above that leaf (None: no end) of where ``key`` belongs."""
        branch_at = max(0, bisect_right(self._fences, key) - 1)
        branch = self._branches[branch_at]
        leaf_at = max(0, bisect_right(branch.fences, key) - 1)
        if leaf_at + 1 < len(branch.fences):
            return branch_at, leaf_at, branch.fences[leaf_at + 1]
        if branch_at + 1 < len(self._fences):
            return branch_at, leaf_at, self._fences[branch_at + 1]
        return branch_at, leaf_at, None

    def _entries(self, node: int) -> list[int]:
        words = self._words
        entries: list[int] = words[node + 1 : node + 1 + words[node]].tolist()
        return entries

    def _insert_into_one_leaf(self, keys: list[tuple[bytes, int]], position: int) -> int:
        if not self._branches:
            first = [node for _, node in keys[position : position + LEAF_ENTRIES]]
            self._branches = [_Branch([b""], [self._write(first, LEAF_ENTRIES)])]
            self._fences = [b""]
            self.leaf_count = 1
            self._write_branch(0)
            self._write_root()
            return position + len(first)
        branch_at, leaf_at, end_fence = self._locate(keys[position][0])
        leaf = self._branches[branch_at].leaves[leaf_at]
        appended = self._append(leaf, keys, position, end_fence)
        if appended:
            return position + appended
        entries = self._entries(leaf)
        before, at_end, streaming, low = len(entries), True, False, 0
        # At most one branch's worth at a time, so that the chunks below never overflow it twice over.
        last = min(len(keys), position + BRANCH_ENTRIES * LEAF_ENTRIES // 4)
        while position < last:
            key, node = keys[position]
            if end_fence is not None and key >= end_fence:
                break
            low = self._position(entries, key, low)
            at_end = at_end and low >= before
            streaming = low > 0 and entries[low - 1] in self._recent
            entries.insert(low, node)
            self._note(node)
            low += 1
            position += 1
        split_at = low if streaming and not at_end and len(entries) > LEAF_ENTRIES else 0
        parts = [part for part in (entries[:split_at], entries[split_at:]) if part]
        self._replace_leaf(
            branch_at, leaf_at, [chunk for part in parts for chunk in _chunks(part, at_end or split_at > 0)]
        )
        return position

    def _append(self, leaf: int, keys: list[tuple[bytes, int]], position: int, end_fence: bytes | None) -> int:
        """Store keys behind a leaf's last as far as they belong and fit; how many."""
        words = self._words
        count = words[leaf]
        room = min(self._heap.size_of(leaf) - 1, LEAF_ENTRIES) - count
        if room <= 0 or keys[position][0] < node_key(self._segment, words[leaf + count]):
            return 0
        first = position
        for key, node in keys[position : position + room]:
            if end_fence is not None and key >= end_fence:
                break
            count += 1
            words[leaf + count] = node
            self._note(node)
            position += 1
        publish_barrier()
        words[leaf] = count
        return position - first

    def _note(self, node: int) -> None:
        if len(self._recent) >= _RECENT_NODES:
            self._recent.clear()
        self._recent.add(node)

    def _position(self, entries: list[int], key: bytes, low: int) -> int:
        words, mm = self._words, self._segment.mm
        high = len(entries)
        while low < high:
            middle = (low + high) >> 1
            start = entries[middle] * 8 + 16
            if mm[start : start + words[entries[middle] + 1]] < key:
                low = middle + 1
            else:
                high = middle
        return low

    def _replace_leaf(self, branch_at: int, leaf_at: int, parts: list[list[int]]) -> None:
        branch = self._branches[branch_at]
        fresh = [self._write(part, LEAF_ENTRIES) for part in parts]
        self.replaced.append(branch.leaves[leaf_at])
        self.leaf_count += len(fresh) - 1
        if len(fresh) == 1:
            branch.leaves[leaf_at] = fresh[0]
            self._words[branch.reference + 1 + leaf_at] = fresh[0]
            return
        fence = branch.fences[leaf_at]
        fences = [fence, *(node_key(self._segment, part[0]) for part in parts[1:])] if parts else []
        branch.leaves[leaf_at : leaf_at + 1] = fresh
        branch.fences[leaf_at : leaf_at + 1] = fences
        self.replaced.append(branch.reference)
        if not branch.leaves:
            self._drop_branch(branch_at)
        elif len(branch.leaves) <= BRANCH_ENTRIES:
            if not parts and leaf_at == 0:
                branch.fences[0] = fence  # the first leaf answers for everything below it, down to the branch's fence
            self._write_branch(branch_at)
            self._words[self._root + 1 + branch_at] = branch.reference
        else:
            self._split_branch(branch_at)

    def _drop_branch(self, branch_at: int) -> None:
        fence = self._fences[branch_at]
        del self._branches[branch_at], self._fences[branch_at]
        if branch_at == 0 and self._branches:
            self._fences[0] = fence
        self._write_root()

    def _split_branch(self, branch_at: int) -> None:
        branch = self._branches[branch_at]
        size = BRANCH_ENTRIES // 2 + 1
        starts = range(0, len(branch.leaves), size)
        parts = [_Branch(branch.fences[i : i + size], branch.leaves[i : i + size]) for i in starts]
        self._branches[branch_at : branch_at + 1] = parts
        self._fences[branch_at : branch_at + 1] = [self._fences[branch_at], *(p.fences[0] for p in parts[1:])]
        for i in range(branch_at, branch_at + len(parts)):
            self._write_branch(i)
        self._write_root()

    def _write(self, entries: list[int], room: int = 0) -> int:
        node = self._heap.allocate_index(max(len(entries), room) + 1)
        image = array("Q", (len(entries), *entries)).tobytes()
        self._segment.mm[node * 8 : node * 8 + len(image)] = image
        return node

    def _write_branch(self, branch_at: int) -> None:
        branch = self._branches[branch_at]
        branch.reference = self._write(branch.leaves)

    def _write_root(self) -> None:
        if self._root:
            self.replaced.append(self._root)
        self._root = self._write([b.reference for b in self._branches]) if self._branches else 0
        self._words[W_ORDER_ROOT] = self._root


def _chunks(entries: list[int], at_end: bool) -> list[list[int]]:
    """Leaves for ``entries``: full ones where keys only ever come at the end, else half full ones."""
    if len(entries) <= LEAF_ENTRIES:
        return [entries]
    size = LEAF_ENTRIES if at_end else (LEAF_ENTRIES + 1) // 2
    parts = [entries[i : i + size] for i in range(0, len(entries), size)]
    if len(parts[-1]) < size // 2 and not at_end:
        parts[-2:] = [parts[-2] + parts[-1]]
    return parts
