"""Decides when a checkpoint is due and has a helper process write it, so that no commit waits for one.

The helper is one more reader with a snapshot: it is given the segment for reading and a version that the coordinator
keeps readable. Killed, it leaves a file of another name, and the log stays until the next one succeeds.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from shoal.coordinator.log.wal_writer import WalWriter
from shoal.shm import checkpoint, codec, limits, store_files
from shoal.shm.child_python import python_command, python_environment
from shoal.shm.layout import W_PUBLISHED
from shoal.shm.reclaim import Reclaimer
from shoal.shm.storage import Storage, append_note
from shoal.shm.writer import Writer

_PAUSE_AFTER_FAILURE_S = 5.0


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
        self._version = 0
        self._log_bytes_at_start = 0
        self._not_before_s = 0.0

    @property
    def running(self) -> bool:
        """Whether a helper is at work."""
        return self._helper is not None

    def maintain(self, now_s: float) -> None:
        """Start a checkpoint if one is due, finish one that is written."""
        self._log.prepare()
        if self._helper is not None:
            if self._helper.poll() is not None:
                self._finish(now_s)
        elif now_s >= self._not_before_s and self._due():
            try:
                self.start()
            except OSError as error:  # no temporary file or no process to be had: the log goes on growing meanwhile
                self._not_before_s = now_s + _PAUSE_AFTER_FAILURE_S
                append_note(self._directory, store_files.NOTES_FILE, f"no checkpoint could be begun: {error}")

    def start(self) -> None:
        """Have a checkpoint of everything published now written."""
        words = self._writer.segment.words
        self._version = words[W_PUBLISHED]
        self._log_bytes_at_start = self._log.bytes_written
        segment_fd = self._writer.segment.read_only_fd()
        self._reclaimer.held.append(self._version)
        try:
            with tempfile.TemporaryFile() as remembered:
                remembered.write(codec.pack(self._remembered()))
                remembered.seek(0)
                command = python_command(
                    "shoal.coordinator.checkpoint_helper",
                    *(str(self._directory), self._store_id.hex(), str(segment_fd), str(self._version)),
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
            raise
        finally:
            os.close(segment_fd)

    def close(self) -> None:
        """Leave no helper behind."""
        if self._helper is not None:
            self._helper.kill()
            self._helper.wait()

    def _due(self) -> bool:
        if len(self._log.first_versions) > limits.CHECKPOINT_LOG_FILES:
            return True  # every coordinator begins a file of its own: many deaths, many files
        grown = self._log.bytes_written + self._log_bytes_before
        return grown >= max(limits.CHECKPOINT_LOG_BYTES, self._writer.heap.used_bytes)

    def _finish(self, now_s: float) -> None:
        assert self._helper is not None
        status, self._helper = self._helper.returncode, None
        self._reclaimer.held.remove(self._version)
        if status != 0:
            self._not_before_s = now_s + _PAUSE_AFTER_FAILURE_S
            return
        for name in self._storage.list():
            version = checkpoint.version_of(name)
            if version is not None and version < self._version:
                self._storage.remove(name)
        self._log.remove_before(self._version)
        self._log_bytes_before = -self._log_bytes_at_start
