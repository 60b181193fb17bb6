"""Optimistic validation: a pure function of a commit set and the conflict window.

Backward validation as in Kung and Robinson, "On Optimistic Methods for Concurrency Control" (1981): a commit at version
V is serializable after all commits before it if nothing that it read was written since its snapshot. A key found absent
is a read like any other; a range read covers the keys that were not there. That a sweep
deletes an expired key is a change for who has read it before it expired, and for nobody else: they found it absent.
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


def validate(commit_set: CommitSet, window: ConflictWindow, latest_ms: int) -> Conflict | None:
    """The conflict of a commit set that read something, None if nothing of that has changed since its snapshot.

    ``latest_ms``: no sweep so far has deleted what expires later.
    """
    snapshot = commit_set.snapshot
    keys, ranges = commit_set.keys_read, commit_set.ranges_read
    if snapshot < window.floor:
        return Conflict(keys[0] if keys else ranges[0][0], snapshot, window.floor)
    sweeps = 0 < commit_set.valid_until_ms <= latest_ms  # something that it read has expired since
    for key in keys:
        version = window.written_since(key, snapshot, sweeps)
        if version:
            return Conflict(key, snapshot, version)
    found = window.written_in(ranges, snapshot, sweeps) if ranges else None
    return None if found is None else Conflict(found[0], snapshot, found[1])
