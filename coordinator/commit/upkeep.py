"""What the store itself is to remove, such as what no retention policy keeps: in slices, between commits.

The table of operations decides each slice (``OperationTable.upkeep``) over the newest state, and the slice is one
commit of the coordinator. What is removed, and why, is not known here. Invariants:

- A slice begins when everything before it is published: the ordered index has all keys then. It is published with the
  next group, so in ``strict`` it shares that group's sync.
- A slice looks at few keys, and a commit waits for one slice at most. Beside commits the next slice begins so late that
  fewer than one commit in a hundred meets one; only once a pass takes long, more of them do.
- Only the cursor is kept between two slices, in memory. After SIGKILL the next coordinator begins a new pass, and finds
  what is left.
- Where a pass finds nothing to look at, the next one waits for a turn of the loop: an idle store without policies is
  woken for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.commit.reading import read_newest
from shoal.coordinator.memory.writer import Writer
from shoal.shm.limits import DEFAULT_LIMITS, Limits
from shoal.shm.operation import VersionedValue

_NEVER_S = float("inf")
# A slice is followed by so many times its length without one,
_SHARE = 8
_GENTLE_SHARE = 120  # or beside commits by so many: their 99th percentile is 1.4 times that without (with 8: 1.6)
_GENTLE_S = 3.0  # until a pass has taken so long,
_LATE_SHARE = 3  # once a pass has taken so long:
_LATE_S = 10.0
_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.0005, 0.05  # between two slices
_LONGEST_PAUSE_S = 25.0  # between two passes: what is due goes within a minute
_NO_ROOM_PAUSE_S = 0.5
# Ranges that are cleared and not swept yet, at which upkeep waits: readers pay for each.
_MOST_RANGES = 1_024


class Upkeep:
    """The upkeep of one store. ``due_s``: when the next slice is due, by the clock that was handed in."""

    def __init__(
        self,
        engine: CommitEngine,
        writer: Writer,
        monotonic_s: Callable[[], float],
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._monotonic_s = monotonic_s
        self._limits = limits
        self._cursor = b""
        self._began_s = 0.0  # the pass under way
        self._worked_s = 0.0  # in it
        self._own_version = 0  # of the store after the last slice
        self._found_work = False  # whether the pass under way, or the last one, had anything to look at
        self.due_s = 0.0 if engine.operations.upkeep is not None else _NEVER_S

    @property
    def wakes_at_s(self) -> float:
        """When an idle loop must be woken for a slice; infinite if the last pass had nothing to look at."""
        return self.due_s if self._found_work else _NEVER_S

    def step(self, begin_s: float) -> None:
        """Do the slice that is due. Called between two groups of commits."""
        decide = self._engine.operations.upkeep
        if decide is None or len(self._writer.range_tombstones) > _MOST_RANGES:
            self.due_s = begin_s + _NO_ROOM_PAUSE_S
            return
        is_beside_commits = self._engine.version != self._own_version
        self._engine.finish_group()  # what ended holders held may have been released since the last group
        now_ms = self._engine.now_ms()
        looked_at = 0

        def look(lower: bytes, upper: bytes) -> Iterator[tuple[bytes, VersionedValue | None]]:
            nonlocal looked_at
            for key, _ in self._writer.ordered_index.iterate(lower, upper):
                looked_at += 1
                yield key, read_newest(self._writer, key, now_ms)

        def read(key: bytes) -> VersionedValue | None:
            return read_newest(self._writer, key, now_ms)

        slice_ = decide(read, look, self._cursor, now_ms, self._limits.upkeep_slice)
        done = self._engine.commit_writes([part for write in slice_.writes for part in write], slice_.clears)
        end_s = self._monotonic_s()
        took_s = max(0.0, end_s - begin_s)
        self._worked_s += took_s
        self._own_version = self._engine.version
        if not self._cursor:
            self._found_work = looked_at > 0
            self._began_s = begin_s
        if not done:
            self.due_s = end_s + _NO_ROOM_PAUSE_S
        elif slice_.cursor is not None:
            self._cursor = slice_.cursor
            share = _share(end_s - self._began_s, is_beside_commits)
            self.due_s = end_s + min(max(_LEAST_PAUSE_S, took_s * share), _MOST_PAUSE_S)
        else:
            pause_s = max(self._limits.upkeep_every_s, self._worked_s * _SHARE)
            self.due_s = end_s + min(pause_s, _LONGEST_PAUSE_S)
            self._cursor, self._worked_s = b"", 0.0


def _share(pass_s: float, is_beside_commits: bool) -> int:
    """How many times its length a slice is followed by none, in a pass that has taken ``pass_s`` so far."""
    if pass_s >= _LATE_S:
        return _LATE_SHARE
    return _GENTLE_SHARE if is_beside_commits and pass_s < _GENTLE_S else _SHARE
