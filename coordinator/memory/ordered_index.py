"""Keys in order: root -> branches -> leaves -> key nodes, three levels, each node copied on write.

Only the coordinator writes it, once per group of commits for all keys that are new in the group; overwriting a key
costs nothing here. Readers need no lock:
- a leaf with room grows at its end: the reference is stored, then the count. Any other change writes a new leaf, then
  one store points the branch at it;
- when leaves are added or removed, the branch is copied once for all of them, then one store points the root at the
  copy; likewise the root and the header;
- what was replaced stays as it is until no snapshot from before is left (``reclaim``).
A reader in an old node misses only keys newer than its snapshot. Killed between any two stores, the coordinator leaves
an index in which every published key is found. Three levels hold 10^8 keys.

Keys mostly arrive in rising streams (events, times, ids made in order), each of which ends in the middle of all keys.
So a full leaf is split at the position where such a stream goes on; from then on its keys are appended in place.

The coordinator keeps a private mirror of the upper levels, in which ``fences[i] <= each key of node i < fences[i + 1]``
is searched with ``bisect``. Readers have no fences and compare with the first key below a node.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from operator import gt

from shoal.coordinator.memory.heap import BRANCH_BLOCKS, Heap
from shoal.shm.limits import DEFAULT_LIMITS, Limits
from shoal.shm.memory.layout import INDEX_ENTRIES, NODE_KEY_BYTE, NODE_KEY_LENGTH, W_ORDER_ROOT
from shoal.shm.memory.record import node_key
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.words import publish_barrier

try:
    from cython import compiled
except ModuleNotFoundError:
    from shoal.shm.cython_shim import compiled

if compiled:
    from cython.cimports.bytes_at import less, listed, write_words

_RECENT_NODES = 512  # inserted lately and kept: the streams followed at a time, times the keys a group adds to each
_ROOT_STEP = 64  # entries by which the root grows, so that a new root fits where an old one was


class _Branch:
    """The mirror of a branch: its leaves, and the fence below each."""

    __slots__ = ("fences", "leaves", "reference")

    def __init__(self, fences: list[bytes], leaves: list[int]) -> None:
        self.fences = fences
        self.leaves = leaves
        self.reference = 0


class OrderedIndex:
    """The writer's side of the ordered index."""

    def __init__(self, segment: Segment, heap: Heap, limits: Limits = DEFAULT_LIMITS) -> None:
        self._segment = segment
        self._words = segment.words
        self._heap = heap
        self._leaf_entries = limits.leaf_entries
        self.leaf_words = INDEX_ENTRIES + limits.leaf_entries
        self._branch_entries = limits.branch_entries
        self._fences: list[bytes] = []
        self.branches: list[_Branch] = []
        self._root = 0
        self.leaf_count = 0  # a commit of scattered new keys may have to copy so many
        self.replaced: list[int] = []  # nodes no longer reachable, for reclaim
        self._changed = -1  # the branch whose copy in the segment is behind its mirror; -1 for none
        self._recent: set[int] = set()  # key nodes inserted lately: a key right behind one of them continues a stream

    def insert(self, keys: list[tuple[bytes, int]]) -> None:
        """Add ``(key, node)`` pairs, sorted, none of them present."""
        position = 0
        if keys and not self.branches:
            position = self._begin(keys)
        while position < len(keys):
            branch_at, leaf_at, end_fence = self._turn_to(keys[position][0])
            branch = self.branches[branch_at]
            appended = self._append(branch.leaves[leaf_at], keys, position, end_fence)
            position = position + appended if appended else self._merge(branch_at, leaf_at, keys, position, end_fence)
        self._write_changed()

    def remove(self, keys: list[tuple[bytes, int]], keep_blocks: int = BRANCH_BLOCKS) -> int:
        """Take out ``(key, node)`` pairs, sorted, while leaves have room above ``keep_blocks``; how many were."""
        position = 0
        while position < len(keys):
            branch_at, leaf_at, end_fence = self._turn_to(keys[position][0])
            if not self._has_room(keep_blocks):
                break
            gone = set()
            while position < len(keys) and (end_fence is None or keys[position][0] < end_fence):
                gone.add(keys[position][1])
                position += 1
            branch = self.branches[branch_at]
            entries = self._entries(branch.leaves[leaf_at])
            kept = [node for node in entries if node not in gone]
            assert len(kept) == len(entries) - len(gone), "removing a key that is not in the ordered index"
            self._replace_leaf(branch_at, leaf_at, [kept] if kept else [])
        self._write_changed()
        return position

    def iterate(self, lower: bytes, upper: bytes | None) -> Iterator[tuple[bytes, int]]:
        """The writer's own walk over ``[lower, upper)``; the index must not change meanwhile."""
        if not self.branches:
            return
        branch_at, leaf_at, _ = self._locate(lower)
        for branch in self.branches[branch_at:]:
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
        for branch in self.branches:
            yield branch.reference
            yield from branch.leaves

    def branch_differs(self, branch_at: int) -> bool | None:
        """Whether a branch in the segment is not what the mirror has; None if there is no such branch (any more)."""
        if branch_at >= len(self.branches):
            return None
        branch, words = self.branches[branch_at], self._words
        if words[W_ORDER_ROOT] != self._root or words[self._root + INDEX_ENTRIES + branch_at] != branch.reference:
            return True
        if self._entries(branch.reference) != branch.leaves or len(branch.fences) != len(branch.leaves):
            return True
        # Keys below its fence may belong to the first leaf of a branch.
        firsts = [node_key(self._segment, words[leaf + INDEX_ENTRIES]) for leaf in branch.leaves[1:]]
        return any(map(gt, branch.fences[1:], firsts))

    def _has_room(self, keep_blocks: int) -> bool:
        """Whether a leaf can be replaced, and then the branch that was changed, and the root."""
        heap = self._heap
        if heap.free_blocks > keep_blocks and heap.make_ready(BRANCH_BLOCKS + 1, 0):
            return True
        nodes = (self._leaf_entries, self._branch_entries, self._root_entries(0), self._root_entries(1))
        leaf, branch, *roots = [heap.blocks_for(1, INDEX_ENTRIES + entries, for_index=True) for entries in nodes]
        return leaf == 0 and branch + max(roots) <= heap.ready_blocks

    def _turn_to(self, key: bytes) -> tuple[int, int, bytes | None]:
        """As ``_locate``. If another branch was changed before, that one is written first."""
        if self._changed >= 0 and self._locate(key)[0] != self._changed:
            self._write_changed()
        return self._locate(key)

    def _write_changed(self) -> None:
        """Copy the branch whose number of leaves has changed in its mirror, and have the root lead to the copy."""
        if self._changed < 0:
            return
        branch_at, self._changed = self._changed, -1
        branch = self.branches[branch_at]
        self.replaced.append(branch.reference)
        if not branch.leaves:
            self._drop_branch(branch_at)
        elif len(branch.leaves) <= self._branch_entries:
            self._write_branch(branch_at)
            self._words[self._root + INDEX_ENTRIES + branch_at] = branch.reference
        else:
            self._split_branch(branch_at)

    def _locate(self, key: bytes) -> tuple[int, int, bytes | None]:
        """Branch, leaf in it, and the fence above that leaf (None: no end) of where ``key`` belongs."""
        branch_at = max(0, bisect_right(self._fences, key) - 1)
        branch = self.branches[branch_at]
        leaf_at = max(0, bisect_right(branch.fences, key) - 1)
        if leaf_at + 1 < len(branch.fences):
            return branch_at, leaf_at, branch.fences[leaf_at + 1]
        if branch_at + 1 < len(self._fences):
            return branch_at, leaf_at, self._fences[branch_at + 1]
        return branch_at, leaf_at, None

    def _entries(self, node: int) -> list[int]:
        words, first = self._words, node + INDEX_ENTRIES
        if compiled:  # noqa: SIM108 (mypy knows the names of C in statements alone)
            entries = listed(words, first, words[node])
        else:
            entries = words[first : first + words[node]].tolist()
        return entries

    def _begin(self, keys: list[tuple[bytes, int]]) -> int:
        """Store the first keys of an empty index in its first leaf; how many."""
        first = [node for _, node in keys[: self._leaf_entries]]
        self.branches = [_Branch([b""], [self._write(first, self._leaf_entries)])]
        self._fences = [b""]
        self.leaf_count = 1
        self._write_branch(0)
        self._write_root()
        return len(first)

    def _merge(
        self, branch_at: int, leaf_at: int, keys: list[tuple[bytes, int]], position: int, end_fence: bytes | None
    ) -> int:
        """Replace a leaf by leaves with the keys from ``position`` on that belong to it; the position after them."""
        entries = self._entries(self.branches[branch_at].leaves[leaf_at])
        old_count, at_end, continues, low = len(entries), True, False, 0
        # No more than a quarter of a branch at a time, so that the new leaves never overflow the branch twice over.
        last = min(len(keys), position + self._branch_entries * self._leaf_entries // 4)
        if keys[position][0] > node_key(self._segment, entries[-1]):  # all of them belong behind the leaf's last key
            last = last if end_fence is None else bisect_left(keys, (end_fence,), position, last)
            entries += [node for _, node in keys[position:last]]
            for node in entries[max(old_count, len(entries) - _RECENT_NODES) :]:
                self._note(node)
            position = last
        while position < last:
            key, node = keys[position]
            if end_fence is not None and key >= end_fence:
                break
            low = self._position(entries, key, low)
            at_end = at_end and low >= old_count
            continues = low > 0 and entries[low - 1] in self._recent
            entries.insert(low, node)
            self._note(node)
            low += 1
            position += 1
        if continues and not at_end and len(entries) > self._leaf_entries:
            # The last key continues a stream: the leaf that ends with it has the stream's next keys appended.
            parts = self._chunks(entries[:low], True)
            if low < len(entries):
                parts += self._chunks(entries[low:], True)
        else:
            parts = self._chunks(entries, at_end)
        self._replace_leaf(branch_at, leaf_at, parts)
        return position

    def _append(self, leaf: int, keys: list[tuple[bytes, int]], position: int, end_fence: bytes | None) -> int:
        """Store keys behind the last one of a leaf, as far as they belong there and fit; how many."""
        words = self._words
        count = words[leaf]
        first, room = position, min(self._heap.size_of(leaf) - INDEX_ENTRIES, self._leaf_entries) - count
        if room <= 0 or not self._is_before(words[leaf + count], keys[position][0]):
            return 0
        for key, node in keys[position : position + room]:
            if end_fence is not None and key >= end_fence:
                break
            count += 1
            words[leaf + count] = node
            position += 1
        for _, node in keys[max(first, position - _RECENT_NODES) : position]:
            self._note(node)
        publish_barrier()
        words[leaf] = count
        return position - first

    def _note(self, node: int) -> None:
        if len(self._recent) >= _RECENT_NODES:
            self._recent.clear()
        self._recent.add(node)

    def _position(self, entries: list[int], key: bytes, low: int) -> int:
        """Where ``key`` belongs among key nodes in order, at ``low`` or behind."""
        high = len(entries)
        while low < high:
            middle = (low + high) >> 1
            if self._is_before(entries[middle], key):
                low = middle + 1
            else:
                high = middle
        return low

    def _is_before(self, node: int, key: bytes) -> bool:
        """Whether the key of ``node`` is less than ``key``."""
        start, length = node * 8 + NODE_KEY_BYTE, self._words[node + NODE_KEY_LENGTH]
        if compiled:  # noqa: SIM108
            is_before = less(self._words, start, length, key)
        else:
            is_before = self._segment.mm[start : start + length] < key
        return is_before

    def _replace_leaf(self, branch_at: int, leaf_at: int, parts: list[list[int]]) -> None:
        """Put leaves with these key nodes in the place of a leaf; no parts remove it. See ``_write_changed``."""
        branch = self.branches[branch_at]
        fresh = [self._write(part, self._leaf_entries) for part in parts]
        self.replaced.append(branch.leaves[leaf_at])
        self.leaf_count += len(fresh) - 1
        if len(fresh) == 1:
            branch.leaves[leaf_at] = fresh[0]
            if self._changed != branch_at:
                self._words[branch.reference + INDEX_ENTRIES + leaf_at] = fresh[0]
            return
        fence = branch.fences[leaf_at]
        fences = [fence, *(node_key(self._segment, part[0]) for part in parts[1:])] if parts else []
        branch.leaves[leaf_at : leaf_at + 1] = fresh
        branch.fences[leaf_at : leaf_at + 1] = fences
        if not parts and leaf_at == 0 and branch.leaves:
            branch.fences[0] = fence  # keys below the first leaf, down to the branch's fence, belong to it
        self._changed = branch_at

    def _drop_branch(self, branch_at: int) -> None:
        fence = self._fences[branch_at]
        del self.branches[branch_at], self._fences[branch_at]
        if branch_at == 0 and self.branches:
            self._fences[0] = fence
        self._write_root()

    def _split_branch(self, branch_at: int) -> None:
        branch = self.branches[branch_at]
        size = self._branch_entries // 2 + 1
        starts = range(0, len(branch.leaves), size)
        parts = [_Branch(branch.fences[i : i + size], branch.leaves[i : i + size]) for i in starts]
        self.branches[branch_at : branch_at + 1] = parts
        self._fences[branch_at : branch_at + 1] = [self._fences[branch_at], *(p.fences[0] for p in parts[1:])]
        for i in range(branch_at, branch_at + len(parts)):
            self._write_branch(i)
        self._write_root()

    def _chunks(self, entries: list[int], at_end: bool) -> list[list[int]]:
        """Key nodes for each new leaf: full leaves where keys are only added at the end, else half full ones."""
        if len(entries) <= self._leaf_entries:
            return [entries]
        size = self._leaf_entries if at_end else (self._leaf_entries + 1) // 2
        parts = [entries[i : i + size] for i in range(0, len(entries), size)]
        if len(parts[-1]) < size // 2 and not at_end:
            parts[-2:] = [parts[-2] + parts[-1]]
        return parts

    def _write(self, entries: list[int], room: int = 0) -> int:
        """A new index node with ``entries``, with room for at least ``room``."""
        node = self._heap.allocate_index(INDEX_ENTRIES + max(len(entries), room))
        if compiled:
            write_words(self._words, node, [len(entries), *entries])
        else:
            image = array("Q", (len(entries), *entries)).tobytes()
            self._segment.mm[node * 8 : node * 8 + len(image)] = image
        return node

    def _write_branch(self, branch_at: int) -> None:
        branch = self.branches[branch_at]
        branch.reference = self._write(branch.leaves, self._branch_entries)

    def _write_root(self) -> None:
        if self._root:
            self.replaced.append(self._root)
        references = [branch.reference for branch in self.branches]
        self._root = self._write(references, self._root_entries(0)) if references else 0
        self._words[W_ORDER_ROOT] = self._root

    def _root_entries(self, fewer: int) -> int:
        """For how many branches a root has room that leads to so many fewer than there are."""
        return -(-max(1, len(self.branches) - fewer) // _ROOT_STEP) * _ROOT_STEP
