"""Notices that somebody removed a file of a store being served, as cleaners of /tmp do.

A file is made again only when it stays away for a while. When a directory is being deleted, its files go first, and a
new one among them would keep the directory from being deleted.
"""

from __future__ import annotations

from pathlib import Path

from shoal.shm.limits import REMAKE_AFTER_S


class MissingFile:
    """Looks at one file now and then. ``since_s`` is when it was first not there, None if it is (monotonic)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.since_s: float | None = None

    def is_due(self, now_s: float) -> bool:
        """Whether it has been away long enough to be made again."""
        if self._path.exists():
            self.since_s = None
            return False
        if self.since_s is None:
            self.since_s = now_s
        return now_s - self.since_s >= REMAKE_AFTER_S
