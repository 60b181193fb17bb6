"""Gives memory back, in slices between commits: what no snapshot sees, deleted keys, keys under range tombstones.

Only the coordinator frees memory, in this order (``snapshots`` and ``reader`` have the other half of the protocol):
1. a barrier, then a look at every slot: the oldest version that is pinned;
2. the horizon is stored, at most that version and the published one. A reader below it will notice;
3. only then is memory freed that became obsolete at or before the horizon.
Keys leave both indexes while version P is published. A snapshot up to P may still hold their nodes, so these count as
obsolete from P + 1 on, and so do the leaves that they were in, and the range tombstone over them. A step removes as
many keys as there is room for new leaves, and the next version frees the old ones. Nothing here is kept on disk: killed
at any point, the coordinator leaves a segment that readers can read to the end, and the next one builds another.

Snapshots older than ``snapshot_grace_s`` are revoked when the store is nearly full, when the history that old snapshots
hold is larger than the data by ``history_bytes``, or when there are more than ``max_range_tombstones``: the horizon
passes them, and their next read raises SnapshotExpiredError.

Past versions are kept for time travel from ``kept_from`` on: the horizon does not pass it. ``checkpoint.history`` moves
it on with time. When less than one block in ``_SHARE_FOR_HISTORY`` is free, the oldest of that history goes first, a
slice at a time; a commit that finds no room has half of it given up, until there is room or none is left.

While the store is checked nothing is freed and the horizon stands still. So what was in use when the check began stays
in use, and what becomes obsolete is noted behind it. The check is given up when this takes too much room or a commit
waits for room. A check that insists, because others were given up before it, is left ``snapshot_grace_s`` first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from shoal.coordinator.memory.heap import BRANCH_BLOCKS, RECLAIM_BLOCKS, WORST_CASE_BLOCKS
from shoal.coordinator.memory.tombstone_table import RangeTombstone
from shoal.coordinator.memory.writer import Writer
from shoal.shm.memory.layout import (
    RECORD_HEADER_WORDS,
    RECORD_META,
    TOMBSTONE,
    W_HISTORY_VERSION,
    W_HORIZON,
    W_PUBLISHED,
)
from shoal.shm.memory.record import is_cleared
from shoal.shm.memory.words import barrier, publish_barrier

# The store is short of space when less than one in so many blocks is free.
_SHORT_OF_SPACE = 4
_SHARE_FOR_HISTORY = 8
KEEPS_NOTHING = (1 << 64) - 1  # ``kept_from`` of a store that keeps no past versions
# Finding where the keys of a range begin takes about as long as looking at so many keys.
_RANGE_COST = 8


class Reclaimer:
    """Frees what ``writer`` noted as obsolete; ``pinned`` returns every version that clients hold.

    Its limits are those of the writer.
    """

    def __init__(self, writer: Writer, pinned: Callable[[], list[int]]) -> None:
        self._writer = writer
        self._words = writer.segment.words
        self.limits = writer.limits
        self.pinned = pinned
        self._published_at: deque[tuple[float, int]] = deque()  # (time in s, version published then), oldest first
        self._left = 0  # obsolete allocations and deleted keys that the last step left
        # The version published when there was no room for the leaves that replace others; -1: there was.
        self._lacked_room_at = -1
        self._swept = 0  # number of the oldest range tombstones that have no keys left
        self.held: list[int] = []  # versions pinned by a checkpoint being written: never revoked
        self.watched: dict[int, int] = {}  # by watch: the version it has been told up to (``presence.changes``)
        self.kept_from = KEEPS_NOTHING  # this version and all newer ones are kept for time travel
        self.oldest_snapshot = 0  # the oldest version that somebody has pinned, when last looked at
        self.revoked = 0
        self.paused = False  # for a check; set to False here when the check is given up
        self.insists_until_s = 0.0  # until then it is not given up for a commit that waits for room

    def due(self) -> bool:
        """Whether enough became obsolete since the last step to be worth one."""
        writer = self._writer
        if self.paused:
            return False
        if self._lacked_room_at >= 0:
            return self._words[W_PUBLISHED] > self._lacked_room_at
        return len(writer.garbage) + len(writer.deleted_keys) >= self._left + self.limits.reclaim_every

    def idle_work(self) -> bool:
        """Whether a step may find something to do."""
        writer, kept_from = self._writer, self.kept_from
        garbage, deleted, rows = writer.garbage, writer.deleted_keys, writer.range_tombstones
        if kept_from == KEEPS_NOTHING or self._keeps_too_much():
            return bool(garbage or deleted or rows)
        return self._has_work(kept_from)

    def keep_from(self, version: int) -> None:
        """Keep this version and all newer ones for time travel, and say so in the segment."""
        self.kept_from = self._words[W_HISTORY_VERSION] = version

    def kept_bytes(self) -> int:
        """What obsolete versions take that cannot be freed yet."""
        return self._writer.garbage_words * 8

    def give_up_history(self) -> bool:
        """Give up the older half of what is kept for time travel; False if nothing is."""
        published: int = self._words[W_PUBLISHED]
        if self.kept_from >= published:
            return False
        garbage = self._writer.garbage
        half = garbage[len(garbage) // 2][0] if len(garbage) > self.limits.reclaim_slice else published
        self.keep_from(min(published, max(self.kept_from + 1, half)))
        return True

    def waits_for_a_version(self) -> bool:
        """Whether memory can be freed as soon as a newer version is published."""
        garbage, published = self._writer.garbage, self._words[W_PUBLISHED]
        if self._swept and self._writer.range_tombstones[0].gone_at == published:
            return True
        return bool(garbage) and garbage[0][0] == published + 1

    def step(self, now_s: float, urgent: bool = False, *, alone: bool = False) -> bool:
        """One slice of work. True if more is ready to be done.

        ``urgent``: a commit waits for room. ``alone``: nobody reads yet, so what leaves the indexes is free at once.
        """
        writer, words = self._writer, self._words
        needed = urgent and now_s >= self.insists_until_s
        self.paused = self.paused and not (needed or self._check_is_long())
        if self.paused:
            return False
        self._note_time(now_s)
        if self.kept_from < words[W_PUBLISHED] and self._keeps_too_much():
            self._give_up_slice()
        horizon = self._raise_horizon(now_s, urgent)
        published = words[W_PUBLISHED]
        budget = self.limits.reclaim_slice
        budget -= self._free(horizon, budget)
        gone_from = published if alone else published + 1
        self._lacked_room_at = -1
        budget -= self._remove_dead_keys(horizon, gone_from, budget)
        if writer.range_tombstones and budget > 0 and self._lacked_room_at < 0:
            self._sweep_cleared_keys(horizon, published, gone_from)
            self._drop_range_tombstones(horizon, published)
        writer.end_group(gone_from)
        writer.forget_budget()
        self._left = len(writer.garbage) + len(writer.deleted_keys)
        if self._lacked_room_at >= 0:  # the index nodes that were replaced must be free first
            return bool(writer.garbage) and writer.garbage[0][0] <= horizon
        return self._has_work(horizon)

    def _has_work(self, horizon: int) -> bool:
        """Whether another step at once would free or remove anything."""
        garbage, deleted, rows = self._writer.garbage, self._writer.deleted_keys, self._writer.range_tombstones
        return bool(
            (garbage and garbage[0][0] <= horizon)
            or (deleted and deleted[0][0] <= horizon)
            or (self._swept < len(rows) and rows[self._swept].version <= horizon)
            or (self._swept > 0 and rows[0].gone_at < horizon)
        )

    def _note_time(self, now_s: float) -> None:
        """Note what is published now, and forget what is older than the first entry of a grace ago."""
        times = self._published_at
        if not times or now_s - times[-1][0] >= 0.05:
            times.append((now_s, self._words[W_PUBLISHED]))
        while len(times) > 1 and now_s - times[1][0] >= self.limits.snapshot_grace_s:
            times.popleft()

    def _raise_horizon(self, now_s: float, urgent: bool) -> int:
        """Store the highest horizon that is allowed now, and return it."""
        words = self._words
        published = words[W_PUBLISHED]
        barrier()
        pinned = self.pinned()
        horizon = self.oldest_snapshot = min((published, *pinned, *self.watched.values(), *self.held))
        if horizon < published and (urgent or self._short_of_space()):
            first_s, old_version = self._published_at[0]
            is_old = now_s - first_s >= self.limits.snapshot_grace_s
            forgotten = (urgent or is_old) and self._forget_watches(published if urgent else old_version)
            if is_old and not forgotten:
                # A pin below the version that was published a grace ago is older than the grace.
                kept = [version for version in pinned if version >= old_version]
                self.revoked += len(pinned) - len(kept)
                pinned = kept
            horizon = min((published, *pinned, *self.watched.values(), *self.held))
        horizon = min(horizon, self.kept_from)
        if horizon > words[W_HORIZON]:
            words[W_HORIZON] = horizon
            publish_barrier()
        current: int = words[W_HORIZON]
        return current

    def _forget_watches(self, old_version: int) -> bool:
        """Keep nothing any more for watches that are below a version, before snapshots go; whether there was one.

        A watch can go on from the log. So it is forgotten, until it asks again; at any age if a commit waits for room.
        """
        old = [watch for watch, version in self.watched.items() if version < old_version]
        for watch in old:
            del self.watched[watch]
        return bool(old)

    def _short_of_space(self) -> bool:
        writer = self._writer
        few_are_free = writer.heap.free_blocks * _SHORT_OF_SPACE < writer.heap.block_count
        kept = writer.garbage_words > 0 or bool(writer.range_tombstones)
        return self._history_is_long() or (few_are_free and kept)

    def _history_is_long(self) -> bool:
        """Whether old snapshots hold back more than the limits allow."""
        return self._check_is_long() if self.kept_from == KEEPS_NOTHING else self._keeps_too_much()

    def _check_is_long(self) -> bool:
        """Whether a check holds back too much. Memory that time travel fills is given up behind it, as ever."""
        writer = self._writer
        if len(writer.range_tombstones) > self.limits.max_range_tombstones:
            return True
        kept_words = writer.garbage_words + writer.dead_words
        live_words = writer.heap.used_words - kept_words
        is_long = kept_words * 8 > self.limits.history_bytes + live_words * 8
        return is_long and self.kept_from == KEEPS_NOTHING

    def _keeps_too_much(self) -> bool:
        """Whether what is kept for time travel must give way."""
        heap = self._writer.heap
        is_full = heap.free_blocks * _SHARE_FOR_HISTORY < heap.block_count
        return is_full or len(self._writer.range_tombstones) > self.limits.max_range_tombstones

    def _give_up_slice(self) -> None:
        """Let the horizon pass the oldest of what is kept for time travel, unless there is work below it already."""
        writer, most = self._writer, self.limits.reclaim_slice
        garbage, deleted, rows = writer.garbage, writer.deleted_keys, writer.range_tombstones
        if self._has_work(self._words[W_HORIZON]):
            return
        obsolete_at = [waiting[min(most, len(waiting)) - 1][0] for waiting in (garbage, deleted) if waiting]
        if self._swept < len(rows):
            obsolete_at.append(rows[self._swept].version)
        if self._swept:
            obsolete_at.append(rows[0].gone_at + 1)
        published = self._words[W_PUBLISHED]
        self.keep_from(max(self.kept_from, min((published, *obsolete_at))))

    def _free(self, horizon: int, budget: int) -> int:
        """Free up to ``budget`` allocations that are obsolete at the horizon; how many."""
        return self._writer.free_obsolete(horizon, budget)

    def _remove_dead_keys(self, horizon: int, gone_from: int, budget: int) -> int:
        """Remove keys that no snapshot sees any more, looking at ``budget`` deleted ones at most; at how many."""
        writer, words = self._writer, self._words
        deleted = writer.deleted_keys
        dead: list[tuple[bytes, int]] = []
        done = 0
        while deleted and deleted[0][0] <= horizon and done < budget:
            version, key = deleted.popleft()
            done += 1
            node = writer.hash_index.find(key)
            if node:
                record = words[node]
                if words[record] == version and words[record + RECORD_META] & TOMBSTONE:
                    dead.append((key, node))
        left = self._remove(dead, gone_from)
        deleted.extendleft(sorted(((words[words[node]], key) for key, node in left), reverse=True))
        return done - len(left)

    def _remove(self, dead: list[tuple[bytes, int]], gone_from: int) -> list[tuple[bytes, int]]:
        """Remove keys from both indexes; their nodes and newest records are obsolete from version ``gone_from`` on.

        Returns the keys that must stay for now, because there is no room for index nodes without them.
        """
        if not dead:
            return []
        writer = self._writer
        dead.sort()
        words = self._words
        done = writer.ordered_index.remove(dead, self._blocks_not_for_leaves())
        for key, node in dead[:done]:
            record = words[node]
            meta = words[record + RECORD_META]
            writer.hash_index.remove(key, node)
            writer.discard_record(gone_from, node, record, meta)
            writer.discard(gone_from, node, writer.heap.size_of(node))
            writer.expiry.discard(key)
            if meta & TOMBSTONE:
                writer.dead_words -= writer.heap.size_of(node) + RECORD_HEADER_WORDS
            else:
                writer.keys -= 1  # it was cleared
        writer.raise_epoch()
        if done < len(dead):
            self._lacked_room_at = words[W_PUBLISHED]
        return dead[done:]

    def _blocks_not_for_leaves(self) -> int:
        """How many free blocks the leaves that replace others leave alone now.

        What was replaced is free with the next version, so leaves need room for one step, again and again. They do not
        take what commits find room in; where that is not there, no more than that one step needs.
        """
        writer, heap = self._writer, self._writer.heap
        for_commits = heap.reserve_blocks + WORST_CASE_BLOCKS + RECLAIM_BLOCKS
        if heap.free_blocks > for_commits:
            return for_commits
        waits = bool(writer.garbage) and writer.garbage[-1][0] > self._words[W_PUBLISHED]
        missing = 0 if waits else heap.leaf_blocks(writer.ordered_index.leaf_words)
        return max(BRANCH_BLOCKS, heap.free_blocks - missing)

    def _sweep_cleared_keys(self, horizon: int, published: int, gone_from: int) -> None:
        """Remove keys under the oldest range tombstones, which no snapshot sees any more: one slice in all."""
        rows = self._writer.range_tombstones
        dead: dict[bytes, int] = {}
        budget, swept, begun = self.limits.clear_slice, self._swept, []
        while budget > 0 and self._swept < len(rows) and rows[self._swept].version <= horizon:
            row = rows[self._swept]
            begun.append((row, row.cursor))
            budget -= _RANGE_COST + self._sweep_slice(row, dead, budget)
            if row.cursor != row.upper:
                break
            row.gone_at = published
            self._swept += 1
        if self._remove(list(dead.items()), gone_from):  # some keys stay: look at these ranges again
            self._swept = swept
            for row, cursor in begun:
                row.cursor = cursor

    def _sweep_slice(self, row: RangeTombstone, dead: dict[bytes, int], most: int) -> int:
        """Add cleared keys of a range to ``dead``, looking at ``most`` keys from its cursor on; at how many."""
        writer, words = self._writer, self._words
        looked_at = 0
        for key, node in writer.ordered_index.iterate(row.cursor, row.upper):
            if looked_at == most:
                row.cursor = key
                return looked_at
            looked_at += 1
            if is_cleared(words, node, row.version):
                dead[key] = node
        row.cursor = row.upper
        return looked_at

    def _drop_range_tombstones(self, horizon: int, published: int) -> None:
        """Remove range tombstones whose keys are gone, once no snapshot is left from before the keys went.

        Such a snapshot may still hold nodes of these keys. It may also read a key that was written again since, whose
        cleared record is then behind the newer one.
        """
        rows, most = self._writer.range_tombstones, min(self._swept, self.limits.clear_slice)
        gone = next((at for at in range(most) if rows[at].gone_at >= horizon), most)
        if gone:
            self._writer.drop_range_tombstones(published + 1, gone)
            self._swept -= gone
