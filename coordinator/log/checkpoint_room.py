"""Room on the disk for the next checkpoint, taken before the live data grows.

Only a checkpoint frees space on a full disk: it replaces the log and the checkpoint before it, and it must be written
while both are still there. So:

- The file ``checkpoint.new`` holds at least as many bytes of the disk as a checkpoint of the live data takes. A commit
  that adds data is refused when the file cannot grow with it. Deletes need nothing here.
- A commit is judged by what it makes the live data grow by (``growth_bytes`` in ``coordinator/memory/reserve.py``).
  One that writes as it deletes goes the way of deletes if the live data shrink by ``SHRINKS_BY`` times its record in
  the log, as with deletes of small values. So whatever such commits take of the disk, the checkpoints after them need
  less by more than that, though their size is overestimated. One that just does not grow needs no more reserve, and a
  checkpoint is begun for it only if that leaves room for the next one. Both leave log to deletes (``writer``).
- The size of a checkpoint is estimated by the memory in use, so it seems to grow when small values are deleted: their
  memory is free only when their keys have left the indexes. So once a reserve was seen to be enough, it counts as
  enough for whatever does not grow the live data, as long as it is not made smaller (``_is_enough``).
- A checkpoint uses up its reserve, and the next one needs as much again. So a checkpoint is begun early only if the
  files that it makes obsolete are large enough for that. For a delete that finds no room it is begun in any case, and
  the next one makes do with less, as there is less to write.
- To write a checkpoint, the file is renamed and handed to the helper, which writes into the reserved bytes. Until the
  helper ends, the next reserve counts on the lesser of two sizes: that of the handed-over file, which is free again if
  the helper fails, and that of the files which the checkpoint makes obsolete.
- If somebody removes the file, it is made again a little later: a process that deletes the whole directory must be able
  to find it empty.
- Only the coordinator writes it. After SIGKILL, recovery removes it like every other unfinished file, and the next
  coordinator reserves the same bytes again before it begins a log file.
"""

from __future__ import annotations

import contextlib

from shoal.coordinator.memory.writer import Writer
from shoal.shm import limits
from shoal.shm.errors import StoreFullError
from shoal.shm.files.storage import Storage
from shoal.shm.limits import REMAKE_AFTER_S

_NAME = "checkpoint.new"
# Of the size of a checkpoint, this part must be left for the log, or checkpoints follow each other too closely.
_LOG_SHARE = 4
_AHEAD_SHARE = 8  # and this part is reserved ahead of need
# A commit that writes goes the way of deletes if the live data shrink by so many times its record in the log.
SHRINKS_BY = 4


class CheckpointRoom:
    """The reserve of one store, for the live data in ``writer``."""

    def __init__(self, storage: Storage, writer: Writer) -> None:
        self._storage = storage
        self._writer = writer
        self._held_bytes = 0
        self._coming_bytes = 0  # while a checkpoint is written: bytes that the next one can count on
        self._missing_since_s: float | None = None  # when the file was found removed (monotonic)
        self._is_missing = False
        self._is_enough = False  # the live data fit into what is held, as long as they do not grow

    def checkpoint_bytes(self) -> int:
        """The bytes of a checkpoint of the live data, at most: an entry is shorter than node and record in memory."""
        heap = self._writer.heap
        live_words = heap.used_words - heap.padding_words - self._writer.garbage_words
        return 8 * live_words + limits.CHECKPOINT_EXTRA_BYTES

    def headroom_bytes(self) -> int:
        """By how many bytes the live data may grow."""
        return self._held_bytes + self._coming_bytes - self.checkpoint_bytes()

    def provide(self, growth_bytes: int) -> None:
        """Have room for a checkpoint of the live data and ``growth_bytes`` more, or raise StoreFullError."""
        headroom_bytes = self._look()
        if headroom_bytes >= growth_bytes or (growth_bytes == 0 and self._is_enough):
            return
        checkpoint_bytes = self.checkpoint_bytes() + growth_bytes
        missing_bytes = checkpoint_bytes - self._held_bytes - self._coming_bytes
        free_bytes = self._storage.space().free_bytes
        # What does not grow the live data may use up the log: the next checkpoint has its room, and makes log free.
        needed_bytes = missing_bytes + (checkpoint_bytes // _LOG_SHARE if growth_bytes else 0)
        if free_bytes < needed_bytes:
            raise StoreFullError(
                f"the disk has {free_bytes:,} bytes free and the commit needs {needed_bytes:,}, for the log and in "
                "reserve for the next checkpoint; delete keys or free disk space: reads and deletes go on meanwhile"
            )
        ahead_bytes = min(max(checkpoint_bytes // _AHEAD_SHARE, limits.MIB), limits.RESERVE_STEP_BYTES)
        if free_bytes < needed_bytes + ahead_bytes:
            ahead_bytes = 0
        try:
            self._extend(self._held_bytes + missing_bytes + ahead_bytes)
        except StoreFullError:
            self._extend(self._held_bytes + missing_bytes)

    def acquire(self) -> None:
        """Reserve what the live data needs now, or as much of that as the disk has; the live data may shrink later."""
        part_bytes = -self.headroom_bytes()
        while part_bytes >= limits.LEAST_LOG_FILE_BYTES:
            try:
                self._extend(self._held_bytes + part_bytes)
            except StoreFullError:
                part_bytes //= 2
            part_bytes = min(part_bytes, -self.headroom_bytes())
        self._look()

    def leaves_enough(self, obsolete_bytes: int) -> bool:
        """Whether a checkpoint that makes files of so many bytes obsolete leaves room to reserve for the next one."""
        free_bytes = self._storage.space().free_bytes + self._held_bytes + obsolete_bytes
        return free_bytes >= 2 * self.checkpoint_bytes()

    def hand_over(self, name: str, freed_bytes: int) -> None:
        """Give the reserve this name for a checkpoint that will make files of ``freed_bytes`` obsolete."""
        if self._held_bytes:
            try:
                self._storage.rename(_NAME, name)
            except FileNotFoundError:  # somebody removed it: the helper writes without a reserve
                self._held_bytes = 0
        self._is_enough = self._is_enough and freed_bytes >= self._held_bytes > 0
        self._coming_bytes = min(self._held_bytes, freed_bytes)
        self._held_bytes = 0

    def take_back(self) -> None:
        """Reserve for the next checkpoint: the last one is written or has failed, and what it leaves free is free."""
        was_enough, before_bytes = self._is_enough, self._held_bytes + self._coming_bytes
        self._coming_bytes, self._is_enough = 0, False
        self.acquire()
        self._is_enough = self._is_enough or (was_enough and self._held_bytes >= before_bytes)

    def release(self) -> None:
        """Remove the reserve: the store is at rest."""
        self._held_bytes = 0
        with contextlib.suppress(FileNotFoundError):
            self._storage.remove(_NAME)

    def keep(self, now_s: float) -> None:
        """Make the file again if it was found removed some time ago."""
        if not self._is_missing:
            return
        if self._missing_since_s is None:
            self._missing_since_s = now_s
        elif now_s - self._missing_since_s >= REMAKE_AFTER_S:
            self._is_missing, self._missing_since_s = False, None
            self._held_bytes, self._is_enough = 0, False
            self.acquire()

    def _look(self) -> int:
        """The headroom; notes whether there is any."""
        headroom_bytes = self.headroom_bytes()
        self._is_enough = self._is_enough or headroom_bytes >= 0
        return headroom_bytes

    def _extend(self, size: int) -> None:
        if size <= self._held_bytes:
            return
        try:
            self._storage.reserve(_NAME, size, create=not self._held_bytes)
        except FileNotFoundError:
            self._is_missing = True
        self._held_bytes = size
