"""Faults in replay, in the client sessions, and in checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shoal.coordinator.checkpoint.checkpointer import Checkpointer
from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.log.format import COORDINATOR, LoggedCommit
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.recovery import recover, replay
from shoal.shm.files import checkpoint
from shoal.shm.memory.reader import Reader
from tests.mutants.registry import Patch, mutant


@mutant("recovery", "resent_after_kill")
def replay_twice(patch: Patch) -> None:
    """Every record is applied a second time, after the one that follows it."""

    def twice(commits: Iterator[LoggedCommit]) -> Iterator[LoggedCommit]:
        before: LoggedCommit | None = None
        for commit in commits:
            yield commit
            if before is not None:
                yield before._replace(version=commit.version)
            before = commit

    _replay_changed(patch, twice)


@mutant("recovery", "resent_after_kill", "transactions_after_deaths")
def forget_outcomes(patch: Patch) -> None:
    """The next coordinator does not know which commits of its clients are done, and does them again."""

    def begin(self: CommitEngine, *arguments: Any, **options: Any) -> None:
        sound(self, *arguments, **options)
        self.sessions.clear()

    sound = patch.set(CommitEngine, "__init__", begin)


@mutant("recovery", "resent_after_kill", "appends_after_deaths")
def forget_batch_outcomes(patch: Patch) -> None:
    """The next coordinator does not know that appends which were decided together are done."""

    def without_outcomes(commits: Iterator[LoggedCommit]) -> Iterator[LoggedCommit]:
        for commit in commits:
            yield commit._replace(outcomes=[]) if commit.client_id == COORDINATOR else commit

    _replay_changed(patch, without_outcomes)


@mutant("recovery", "conflict_across_take_over")
def forget_the_window(patch: Patch) -> None:
    """The next coordinator does not know what was written since the snapshots that were open when the last one died."""

    def apply_commit(_window: Any, *arguments: Any) -> None:
        sound(_NoWindow(), *arguments)

    sound = patch.set(replay, "apply_commit", apply_commit)


def _replay_changed(patch: Patch, changed: Callable[[Iterator[LoggedCommit]], Iterator[LoggedCommit]]) -> None:
    """Replay other commits than those in the log."""

    def replayed(commits: Iterator[LoggedCommit], *arguments: Any) -> Iterator[LoggedCommit]:
        found: Iterator[LoggedCommit] = sound(changed(commits), *arguments)
        return found

    sound = patch.set(recover, "replayed", replayed)


class _NoWindow:
    """A window that keeps nothing."""

    def add_write(self, _version: int, _key: bytes) -> None:
        pass

    def add_writes(self, _version: int, _keys: list[bytes]) -> None:
        pass

    def add_clear(self, _version: int, _lower: bytes, _upper: bytes) -> None:
        pass


@mutant("checkpoint", "checkpoint_and_power_cut")
def rename_checkpoint_without_sync(patch: Patch) -> None:
    """A checkpoint gets its name before its content is on disk."""
    patch.set(checkpoint, "os", _NoSync())


class _NoSync:
    """``os`` whose ``fsync`` does nothing."""

    def __getattr__(self, name: str) -> Any:
        return (lambda _fd: None) if name == "fsync" else getattr(os, name)


@mutant("checkpoint", "checkpointed")
def remove_log_before_checkpoint(patch: Patch) -> None:
    """The log is removed when a checkpoint is begun, not when it is written."""

    def start(self: Checkpointer) -> None:
        sound(self)
        self._log.remove_before(self._version)

    sound = patch.set(Checkpointer, "start", start)


@mutant("checkpoint", "checkpointed")
def remove_log_after_checkpoint(patch: Patch) -> None:
    """With a checkpoint goes one log file too many: that which has the commits since."""

    def remove_before(self: WalWriter, version: int) -> None:
        sound(self, max(version, *self.first_versions.values()))

    sound = patch.set(WalWriter, "remove_before", remove_before)


@mutant("checkpoint", "checkpointed")
def checkpoint_one_commit_short(patch: Patch) -> None:
    """A checkpoint says one commit more than it holds, and the log before it goes."""

    def write(directory: Path, reader: Reader, version: int, *others: Any) -> int:
        patched, scan = Patch(), reader.scan
        patched.set(Reader, "scan", lambda _self, lower, upper, at: scan(lower, upper, at - 1))
        try:
            keys: int = sound(directory, reader, version, *others)
        finally:
            patched.restore()
        return keys

    sound = patch.set(checkpoint, "write_checkpoint", write)


@mutant("checkpoint", "checkpointed")
def checkpoint_without_outcomes(patch: Patch) -> None:
    """A checkpoint does not have the last outcome of every client, and the log that had them goes."""

    def begin(self: Checkpointer, *arguments: Any, **options: Any) -> None:
        sound(self, *arguments, **options)
        self._sessions = list

    sound = patch.set(Checkpointer, "__init__", begin)
