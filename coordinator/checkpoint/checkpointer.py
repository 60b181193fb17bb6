"""Decides when a checkpoint is due and has a helper process write it, so that no commit waits for one.

Invariants:
- The helper only reads the segment, at a published version that the coordinator keeps readable meanwhile
  (``Reclaimer.held``). It writes under another name and renames the whole, synced file.
- Older checkpoints and obsolete log files are removed only after the helper has ended with status 0.
- If somebody removes log files or the newest checkpoint, what was in them is only in memory. A new checkpoint takes
  their place, at an orderly end before the coordinator ends (``save_lost``).
- SIGKILL of the helper leaves a file whose name ends in ``.new``, and the log as it was. After SIGKILL of the
  coordinator the helper ends, too; recovery removes the file.

If past versions are kept, an older checkpoint and the log since stay as well, so that recovery has these versions
again: the newest checkpoint that is not newer than the oldest version kept. They go as time passes, and at once if the
disk is short.

A checkpoint is also the way out of a full disk. It is begun early when the disk is short and it makes enough files
obsolete; a commit that finds no room at all waits a little for it (``make_room``). ``room`` reserves the bytes for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from shoal.coordinator.host import THIS_MACHINE, HelperProcess, Host
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.memory.reclaim import KEEPS_NOTHING, Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.shm import codec
from shoal.shm.files import checkpoint
from shoal.shm.files.storage import Storage
from shoal.shm.limits import CHECKPOINT_WAIT_S, DEFAULT_LIMITS, LEAST_LOG_FILE_BYTES, REMAKE_AFTER_S, Limits
from shoal.shm.memory.layout import W_PUBLISHED

_LOOK_EVERY_S = 0.002
_LOOK_FOR_OBSOLETE_S = 1.0
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
        sessions: Callable[[], list[checkpoint.Session]],
        log_bytes: int,
        store_id: bytes,
        kept_version: int = 0,
        limits: Limits = DEFAULT_LIMITS,
        host: Host = THIS_MACHINE,
    ) -> None:
        self._limits = limits
        self._host = host
        self._directory = directory
        self._store_id = store_id
        self._storage = storage
        self._log = log
        self._writer = writer
        self._reclaimer = reclaimer
        self._sessions = sessions
        self._log_bytes_before = log_bytes - log.bytes_written
        self._helper: HelperProcess | None = None
        self._kept_version = kept_version  # of the newest checkpoint that is written, 0 if there is none
        self._missing_since_s: float | None = None  # when that one was first found removed (monotonic)
        self._version = 0
        self._log_bytes_at_start = 0
        self._not_before_s = 0.0
        self._temporary = ""
        self._look_at_s = 0.0  # when to look next whether files that only past versions need can go
        self._waited = False  # a commit has waited in vain for this helper: the next one does not wait
        log.make_room = self.make_room
        self.before_removal: Callable[[], None] = lambda: None  # called before log files go

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
        self._drop_history(now_s)
        if self._helper is not None:
            if self._helper.poll() is not None:
                self._finish(now_s)
        elif now_s >= self._not_before_s and self._due(now_s):
            self._begin(now_s)
        elif self._log.room is not None:
            self._log.room.acquire()
        if self._log.room is not None:
            self._log.room.keep(now_s)

    def make_room(self, gives_back: bool) -> bool:
        """Have a checkpoint written that removes files, and wait a little for it; False if none could be removed.

        For a commit that finds no room on the disk. Others wait with it; reads go on.
        """
        now_s = self._host.monotonic_s()
        if self._helper is None and self._drop_history(now_s, at_once=True):
            return True
        if self._helper is None:
            if now_s < self._not_before_s or not self._useful(gives_back) or not self._begin(now_s):
                return False
        elif self._waited:
            return False
        assert self._helper is not None
        until_s = now_s + CHECKPOINT_WAIT_S
        while self._helper.poll() is None:
            if self._host.monotonic_s() >= until_s:
                self._waited = True
                return False
            self._host.sleep(_LOOK_EVERY_S)
        return self._finish(self._host.monotonic_s())

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
            segment, version = str(segment_fd), str(self._version)
            arguments = [str(self._directory), self._store_id.hex(), segment, version, self._temporary]
            self._helper = self._host.start_checkpoint_helper(arguments, codec.pack(self._sessions()), segment_fd)
        except BaseException:
            self._reclaimer.held.remove(self._version)
            self._tidy_up()
            raise
        finally:
            self._host.close(segment_fd)

    def save_lost(self) -> None:
        """At an orderly end: if files were removed, write a checkpoint, as only memory holds what was in them."""
        self._look_for_removed(self._host.monotonic_s())
        if not self.misses_files:
            return
        self._host.sleep(REMAKE_AFTER_S)  # if the whole directory is being deleted, nothing is left of it then
        now_s = self._host.monotonic_s()
        if not self._look_for_removed(now_s) or not self._has_lost(now_s):
            return
        if self._helper is not None:
            self._helper.kill()
            self._helper.wait()
            self._finish(now_s)
        if self._begin(now_s) and self._helper is not None:
            self._helper.wait()
            self._finish(self._host.monotonic_s())

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
            self._not_before_s = now_s + self._limits.checkpoint_pause_s
            self._host.note(self._directory, f"no checkpoint could be begun: {error}")
            return False
        return True

    def _look_for_removed(self, now_s: float) -> bool:
        """Notice which files somebody removed; False if the whole directory is gone."""
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
        return self._log.lost_version > 0 or (since_s is not None and now_s - since_s >= REMAKE_AFTER_S)

    def _due(self, now_s: float) -> bool:
        if self._has_lost(now_s):
            return True
        if self._files_since_checkpoint() > self._limits.checkpoint_log_files:
            return True  # every coordinator begins a file of its own: many deaths, many files
        grown = self._log.bytes_written + self._log_bytes_before
        live_bytes = self._writer.heap.used_bytes - self._reclaimer.kept_bytes()
        if grown >= max(self._limits.checkpoint_log_bytes, live_bytes):
            return True
        room = self._log.room
        if not self._log.is_short or room is None or not self._useful(gives_back=False):
            return False
        return self._log.obsolete_bytes(self._kept_with(self._published())) >= room.checkpoint_bytes() // _WORTH_SHARE

    def _published(self) -> int:
        version: int = self._writer.segment.words[W_PUBLISHED]
        return version

    def _useful(self, gives_back: bool) -> bool:
        """Whether a checkpoint now would leave more room on the disk, as far as can be told beforehand.

        A file of the log that becomes obsolete may hold only what is live, so it may be that nothing is gained. But
        then there is no such file until commits have filled another one.
        """
        room, version = self._log.room, self._published()
        if room is None:
            return False
        if not gives_back and not room.leaves_enough(self._obsolete_bytes(version)):
            return False
        if self._log.obsolete_bytes(self._kept_with(version)):
            return True
        if gives_back and self._log.named_number != self._log.number and self._obsolete(version):
            return True  # the disk is out of inodes: with that of the older checkpoint, the log can move on
        older_bytes = self._obsolete_bytes(version)
        return older_bytes >= room.checkpoint_bytes() + LEAST_LOG_FILE_BYTES

    def _files_since_checkpoint(self) -> int:
        """How many files of the log are newer than the checkpoint, with the one that it lies in."""
        return 1 + sum(first > self._kept_version + 1 for first in self._log.first_versions.values())

    def _kept_with(self, version: int) -> int:
        """The oldest checkpoint that stays beside one of this version; that one itself if no past versions are kept."""
        kept_from = self._reclaimer.kept_from
        if kept_from >= version or self._log.is_short or self._log.lost_version:
            return version
        return max((older for older in self._versions() if older <= kept_from), default=0)

    def _versions(self) -> list[int]:
        """The versions of the checkpoints on the disk."""
        return [version for version in map(checkpoint.version_of, self._storage.list()) if version is not None]

    def _obsolete(self, version: int) -> list[str]:
        """Checkpoints that one of this version makes obsolete."""
        kept = self._kept_with(version)
        return [checkpoint.file_name(older) for older in self._versions() if older < kept]

    def _obsolete_bytes(self, version: int) -> int:
        """What the files have that a checkpoint of this version makes obsolete."""
        log_bytes = self._log.obsolete_bytes(self._kept_with(version))
        return log_bytes + sum(map(self._storage.size, self._obsolete(version)))

    def _drop_history(self, now_s: float, at_once: bool = False) -> bool:
        """Remove files that were kept for past versions alone, and are not needed any more; whether there were any."""
        if self._reclaimer.kept_from == KEEPS_NOTHING or (now_s < self._look_at_s and not at_once):
            return False
        self._look_at_s = now_s + _LOOK_FOR_OBSOLETE_S
        names, kept = self._obsolete(self._kept_version), self._kept_with(self._kept_version)
        log_bytes = self._log.obsolete_bytes(kept)
        if names or log_bytes:
            self._remove_obsolete(names, kept)
        return bool(names or log_bytes)

    def _remove_obsolete(self, names: list[str], kept: int) -> None:
        """Remove checkpoints, then the log files that hold nothing after version ``kept``: a kill leaves enough."""
        self.before_removal()
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # removed by somebody
                self._storage.remove(name)
        self._log.remove_before(kept)

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
            self._remove_obsolete(self._obsolete(self._version), self._kept_with(self._version))
            self._kept_version, self._missing_since_s = self._version, None
            self._log_bytes_before = -self._log_bytes_at_start
        else:
            self._not_before_s = now_s + self._limits.checkpoint_pause_s
        self._tidy_up()
        return status == 0
