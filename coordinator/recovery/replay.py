"""Does the commits of a log again, in a segment that nobody reads yet.

Replay decides nothing. A batch of commits leaves what they left when they were done: the newest state of every key, the
conflict window and the client sessions. History that no snapshot can ask for is not made again. Nothing here survives
SIGKILL: the next coordinator begins with an empty segment.
"""

from __future__ import annotations

from collections.abc import Iterator

from shoal.coordinator.commit.apply import ClientSessions, apply_commit
from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.log.format import LoggedCommit
from shoal.coordinator.memory.loading import apply_versions, lower_large_records
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.reserve import plan_with_gaps
from shoal.coordinator.memory.writer import Writer
from shoal.shm.errors import StoreFullError
from shoal.shm.limits import DEFAULT_LIMITS, MIB, Limits
from shoal.shm.wire.request import FlatWrites

# Replay applies, publishes and reclaims after so many commits, or so many bytes of them: so a long log does not need
# memory for all its history.
_COMMITS_PER_BATCH = 1_000
_BYTES_PER_BATCH = MIB


def replayed(
    commits: Iterator[LoggedCommit],
    writer: Writer,
    reclaimer: Reclaimer,
    window: ConflictWindow,
    sessions: ClientSessions,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[LoggedCommit]:
    """Do commits again in the order of their versions, a batch at a time; all are visible after the last."""
    batch: list[LoggedCommit] = []
    batch_bytes = 0
    for commit in commits:
        version, _, writes, clears, outcomes, body_bytes = commit
        apply_commit(window, sessions, version, clears, writes, outcomes)
        batch.append(commit)
        batch_bytes += body_bytes
        if len(batch) == _COMMITS_PER_BATCH or batch_bytes >= _BYTES_PER_BATCH:
            _replay(batch, writer, reclaimer, window, limits)
            batch, batch_bytes = [], 0
        yield commit
    if batch:
        _replay(batch, writer, reclaimer, window, limits)


def _replay(
    batch: list[LoggedCommit], writer: Writer, reclaimer: Reclaimer, window: ConflictWindow, limits: Limits
) -> None:
    """Do the writes and clears of consecutive commits, publish them, and free what they made obsolete."""
    together: list[LoggedCommit] = []
    for commit in batch:
        if not commit.clears and commit.version <= reclaimer.kept_from:
            together.append(commit)
            continue
        _apply_together(together, writer, reclaimer)
        together.clear()
        _apply_alone(commit, writer, reclaimer)
    _apply_together(together, writer, reclaimer)
    publish(writer, reclaimer, batch[-1].version)
    window.forget(0, limits.window_least_keys, limits.window_most_keys)


def _apply_together(commits: list[LoggedCommit], writer: Writer, reclaimer: Reclaimer) -> None:
    """Apply commits that clear nothing. Nobody reads yet, so of each key only the last write is done."""
    newest: dict[bytes, tuple[bytes | None, int, int]] = {}
    for commit in commits:
        written, version = commit.writes, commit.version
        for at in range(0, len(written), 3):
            key = written[at]
            newest.pop(key, None)  # it becomes the last one, so that versions ascend
            newest[key] = (written[at + 1], written[at + 2], version)
    writes: FlatWrites = []
    for key, (value, expires_ms, _) in newest.items():
        writes += (key, value, expires_ms)
    try:
        apply_versions(writer, writes, [version for _, _, version in newest.values()])
    except StoreFullError:  # nothing of it is applied, and there was room when they were committed one by one
        for commit in commits:
            _apply_alone(commit, writer, reclaimer)


def _apply_alone(commit: LoggedCommit, writer: Writer, reclaimer: Reclaimer) -> None:
    try:
        writer.apply(commit.version, commit.clears, commit.writes, writer.plan(commit.writes, commit.clears))
        return
    except StoreFullError:
        # There was room when it was committed: what had become obsolete by then had been freed. So free the same now.
        _free_before(commit, writer, reclaimer)
    while True:
        try:
            _apply(commit, writer)
            return
        except StoreFullError:
            if not reclaimer.give_up_history():  # past versions that are kept now, and were not any more then
                break
        _free_before(commit, writer, reclaimer)
    lower_large_records(writer)  # the room lies scattered, which it did not when it was committed
    _apply(commit, writer)


def _free_before(commit: LoggedCommit, writer: Writer, reclaimer: Reclaimer) -> None:
    """Free all that is obsolete before a commit is applied.

    Range tombstones whose keys leave the indexes in the first round go in the second one.
    """
    publish(writer, reclaimer, commit.version - 1)
    publish(writer, reclaimer, commit.version)


def _apply(commit: LoggedCommit, writer: Writer) -> None:
    writes, clears = commit.writes, commit.clears
    writer.apply(commit.version, clears, writes, plan_with_gaps(writer, writes, clears))


def publish(writer: Writer, reclaimer: Reclaimer, version: int) -> None:
    """Make everything applied up to ``version`` visible, and free what it made obsolete."""
    writer.end_group(version)
    writer.publish(version)
    while reclaimer.step(0.0, alone=True):
        pass
