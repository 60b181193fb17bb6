"""The machine as a client uses it: the port by which a simulated machine stands in for the real one.

What a client finds, maps and starts comes from here. ``coordinator.host`` is the other side's.
"""

from __future__ import annotations

import os
from pathlib import Path

from shoal.shm.files.epoch_file import EpochWord
from shoal.shm.files.store_place import StorePlace
from shoal.shm.memory import words
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.snapshots import SnapshotSlots, map_page
from shoal.shm.wire.handshake import Hello, Welcome
from shoal.workers import coordinator_start


class Host:
    """The real machine."""

    def greet(self, directory: Path, hello: Hello, deadline_s: float) -> Welcome | None:
        """Attach to the coordinator that serves the store; None if none does."""
        return coordinator_start.greet(directory, hello, deadline_s)

    def start_if_nobody_does(self, directory: Path, hello: Hello, idle_timeout_s: float, deadline_s: float) -> bool:
        """Start a coordinator; False if another process does."""
        return coordinator_start.start_if_nobody_does(directory, hello, idle_timeout_s, deadline_s)

    def epoch_word(self, directory: Path) -> EpochWord:
        """The mapped word of the store's ``epoch`` file; ``FileNotFoundError`` if it was removed."""
        return EpochWord(directory, writable=False)

    def store_place(self, directory: Path, store_id: bytes) -> StorePlace:
        """Says whether the store still lies where it lay."""
        return StorePlace(directory, store_id)

    def register_reader(self) -> None:
        """Have the barriers of a coordinator reach this process."""
        words.register_reader()

    def attach_segment(self, fd: int) -> Segment:
        """Map a segment for reading; the descriptor is closed."""
        return Segment.attach(fd)

    def attach_slots(self, fd: int) -> SnapshotSlots:
        """Map this process's page of snapshot slots; the descriptor is closed."""
        slots = SnapshotSlots(map_page(fd))
        os.close(fd)
        return slots


THIS_MACHINE = Host()
