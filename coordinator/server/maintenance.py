"""What a coordinator does between groups of commits, in slices: reclaim, expire, upkeep, free memory, checkpoints.

A slice is short, so no commit waits long for it. Nothing here is promised to a client: after SIGKILL at any point the
next coordinator does it again.
"""

from __future__ import annotations

from shoal.coordinator.checkpoint.checkpointer import Checkpointer
from shoal.coordinator.checkpoint.history import History
from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.commit.upkeep import Upkeep
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.server.checks import Checks
from shoal.shm.limits import BLOCK_BYTES, DEFAULT_LIMITS, Limits
from shoal.shm.memory.layout import W_HORIZON


class Maintenance:
    """The maintenance of one store. ``busy``: reclaiming has more to do at once, so the loop must not wait."""

    def __init__(
        self,
        engine: CommitEngine,
        writer: Writer,
        reclaimer: Reclaimer,
        window: ConflictWindow,
        checks: Checks,
        checkpointer: Checkpointer | None,
        upkeep: Upkeep,
        history: History | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._limits = limits
        self._history = history
        self._engine = engine
        self._writer = writer
        self._reclaimer = reclaimer
        self._window = window
        self._checks = checks
        self._checkpointer = checkpointer
        self.upkeep = upkeep
        self.busy = False

    def is_settled(self) -> bool:
        """Whether nothing is left to do until the next commit."""
        keeper = self._checkpointer
        running = keeper is not None and (keeper.running or keeper.misses_files)
        return not (self._writer.expiry or self._reclaimer.idle_work() or running)

    def after_turn(self, now_s: float) -> None:
        """Reclaim a slice if enough became obsolete, or if there was more to do the last time; and do due upkeep."""
        if self.busy or self._reclaimer.due():
            self.busy = self._reclaimer.step(now_s)
            self._forget()
        if now_s >= self.upkeep.due_s:
            self.upkeep.step(now_s)

    def run(self, now_s: float) -> bool:
        """Do a slice of everything; True if more keys have expired, so that it should be called again at once."""
        more = self._engine.sweep_expired()
        self._engine.finish_group()
        self._checks.tidy()
        if self._history is not None:
            self._history.move_on(now_s)
        if self._reclaimer.idle_work():
            self.busy = self._reclaimer.step(now_s)
            if self._reclaimer.waits_for_a_version() and self._engine.make_version():
                self.busy = True  # the next turn frees a slice
        self._forget()
        heap = self._writer.heap
        heap.give_back(max(256, heap.used_words // BLOCK_BYTES))
        if self._checkpointer is not None:
            self._checkpointer.maintain(now_s)
        return more

    def _forget(self) -> None:
        """Let the conflict window forget what no open snapshot can conflict with, once that is worth the work."""
        limits = self._limits
        if len(self._window) < limits.window_least_keys + limits.reclaim_every:
            return
        # Past versions that are kept for time travel are only read: no conflict reaches back to them.
        horizon = max(self._writer.segment.words[W_HORIZON], self._reclaimer.oldest_snapshot)
        self._window.forget(horizon, limits.window_least_keys, limits.window_most_keys)
