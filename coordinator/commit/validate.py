"""Optimistic validation: a pure function of a commit set and the conflict window.

Backward validation as in Kung and Robinson, "On Optimistic Methods for Concurrency Control" (1981): commit at version
V is serializable after everything before it if nothing it read was written since its snapshot. Keys found absent are
reads like any other, ranges cover the keys that were not there.
"""

from __future__ import annotations

from typing import NamedTuple

from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.shm.wire.request import CommitSet


class Conflict(NamedTuple):
    """Why a commit set must not commit."""

    key: bytes
    read_version: int
    found_version: int


def validate(commit_set: CommitSet, window: ConflictWindow) -> Conflict | None:
    """None if nothing of what ``commit_set`` read has changed since its snapshot. Not for one that read nothing."""
    snapshot = commit_set.snapshot
    keys, ranges = commit_set.keys_read, commit_set.ranges_read
    if snapshot < window.floor:
        return Conflict(keys[0] if keys else ranges[0][0], snapshot, window.floor)
    for key in keys:
        version = window.written_since(key, snapshot)
        if version:
            return Conflict(key, snapshot, version)
    found = window.written_in(ranges, snapshot) if ranges else None
    return None if found is None else Conflict(found[0], snapshot, found[1])
