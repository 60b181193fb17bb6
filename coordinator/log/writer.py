"""Appends to the write-ahead log. One writer, the coordinator.

Invariants:
- A record is whole in one file. It is written through a mapping, so from then on it survives SIGKILL of any process.
  It survives a power cut when ``synced_version`` has reached its version.
- ``reserve`` is called before anything of a commit is applied. It keeps one empty file ready, so that a full disk is
  noticed while there is still room for deletes, which may use that file. It also keeps ``room`` for a checkpoint of the
  live data, which is the way out of a full disk: ``make_room`` has that checkpoint written, and removes files.
- Every file keeps room for the mark of a clean close.
- A new file is named as the newest in ``store.json`` (``name_newest``) before the first record is written to it: if
  somebody removes the file, recovery misses it. On a full disk the naming waits, and the file named before stays.
- If files are removed while the log is written, it goes on in a new one. What was in them is only in memory then, until
  there is a checkpoint of version ``lost_version`` or later.
- In ``strict`` another thread writes zeros ahead of the records (``fill_ahead``, ``zero_fill``). In the file in use,
  ``_end`` is before these zeros; ``reserve`` moves it.
- ``sync`` may run in another thread. It notes what was written when it begins, and moves ``synced_version`` only after
  the disk has confirmed all of that. An error is final: the kernel may have dropped the pages that it could not write,
  and a second sync would report success for them.

Files are smaller where the disk is small or nearly full. A log may have no file yet: a store can be opened on a full
disk, and its first commit makes room.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log.checkpoint_room import SHRINKS_BY, CheckpointRoom
from shoal.coordinator.log.file_sizes import holds, usual_file_bytes
from shoal.coordinator.log.format import (
    CLOSE_MARK,
    CLOSE_MARK_BYTES,
    COORDINATOR,
    FILE_HEAD_BYTES,
    RECORD_OVERHEAD_BYTES,
    FileHead,
    encode_record,
)
from shoal.coordinator.log.zero_fill import ZeroFill
from shoal.shm.errors import StoreFullError
from shoal.shm.files.storage import Storage
from shoal.shm.limits import DEFAULT_LIMITS, LEAST_LOG_FILE_BYTES, REMAKE_AFTER_S, Limits


class WalWriter:
    """The tail of the log."""

    def __init__(
        self,
        storage: Storage,
        next_number: int,
        last_version: int,
        store_id: bytes,
        room: CheckpointRoom | None = None,  # None: the store is not served
        limits: Limits = DEFAULT_LIMITS,
        new_lock: Callable[[], AbstractContextManager[Any]] = threading.Lock,
        fill_step_bytes: int = 0,  # 0: no zeros are written ahead
    ) -> None:
        self._storage = storage
        self._store_id = store_id
        self._next_number = next_number
        self.boot_id = wal_format.boot_id()
        self._new_lock = new_lock
        self.fills_ahead = fill_step_bytes > 0
        self._fill_step_bytes = fill_step_bytes
        self._to_fill: deque[ZeroFill] = deque()
        self._spare: tuple[int, ZeroFill] | None = None
        self._lock = new_lock()  # guards _unsynced and the closing of files against sync()
        self._unsynced: list[ZeroFill] = []
        self._sync_turn = new_lock()  # one sync at a time
        self.last_version = last_version
        self.synced_version = last_version
        self.wake: Callable[[], None] | None = None  # called once, after the next commit is appended
        self.failed: OSError | None = None
        self.bytes_written = 0
        self.first_versions: dict[int, int] = {}  # by number of a file: the first version in it
        self.room = room
        # Has files removed for a commit that gives room back (True), or for any other; whether some were removed.
        self.make_room: Callable[[bool], bool] = lambda _gives_back: False
        # Names a file as the newest, durably; StoreFullError if that cannot be now. None: not served yet.
        self.name_newest: Callable[[int], None] | None = None
        self.named_number = 0
        self.number = 0  # of the file in use, 0 if there is none yet
        self.lost_version = 0  # what was in files that were removed, up to this version, is only in memory
        self.removed_since_s: float | None = None  # when files were first found removed (monotonic)
        self.is_short = False  # the last new file could not be had, or not in its usual size
        self._file: ZeroFill | None = None
        self._position = 0
        self._end = 0  # where records in the file must end for now
        self._growth_end = 0  # where they must end so that a commit that adds data needs no look at the room
        self._usual_bytes = usual_file_bytes(storage, limits.log_file_bytes)
        self.prepare()
        self._take_spare()
        self.prepare()

    def has_room(self, body_bytes: int) -> bool:
        """Whether a record with such a body can be appended at once, with another file ready after it."""
        return self._position + body_bytes + RECORD_OVERHEAD_BYTES <= self._growth_end

    def reserve(self, body_bytes: int, growth: int | None) -> None:
        """Make sure that a record with such a body can be appended, or raise StoreFullError.

        ``growth`` is what ``growth_bytes`` says of it. Invariants: a commit that writes gives room back only if the
        live data shrink by ``SHRINKS_BY`` times its record (why: ``checkpoint_room``). As any commit that writes, it
        leaves an empty file to what only deletes; or, where none can be had, half of the file in use.
        """
        needed = body_bytes + RECORD_OVERHEAD_BYTES
        gives_back = growth is None or growth + SHRINKS_BY * needed <= 0
        try:
            self._find_room(needed, growth, gives_back)
        except StoreFullError:
            self.is_short = True
            if not self.make_room(gives_back):
                raise
            self._find_room(needed, growth, gives_back)

    def append(self, version: int, client_id: int, commit_id: int, mutations: bytes, decided: bytes) -> None:
        """Write a record that ``reserve`` made room for."""
        raw = encode_record(version, self.synced_version, self.boot_id, client_id, commit_id, mutations, decided)
        position = self._position
        if position + len(raw) > self._end:
            self._rotate(len(raw))
            position = self._position
        assert self._file is not None
        self._file.write(position, raw)
        self._position = position + len(raw)
        self.bytes_written += len(raw)
        self.last_version = version
        wake = self.wake
        if wake is not None:
            self.wake = None
            wake()

    def prepare(self) -> None:
        """Make the next file ready ahead of need. If the disk is full, the commit that needs the file is told."""
        self._name()
        if self._spare is None:
            with contextlib.suppress(StoreFullError):
                self._new_spare(0)

    def sync(self) -> None:
        """Return when everything appended before the call is on disk. After an OSError every later call raises it."""
        with self._sync_turn:
            if self.failed is not None:
                raise self.failed
            with self._lock:
                files, version = list(self._unsynced), self.last_version
                finished = files[:-1]
            try:
                for file in files:
                    file.sync()
            except OSError as error:
                self.failed = error
                raise
            with self._lock:
                for file in finished:
                    self._unsynced.remove(file)
                    file.close()
            self.synced_version = version

    def fill_ahead(self) -> bool:
        """Write some zeros ahead of the records; False if there is nothing more to do. For another thread."""
        while self._to_fill:
            if self._to_fill[0].fill():
                return True
            self._to_fill.popleft()
        return False

    def close(self) -> None:
        """Put everything on disk, with a mark of a clean close behind it."""
        self.sync()
        if self._file is not None:
            self._end = self._file.claim(self._file.size)
            self.append(self.last_version, COORDINATOR, CLOSE_MARK, b"", b"")
        self.sync()
        self._give_back()
        for file in self._unsynced:
            file.close()

    def discard(self) -> None:
        """Remove the files of a log to which nothing was appended: the store is not served after all."""
        self._give_back()
        self._unsynced.clear()
        if self._file is not None:
            self._file.close()
            self._storage.remove(wal_format.file_name(self.number))

    def obsolete_bytes(self, version: int) -> int:
        """How many bytes of the disk ``remove_before`` would free."""
        total_bytes = 0
        for number in self._obsolete(version):
            with contextlib.suppress(FileNotFoundError):  # somebody removed it
                total_bytes += self._storage.size(wal_format.file_name(number))
        return total_bytes

    def remove_before(self, version: int) -> None:
        """Delete the files that hold nothing after ``version``, up to which there is a checkpoint."""
        self._name()  # the caller may have made room for that, and then the file named before goes, too
        for number in self._obsolete(version):
            with contextlib.suppress(FileNotFoundError):
                self._storage.remove(wal_format.file_name(number))
            del self.first_versions[number]
        self._storage.sync_directory()
        if version >= self.lost_version:
            self.lost_version = 0

    def replace_removed(self, now_s: float, names: set[str]) -> None:
        """Go on in a new file if files were removed some time ago; ``names`` are the files that are there."""
        removed = [number for number in self.first_versions if wal_format.file_name(number) not in names]
        lacks_spare = self._spare is not None and wal_format.file_name(self._spare[0]) not in names
        if not removed and not lacks_spare:
            self.removed_since_s = None
            return
        if self.removed_since_s is None:
            self.removed_since_s = now_s
        if now_s - self.removed_since_s < REMAKE_AFTER_S:
            return
        if lacks_spare:
            self._drop_spare()
            self.prepare()
        if removed and self._spare is not None:  # without one the disk is full, and the next look tries again
            self.lost_version = self.last_version
            self._rotate()
            for number in removed:
                del self.first_versions[number]
            self.prepare()

    def _obsolete(self, version: int) -> list[int]:
        numbers = sorted(self.first_versions)
        following = ((number, self.first_versions[after]) for number, after in itertools.pairwise(numbers))
        return [
            number
            for number, first_version in following
            if first_version <= version + 1 and number != self.named_number
        ]

    def _name(self) -> None:
        if self.name_newest is None or self.number in (0, self.named_number):
            return
        with contextlib.suppress(StoreFullError):
            self.name_newest(self.number)
            self.named_number = self.number

    def _find_room(self, needed: int, growth: int | None, gives_back: bool) -> None:
        fits = self._fits(needed)
        if fits and (growth is None or (gives_back and self._in_first_half(needed))):
            return
        if self.room is not None and growth is not None and not gives_back:
            # A key may take a quarter more bytes in a checkpoint than in the log.
            self.room.provide(min(needed, max(0, growth)) * 5 // 4)
        if self._spare is None or (not fits and not holds(self._spare[1].size, needed)):
            self._drop_spare()
            try:
                self._new_spare(0 if fits else needed)
            except StoreFullError:
                self.prepare()
                raise
        if growth is None:
            return
        if not fits:
            # This record takes the spare; a commit that writes leaves another one behind it.
            self._rotate(needed)
            self._new_spare(0)
        self._admit()

    def _in_first_half(self, needed: int) -> bool:
        return self._file is not None and 2 * (self._position + needed) <= self._file.size

    def _fits(self, needed: int) -> bool:
        """Whether the file in use takes a record of ``needed`` bytes; if so, it may be appended."""
        if self._file is None:
            return False
        last = self._file.size - CLOSE_MARK_BYTES
        end = self._position + needed
        self._end = min(self._file.claim(min(end, last)), last)
        return end <= self._end

    def _admit(self) -> None:
        """Note how far commits that add data may go on without another look at the room."""
        self._growth_end = self._end
        if self.room is not None:
            self._growth_end = min(self._end, self._position + self.room.headroom_bytes() * 4 // 5)

    def _new_spare(self, needed: int) -> None:
        """Have a file ready that takes a record of ``needed`` bytes, as large as usual or as the disk allows."""
        least = needed + FILE_HEAD_BYTES + CLOSE_MARK_BYTES if needed else 0
        least = max(least, min(LEAST_LOG_FILE_BYTES, self._usual_bytes))
        size = max(least, self._usual_bytes)
        name = wal_format.file_name(self._next_number)
        self.is_short = False
        while self._spare is None:
            try:
                file = self._storage.create_log_file(name, size)
                self._spare = (self._next_number, ZeroFill(file, self._fill_step_bytes, self._new_lock()))
            except StoreFullError:
                self.is_short = True
                if size == least:
                    raise
                size = max(least, size // 2)
        self._next_number += 1
        if self.fills_ahead:
            self._to_fill.append(self._spare[1])

    def _give_back(self) -> None:
        """Free all that was reserved ahead."""
        self._drop_spare()
        if self.room is not None:
            self.room.release()

    def _drop_spare(self) -> None:
        if self._spare is not None:
            number, file = self._spare
            file.close()
            with contextlib.suppress(FileNotFoundError):  # the store's directory was deleted
                self._storage.remove(wal_format.file_name(number))
            self._spare = None
            self._growth_end = 0

    def _take_spare(self) -> None:
        if self._spare is not None:
            self._rotate()

    def _rotate(self, needed: int = 0) -> None:
        """Go on in the spare, with a record of ``needed`` bytes."""
        assert self._spare is not None, "append without reserve"
        number, file = self._spare
        self._spare = None
        first_version = self.last_version + 1
        head = FileHead(number, first_version, self.synced_version, self.boot_id, self._store_id)
        file.claim(FILE_HEAD_BYTES)
        file.write(0, wal_format.encode_file_head(head))
        self.first_versions[number] = first_version
        with self._lock:
            self._unsynced.append(file)
        self._file = file
        self.number = number
        self._name()
        self._position = FILE_HEAD_BYTES
        self._fits(needed)
        self._growth_end = 0
