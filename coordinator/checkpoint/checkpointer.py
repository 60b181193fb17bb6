"""Decides when a checkpoint is due and has a helper process write it, so that no commit waits for one.

The helper is one more reader with a snapshot: it is given the segment for reading and a version that the coordinator
keeps readable. Killed, it leaves a file of another name, and the log stays until the next one succeeds.

A checkpoint is also the way out of a full disk. It is begun early when the disk is short and it makes enough files
obsolete, and a commit that finds no room at all waits a little for it (``make_room``). ``checkpoint_room`` keeps the
room for it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.shm import codec, limits
from shoal.shm.files import checkpoint, store_files
from shoal.shm.files.storage import Storage, append_note
from shoal.shm.host.child_python import python_command, python_environment
from shoal.shm.memory.layout import W_PUBLISHED
from shoal.shm.memory.segment import anonymous_file

_PAUSE_AFTER_FAILURE_S = 2.0
_LOOK_EVERY_S = 0.002
# When the disk is short, a checkpoint is begun early if it frees this part of its own size.
_WORTH_SHARE = 4


class Checkpointer:
    """Writes checkpoints of one store, one at a time."""

    def __init__(
        self,
        directory: Path,
        storage: Storage,
        log: WalWriter,
        writer: Writer,
        reclaimer: Reclaimer,
        remembered: Callable[[], list[checkpoint.Remembered]],
        log_bytes: int,
        store_id: bytes,
        kept_version: int = 0,
    ) -> None:
        self._directory = directory
        self._store_id = store_id
        self._storage = storage
        self._log = log
        self._writer = writer
        self._reclaimer = reclaimer
        self._remembered = remembered
        self._log_bytes_before = log_bytes - log.bytes_written
        self._helper: subprocess.Popen[bytes] | None = None
        self._kept_version = kept_version  # of the newest checkpoint that is written, 0 if there is none
        self._missing_since_s: float | None = None  # when that was first found removed (monotonic)
        self._version = 0
        self._log_bytes_at_start = 0
        self._not_before_s = 0.0
        self._temporary = ""
        self._waited = False  # a commit has waited in vain for this helper: the next one need not
        log.make_room = self.make_room

    @property
    def misses_files(self) -> bool:
        """Whether files were removed, and what was in them is not on the disk again."""
        missing_since_s = (self._missing_since_s, self._log.removed_since_s)
        return missing_since_s != (None, None) or self._log.lost_version > 0

    @property
    def running(self) -> bool:
        """Whether a helper is at work."""
        return self._helper is not None

    def maintain(self, now_s: float) -> None:
        """Start a checkpoint if one is due, finish one that is written."""
        self._log.prepare()
        self._look_for_removed(now_s)
        if self._helper is not None:
            if self._helper.poll() is not None:
                self._finish(now_s)
        elif now_s >= self._not_before_s and self._due(now_s):
            self._begin(now_s)
        elif self._log.room is not None:
            self._log.room.acquire()
        if self._log.room is not None:
            self._log.room.keep(now_s)

    def make_room(self, only_deletes: bool) -> bool:
        """Have a checkpoint written that removes files, and wait a little for it; False if none could be removed.

        For a commit that finds no room on the disk. Others wait with it; reads go on.
        """
        now_s = time.monotonic()
        if self._helper is None:
            if now_s < self._not_before_s or not self._useful(only_deletes) or not self._begin(now_s):
                return False
        elif self._waited:
            return False
        assert self._helper is not None
        until_s = now_s + limits.CHECKPOINT_WAIT_S
        while self._helper.poll() is None:
            if time.monotonic() >= until_s:
                self._waited = True
                return False
            time.sleep(_LOOK_EVERY_S)
        return self._finish(time.monotonic())

    def start(self) -> None:
        """Have a checkpoint of everything published now written."""
        self._version = self._published()
        self._log_bytes_at_start = self._log.bytes_written
        self._waited = False
        self._temporary = checkpoint.temporary_name_of(self._version)
        segment_fd = self._writer.segment.read_only_fd()
        self._reclaimer.held.append(self._version)
        try:
            if self._log.room is not None:
                self._log.room.hand_over(self._temporary, self._obsolete_bytes(self._version))
            with _file_in_memory(codec.pack(self._remembered())) as remembered:
                command = python_command(
                    "shoal.coordinator.checkpoint.helper",
                    *(str(self._directory), self._store_id.hex(), str(segment_fd), str(self._version)),
                    self._temporary,
                )
                self._helper = subprocess.Popen(
                    command,
                    env=python_environment(),
                    pass_fds=[segment_fd],
                    stdin=remembered,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
        except BaseException:
            self._reclaimer.held.remove(self._version)
            self._tidy_up()
            raise
        finally:
            os.close(segment_fd)

    def save_lost(self) -> None:
        """At an orderly end: if files were removed, have what only memory holds now written to a checkpoint."""
        self._look_for_removed(time.monotonic())
        if not self.misses_files:
            return
        time.sleep(limits.REMAKE_AFTER_S)  # when the whole directory is being deleted, nothing is left of it then
        now_s = time.monotonic()
        if not self._look_for_removed(now_s) or not self._has_lost(now_s):
            return
        if self._helper is not None:
            self._helper.kill()
            self._helper.wait()
            self._finish(now_s)
        if self._begin(now_s) and self._helper is not None:
            self._helper.wait()
            self._finish(time.monotonic())

    def close(self) -> None:
        """Leave no helper behind."""
        if self._helper is not None:
            self._helper.kill()
            self._helper.wait()
            with contextlib.suppress(FileNotFoundError):
                self._storage.remove(self._temporary)

    def _begin(self, now_s: float) -> bool:
        try:
            self.start()
        except OSError as error:  # no process to be had: the log goes on growing meanwhile
            self._not_before_s = now_s + _PAUSE_AFTER_FAILURE_S
            append_note(self._directory, store_files.NOTES_FILE, f"no checkpoint could be begun: {error}")
            return False
        return True

    def _look_for_removed(self, now_s: float) -> bool:
        """Notice what somebody removed; False if that is the whole directory."""
        try:
            names = set(self._storage.list())
        except FileNotFoundError:
            return False
        self._log.replace_removed(now_s, names)
        if not self._kept_version or checkpoint.file_name(self._kept_version) in names:
            self._missing_since_s = None
        elif self._missing_since_s is None:
            self._missing_since_s = now_s
        return True

    def _has_lost(self, now_s: float) -> bool:
        """Whether files were removed, and a checkpoint must be written in their place."""
        since_s = self._missing_since_s
        return self._log.lost_version > 0 or (since_s is not None and now_s - since_s >= limits.REMAKE_AFTER_S)

    def _due(self, now_s: float) -> bool:
        if self._has_lost(now_s):
            return True
        if len(self._log.first_versions) > limits.CHECKPOINT_LOG_FILES:
            return True  # every coordinator begins a file of its own: many deaths, many files
        grown = self._log.bytes_written + self._log_bytes_before
        if grown >= max(limits.CHECKPOINT_LOG_BYTES, self._writer.heap.used_bytes):
            return True
        room = self._log.room
        if not self._log.is_short or room is None or not self._useful(only_deletes=False):
            return False
        return self._log.obsolete_bytes(self._published()) >= room.checkpoint_bytes() // _WORTH_SHARE

    def _published(self) -> int:
        version: int = self._writer.segment.words[W_PUBLISHED]
        return version

    def _useful(self, only_deletes: bool) -> bool:
        """Whether a checkpoint now would leave more room on the disk, as far as can be told beforehand.

        A file of the log that becomes obsolete may hold only what is live, so it may be that nothing is gained. But
        then there is no such file until commits have filled another one.
        """
        room, version = self._log.room, self._published()
        if room is None:
            return False
        if not only_deletes and not room.leaves_enough(self._obsolete_bytes(version)):
            return False
        if self._log.obsolete_bytes(version):
            return True
        older_bytes = self._obsolete_bytes(version)
        return older_bytes >= room.checkpoint_bytes() + limits.LEAST_LOG_FILE_BYTES

    def _obsolete(self, version: int) -> list[str]:
        """Checkpoints that one of this version makes obsolete."""
        found = ((name, checkpoint.version_of(name)) for name in self._storage.list())
        return [name for name, older in found if older is not None and older < version]

    def _obsolete_bytes(self, version: int) -> int:
        """What the files have that a checkpoint of this version makes obsolete."""
        return self._log.obsolete_bytes(version) + sum(map(self._storage.size, self._obsolete(version)))

    def _tidy_up(self) -> None:
        """Leave nothing of a checkpoint that failed, and reserve room for the next one."""
        with contextlib.suppress(FileNotFoundError):
            self._storage.remove(self._temporary)
        if self._log.room is not None:
            self._log.room.take_back()

    def _finish(self, now_s: float) -> bool:
        assert self._helper is not None
        status, self._helper = self._helper.returncode, None
        self._reclaimer.held.remove(self._version)
        if status == 0:
            for name in self._obsolete(self._version):
                with contextlib.suppress(FileNotFoundError):  # removed by somebody
                    self._storage.remove(name)
            self._kept_version, self._missing_since_s = self._version, None
            self._log.remove_before(self._version)
            self._log_bytes_before = -self._log_bytes_at_start
        else:
            self._not_before_s = now_s + _PAUSE_AFTER_FAILURE_S
        self._tidy_up()
        return status == 0


def _file_in_memory(content: bytes) -> IO[bytes]:
    """A file to be read by a child process. Not on a disk, which may be full."""
    file = os.fdopen(anonymous_file("shoal-outcomes", len(content)), "w+b")
    file.write(content)
    file.seek(0)
    return file
