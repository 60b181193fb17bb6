"""Gives memory back: what no snapshot sees, dead keys, and the keys of cleared ranges, in slices between commits.

The order that makes it safe (``snapshots`` and ``reader`` have the other half):
1. a barrier, then a look at every slot: the oldest version anyone pinned;
2. the horizon is stored, at most that version and the published one. Whoever reads below it will notice;
3. only then is memory freed that became obsolete at or before the horizon.
Keys leave both indexes at a moment when version P is published. Who pinned up to P may still hold their nodes, so
these count as obsolete from P + 1 on, and so does the range tombstone over them.

When old snapshots hold more history than the data is large or too many range tombstones, or the store is nearly full,
those older than a second are revoked: the horizon passes them, and their next read says so.

While the store is checked nothing is given back and the horizon stands still: what was in use when the check began
stays so, and what becomes obsolete is noted behind it. The check is given up when that takes too much room or a commit
waits for some. A check that insists, as others were given up before it, is left a second for that, as a young snapshot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from shoal.coordinator.memory.heap import RECLAIM_BLOCKS
from shoal.coordinator.memory.tombstone_table import RangeTombstone
from shoal.coordinator.memory.writer import Writer
from shoal.shm import limits
from shoal.shm.memory.layout import TOMBSTONE, W_HORIZON, W_PUBLISHED
from shoal.shm.memory.words import barrier, publish_barrier

# Less than one in so many blocks free is short of space.
_SHORT_OF_SPACE = 4
# To look for the keys of a range takes about as long as to look at so many keys.
_RANGE_COST = 8


class Reclaimer:
    """Frees what ``writer`` noted as obsolete; ``pinned`` gives every version that clients hold."""

    def __init__(self, writer: Writer, pinned: Callable[[], list[int]]) -> None:
        self._writer = writer
        self._words = writer.segment.words
        self.pinned = pinned
        self._published_at: deque[tuple[float, int]] = deque()  # (moment, version published then), oldest first
        self._noted = 0
        self._swept = 0  # so many of the oldest range tombstones have no keys left
        self.held: list[int] = []  # versions pinned by a checkpoint being written: never revoked
        self.revoked = 0
        self.paused = False  # for a check; whoever began it finds out that it was given up
        self.insists_until_s = 0.0  # until then it is not given up for a commit that waits for room

    def due(self) -> bool:
        """Whether enough became obsolete since the last step to be worth one."""
        writer = self._writer
        return not self.paused and len(writer.garbage) + len(writer.tombstones) >= self._noted + limits.RECLAIM_EVERY

    def idle_work(self) -> bool:
        """Whether a step may find something to do."""
        writer = self._writer
        return bool(writer.garbage or writer.tombstones or writer.clears)

    def waits_for_a_version(self) -> bool:
        """Whether all that keeps memory from being freed is that nothing newer has been published since."""
        garbage, published = self._writer.garbage, self._words[W_PUBLISHED]
        if self._swept and self._writer.clears[0].gone_at == published:
            return True
        return bool(garbage) and garbage[0][0] == published + 1

    def step(self, now_s: float, urgent: bool = False) -> bool:
        """One slice of work; ``urgent`` when a commit waits for room. True if more is ready to be done."""
        writer, words = self._writer, self._words
        needed = urgent and now_s >= self.insists_until_s
        self.paused = self.paused and not (needed or self._history_is_long())
        if self.paused:
            return False
        self._note_time(now_s)
        horizon = self._raise_horizon(now_s, urgent)
        published = words[W_PUBLISHED]
        budget = limits.RECLAIM_SLICE
        budget -= self._free(horizon, budget)
        if writer.heap.make_ready(RECLAIM_BLOCKS // 2, 0):  # removing keys copies index nodes
            budget -= self._remove_dead_keys(horizon, published, budget)
            if writer.clears and budget > 0:
                self._sweep_cleared(horizon, published)
                self._drop_cleared(horizon, published)
        writer.end_group(published + 1)
        writer.forget_budget()
        self._noted = len(writer.garbage) + len(writer.tombstones)
        garbage, tombstones = writer.garbage, writer.tombstones
        return bool(
            (garbage and garbage[0][0] <= horizon)
            or (tombstones and tombstones[0][0] <= horizon)
            or self._clears_to_do(horizon)
        )

    def _note_time(self, now_s: float) -> None:
        times = self._published_at
        if not times or now_s - times[-1][0] >= 0.05:
            times.append((now_s, self._words[W_PUBLISHED]))
        while len(times) > 1 and now_s - times[1][0] >= limits.SNAPSHOT_GRACE_S:
            times.popleft()

    def _raise_horizon(self, now_s: float, urgent: bool) -> int:
        words = self._words
        published = words[W_PUBLISHED]
        barrier()
        pinned = self.pinned()
        horizon = min((published, *pinned, *self.held))
        if horizon < published and (urgent or self._short_of_space()):
            first_s, old_version = self._published_at[0]
            if now_s - first_s >= limits.SNAPSHOT_GRACE_S:
                # A pin below what was published a grace ago is older than the grace.
                kept = [version for version in pinned if version >= old_version]
                self.revoked += len(pinned) - len(kept)
                horizon = min((published, *kept, *self.held))
        if horizon > words[W_HORIZON]:
            words[W_HORIZON] = horizon
            publish_barrier()
        current: int = words[W_HORIZON]
        return current

    def _short_of_space(self) -> bool:
        writer = self._writer
        few_are_free = writer.heap.free_blocks * _SHORT_OF_SPACE < writer.heap.block_count
        kept = writer.garbage_words > 0 or bool(writer.clears)
        return self._history_is_long() or (few_are_free and kept)

    def _history_is_long(self) -> bool:
        writer = self._writer
        if len(writer.clears) > limits.MAX_RANGE_TOMBSTONES:
            return True
        live_words = writer.heap.used_words - writer.garbage_words
        return writer.garbage_words * 8 > limits.HISTORY_BYTES + live_words * 8

    def _free(self, horizon: int, budget: int) -> int:
        writer = self._writer
        garbage, free = writer.garbage, writer.heap.free
        done = 0
        while garbage and garbage[0][0] <= horizon and done < budget:
            _, reference, words = garbage.popleft()
            free(reference)
            writer.garbage_words -= words
            done += 1
        return done

    def _remove_dead_keys(self, horizon: int, published: int, budget: int) -> int:
        writer, words = self._writer, self._words
        tombstones = writer.tombstones
        dead: list[tuple[bytes, int]] = []
        done = 0
        while tombstones and tombstones[0][0] <= horizon and done < budget:
            version, key = tombstones.popleft()
            done += 1
            node = writer.hash_index.find(key)
            if node:
                record = words[node]
                if words[record] == version and words[record + 2] & TOMBSTONE:
                    dead.append((key, node))
        self._remove(dead, published)
        return done

    def _remove(self, dead: list[tuple[bytes, int]], published: int) -> None:
        """Take keys out of both indexes; their nodes and newest records are obsolete from the next version on."""
        if not dead:
            return
        writer = self._writer
        dead.sort()
        for key, node in dead:
            writer.hash_index.remove(key, node)
            writer.discard_record(published + 1, node, self._words[node])
            writer.discard(published + 1, node, writer.heap.size_of(node))
        writer.ordered_index.remove(dead)
        writer.raise_epoch()

    def _clears_to_do(self, horizon: int) -> bool:
        """Whether a range tombstone may be swept, or go."""
        clears = self._writer.clears
        if self._swept < len(clears) and clears[self._swept].version <= horizon:
            return True
        return self._swept > 0 and clears[0].gone_at < horizon

    def _sweep_cleared(self, horizon: int, published: int) -> None:
        """Remove keys of the oldest ranges that no snapshot sees any more, a slice in all."""
        clears = self._writer.clears
        dead: dict[bytes, int] = {}
        budget = limits.CLEAR_SLICE
        while budget > 0 and self._swept < len(clears) and clears[self._swept].version <= horizon:
            clear = clears[self._swept]
            budget -= _RANGE_COST + self._sweep_slice(clear, dead, budget)
            if clear.cursor != clear.upper:
                break
            clear.gone_at = published
            self._swept += 1
        self._remove(list(dead.items()), published)

    def _sweep_slice(self, clear: RangeTombstone, dead: dict[bytes, int], most: int) -> int:
        """Add keys of the range to ``dead``, looking at ``most`` from its cursor on; how many it has looked at."""
        writer, words = self._writer, self._words
        looked_at = 0
        for key, node in writer.ordered_index.iterate(clear.cursor, clear.upper):
            if looked_at == most:
                clear.cursor = key
                return looked_at
            looked_at += 1
            record = words[node]
            if words[record] < clear.version and key not in dead:
                dead[key] = node
                if not words[record + 2] & TOMBSTONE:
                    writer.keys -= 1
        clear.cursor = clear.upper
        return looked_at

    def _drop_cleared(self, horizon: int, published: int) -> None:
        """Let range tombstones go whose keys are gone, once no snapshot is left from before that.

        Such a snapshot may still hold nodes of these keys, or read a key that was written again since: the cleared
        record stands underneath.
        """
        clears, most = self._writer.clears, min(self._swept, limits.CLEAR_SLICE)
        gone = next((at for at in range(most) if clears[at].gone_at >= horizon), most)
        if gone:
            self._writer.drop_clears(published + 1, gone)
            self._swept -= gone
