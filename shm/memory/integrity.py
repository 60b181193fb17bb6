"""The walk behind ``check()``: it compares everything reachable in a segment with everything that is allocated.

The process that calls ``check()`` walks its own read-only mapping of the segment at a version, while commits go on. It
asks the coordinator in slices for what only the coordinator knows (``check_parts``). Each fault found is one line. An
empty list means that both indexes hold the same keys in order, every chain of versions falls, every reference points at
a record in use, no record is used twice, and every allocation is reachable or waits to be reclaimed.

Commits may go on because nothing is freed meanwhile and no key leaves the indexes. So the walk, which passes over what
is newer than its version, meets what was reachable when the check began. Everything else in use waits to be reclaimed
or was allocated since, and the coordinator has a list of each. If the coordinator has to give the check up, the horizon
may move: then an answer is empty, and all findings are dropped with SnapshotExpiredError.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Any

from shoal.shm.errors import SnapshotExpiredError
from shoal.shm.limits import BUCKET_ENTRIES, DEFAULT_LIMITS, MAX_ENCODED_VALUE_BYTES, MAX_ENGINE_KEY_BYTES, Limits
from shoal.shm.memory import allocation_map, check_parts
from shoal.shm.memory.allocation_map import FRESH, HISTORY, IN_USE, MET, MET_AT_VERSION, AllocationMap
from shoal.shm.memory.layout import (
    CHUNK_FIRST,
    DIRECTORY_WORD,
    EXPIRES,
    INDEX_ENTRIES,
    LENGTH_MASK,
    NODE_HEADER_WORDS,
    NODE_KEY_LENGTH,
    RECORD_HEADER_WORDS,
    RECORD_META,
    REMOVED,
    TOMBSTONE,
    W_HASH_MASK,
    W_HASH_SEED,
    W_HORIZON,
    W_ORDER_ROOT,
    W_RANGE_TOMBSTONES,
    W_RANGE_TOMBSTONES_BEGIN,
    W_RANGE_TOMBSTONES_END,
)
from shoal.shm.memory.record import find_node, is_beside, node_key
from shoal.shm.memory.segment import Segment

_MOST_ENTRIES = 1 << 20  # of the root
_MOST_NAMED = 5  # references named in one line

# Returns the answer to a part of the check from a position on; empty if the check was given up.
Ask = Callable[[str, int], list[Any]]


class SegmentCheck:
    """One check of an attached segment. ``ask`` asks the coordinator for its part."""

    def __init__(self, segment: Segment, ask: Ask, limits: Limits = DEFAULT_LIMITS) -> None:
        self._segment = segment
        self._words = segment.words
        self._ask = ask
        self._limits = limits
        self._map = AllocationMap()
        self._problems: list[str] = []
        self._version = self._horizon = 0
        self._nodes: set[int] = set()  # key nodes in the ordered index
        self._live = 0  # keys
        self._newest: tuple[int, bytes] = (0, b"")  # version of a record, and its key
        # References that were met and were not in use when the check began: they must have been allocated since.
        self._unknown: list[tuple[int, str]] = []

    def run(self, insist: bool = False) -> list[str]:
        """All problems found. Raises SnapshotExpiredError if the check was given up for want of room."""
        begun = self._asked(check_parts.BEGIN, int(insist))
        self._version, self._horizon, keys, used_words, waiting_before, problems = begun
        self._problems += problems
        for (blocks,) in self._slices(check_parts.BLOCKS):
            for i in range(0, len(blocks), 3):
                self._map.add(*blocks[i : i + 3])
        buckets: set[int] = set()
        for part, problems in self._slices(check_parts.BUCKETS):
            buckets.update(array("Q", part))
            self._problems += problems
        for (problems,) in self._slices(check_parts.BRANCHES):
            self._problems += problems
        self._walk_order()
        self._walk_hash(buckets)
        self._walk_tombstones()
        waiting = array("Q")
        for part, problems in self._slices(check_parts.WAITING):
            waiting.frombytes(part)
            self._problems += problems
        fresh: set[int] = set()
        for (part,) in self._slices(check_parts.ALLOCATED):
            fresh.update(array("Q", part))
        self._compare(waiting, waiting_before, fresh, used_words)
        # Keys under a range tombstone are counted until they are swept, expired keys until they are deleted.
        if self._live != keys:
            self._say(f"the header counts {keys} live keys, the walk found {self._live}")
        (newest,) = self._asked(check_parts.END, 0)  # an answer says that the check was not given up until now
        if self._newest[0] > newest:
            self._say(f"key {self._newest[1]!r} has version {self._newest[0]}, the newest there is is {newest}")
        return self._map.problems + self._problems

    def _asked(self, part: str, position: int) -> list[Any]:
        answer = self._ask(part, position)
        if not answer:
            raise SnapshotExpiredError(self._version, self._words[W_HORIZON])
        return answer

    def _slices(self, part: str) -> Iterator[list[Any]]:
        position = 0
        while True:
            position, *answer = self._asked(part, position)
            yield answer
            if not position:
                return

    def _verify(self) -> None:
        horizon = self._words[W_HORIZON]
        if horizon > self._horizon:
            raise SnapshotExpiredError(self._version, horizon)

    def _say(self, problem: str) -> None:
        self._problems.append(problem)

    def _meet(self, reference: int, what: str, state: int = MET) -> bool:
        """Note an allocation that is reachable; False if there can be none at ``reference``."""
        before = self._map.get(reference)
        if before == IN_USE:
            self._map.set(reference, state)
        elif before == allocation_map.FREE:
            self._unknown.append((reference, what))
            return 0 < reference < len(self._words) - NODE_HEADER_WORDS
        else:
            self._say(f"record {reference} is in use twice, the second time {what} points at it")
        return True

    def _index_node(self, reference: int, most: int, what: str) -> list[int]:
        """The entries of an index node, none if it is damaged."""
        if not self._meet(reference, what):
            return []
        count = self._words[reference]
        if not 0 < count <= most:
            self._say(f"{what} at {reference} has {count} entries, 1 to {most} are possible")
            return []
        first = reference + INDEX_ENTRIES
        entries: list[int] = self._words[first : first + count].tolist()
        return entries

    def _key(self, node: int, what: str) -> bytes | None:
        """The key of a node, None if there can be none."""
        if not 0 < node < len(self._words) - NODE_HEADER_WORDS:
            self._say(f"{what} points at {node}, which is no record in use")
            return None
        length = self._words[node + NODE_KEY_LENGTH]
        if length > MAX_ENGINE_KEY_BYTES:
            self._say(f"{what} points at {node}, whose key has {length} bytes")
            return None
        return node_key(self._segment, node)

    def _walk_order(self) -> None:
        previous = b""
        root = self._words[W_ORDER_ROOT]
        for branch in self._index_node(root, _MOST_ENTRIES, "the root") if root else []:
            for leaf in self._index_node(branch, self._limits.branch_entries, "a branch"):
                for node in self._index_node(leaf, self._limits.leaf_entries, "a leaf"):
                    key = self._key(node, "a leaf")
                    if key is None:
                        continue
                    if key <= previous:
                        self._say(f"key {key!r} stands after {previous!r} in the ordered index")
                    previous = key
                    self._nodes.add(node)
                    self._walk_key(node, key)
                self._verify()

    def _walk_key(self, node: int, key: bytes) -> None:
        """Check a key of the ordered index: its node, its versions, and that the hash index has it."""
        is_old = self._walk_chain(node, key)
        self._meet(node, f"the leaf with key {key!r}", MET_AT_VERSION if is_old else MET)
        if self._find(key) != node:
            self._say(f"key {key!r} is in the ordered index and not in the hash index")

    def _walk_chain(self, node: int, key: bytes) -> bool:
        """Check a key's records down to the horizon; whether one has the version of the check or an older one."""
        words, record = self._words, self._words[node]
        seen: list[int] = []  # records at the version of the check or older
        above = 1 << 64
        if not record:
            self._say(f"key {key!r} has no version")
        while record:
            if record >= len(words) - RECORD_HEADER_WORDS:
                self._unknown.append((record, f"key {key!r}"))
                break
            version, previous, meta = words[record : record + RECORD_HEADER_WORDS].tolist()
            if version >= above:
                self._say(f"key {key!r} has version {version} below {above}")
                break
            if meta & LENGTH_MASK > MAX_ENCODED_VALUE_BYTES or meta & ~(LENGTH_MASK | TOMBSTONE | EXPIRES):
                self._say(f"key {key!r} at version {version} has impossible length or flags {meta:#x}")
            if version > self._version:
                if version > self._newest[0]:
                    self._newest = (version, key)
            else:
                seen.append(record)
            if version <= self._horizon:
                # No reader goes further down, and what is there may be reused.
                break
            above, record = version, previous
        if seen:
            self._note_records(node, key, seen)
        return bool(seen)

    def _note_records(self, node: int, key: bytes, records: list[int]) -> None:
        """Note a key's records from the newest at the version of the check down to the horizon."""
        self._live += not self._words[records[0] + RECORD_META] & TOMBSTONE
        state = MET_AT_VERSION
        for record in records:
            if not is_beside(self._words, node, record, self._map.size_of(node)):
                self._meet(record, f"key {key!r}", state)
            if self._words[record] <= self._horizon:
                break
            state = HISTORY

    def _find(self, key: bytes) -> int:
        """The key node that the hash index has for ``key``, 0 if it has none."""
        try:
            return find_node(self._words, self._segment.mm, self._words[W_HASH_SEED], key)
        except IndexError:
            return 0

    def _walk_hash(self, known: set[int]) -> None:
        """Check the hash directory and its buckets, of which ``known`` were in use when the check began."""
        words = self._words
        entries = words[W_HASH_MASK] + 1
        directory = set(words[DIRECTORY_WORD : DIRECTORY_WORD + entries].tolist())
        for bucket in directory:
            if bucket in known:
                self._meet(bucket, "the hash directory")
            else:
                self._unknown.append((bucket, "the hash directory"))
                if bucket >= len(words) - BUCKET_ENTRIES:
                    continue
            for node in words[bucket : bucket + BUCKET_ENTRIES].tolist():
                if node > REMOVED and node not in self._nodes:
                    key = self._key(node, f"bucket {bucket}")
                    if key is None:
                        continue
                    if self._map.get(node) == allocation_map.FREE:
                        self._unknown.append((node, f"bucket {bucket}"))
                    elif self._walk_chain(node, key):
                        self._say(f"key {key!r} is in the hash index and not in the ordered index")
            self._verify()

    def _walk_tombstones(self) -> None:
        """Check the chunks of range tombstones, newest first; no row is removed while the reclaimer is paused."""
        words, begin = self._words, self._words[W_RANGE_TOMBSTONES_BEGIN]
        chunk, above = words[W_RANGE_TOMBSTONES], words[W_RANGE_TOMBSTONES_END] + 1
        while chunk and self._meet(chunk, "the range tombstones"):
            first = words[chunk + CHUNK_FIRST]
            if first >= above:
                self._say(f"the chunk of range tombstones at {chunk} begins at {first}, not before {above}")
                break
            if first <= begin:
                break
            chunk, above = words[chunk], first
        self._verify()

    def _compare(self, waiting: array[int], waiting_before: int, fresh: set[int], used_words: int) -> None:
        """Compare: what was met, what waits and what was allocated since must be all that is in use, each once."""
        of = self._map
        for reference, what in self._unknown:
            if reference not in fresh:
                self._say(f"{what} points at {reference}, which is no record in use")
        seen: set[int] = set()
        for i, reference in enumerate(waiting):
            state = of.get(reference)
            if reference in seen:
                self._say(f"record {reference} waits to be reclaimed twice")
            elif state == allocation_map.FREE and reference not in fresh:
                self._say(f"record {reference} waits to be reclaimed and is no record in use")
            elif i < waiting_before and state in (MET, MET_AT_VERSION):
                self._say(f"record {reference} waits to be reclaimed and is reachable")
            elif state in (IN_USE, HISTORY):
                of.set(reference, allocation_map.WAITING)
            seen.add(reference)
        for reference in fresh:
            state = of.get(reference)
            if state == MET_AT_VERSION:
                self._say(f"record {reference} is in use at version {self._version} and was allocated again")
            elif state != allocation_map.FREE:
                of.set(reference, FRESH)
        lost = of.references(IN_USE) + of.references(HISTORY)
        if lost:
            words, named = sum(map(of.size_of, lost)), ", ".join(map(str, lost[:_MOST_NAMED]))
            self._say(f"{words} words are allocated and neither reachable nor waiting: {len(lost)} records, as {named}")
        found_words = of.words_but(allocation_map.FREE, FRESH)
        if found_words != used_words:
            self._say(f"{used_words} words are counted as allocated, {found_words} are")
