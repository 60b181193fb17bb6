"""A coordinator as a process: ``python -m shoal.coordinator.process PATH ...`` (``shoal serve`` calls ``serve``).

- One per store: it holds ``coordinator.lock`` as long as it lives; the kernel lets go of it at any kind of death.
- Nothing is served before recovery has verified everything; an error until then goes to whoever started the process.
- It ends in order on SIGINT, SIGTERM, and, unless told to stay, some time after its last client.
- An error of the disk ends it at once, with exit code 1: what is acknowledged is in the log, and the next coordinator
  recovers from what the disk really holds.
"""

from __future__ import annotations

import _thread
import argparse
import contextlib
import errno
import gc
import os
import secrets
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock

from shoal.coordinator.checkpoint_room import CheckpointRoom
from shoal.coordinator.checkpointer import Checkpointer
from shoal.coordinator.commit_engine import CommitEngine
from shoal.coordinator.control_socket import ControlSocket
from shoal.coordinator.log.wal_writer import WalWriter
from shoal.coordinator.recover import recover
from shoal.coordinator.server import Server
from shoal.shm import codec, commit_set, limits, store_files
from shoal.shm.clock import SystemClock
from shoal.shm.errors import ConfigurationError, ShoalError
from shoal.shm.integrity import check_segment
from shoal.shm.layout import EPOCH_BITS, W_COORDINATOR_PID, W_GENERATION, W_PUBLISHED
from shoal.shm.reclaim import Reclaimer
from shoal.shm.segment import Segment
from shoal.shm.storage import DiskStorage, append_note
from shoal.shm.store_files import EpochWord, StoreMeta
from shoal.shm.writer import Writer

EXIT_ALREADY_SERVED = 3
NOTHING_PINNED: list[int] = []


class AlreadyServedError(Exception):
    """Another coordinator holds the store."""


def serve(
    directory: Path,
    durability: str | None,
    max_bytes: int | None,
    linger_s: float | None,
    ready: Callable[[], None],
) -> None:
    """Serve the store until stopped. Raises ShoalError for what keeps it from being served at all."""
    store_files.make_directory(directory)
    lock = filelock.FileLock(directory / store_files.COORDINATOR_LOCK_FILE, mode=0o600, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise AlreadyServedError(f"{directory} is served by another coordinator") from None
    try:
        Coordinator(directory, _meta(directory, durability, max_bytes), linger_s).run(ready)
    finally:
        lock.release()


def _meta(directory: Path, durability: str | None, max_bytes: int | None) -> StoreMeta:
    store_files.check_durability(durability)
    store_files.check_max_bytes(max_bytes)
    last = store_files.read_meta(directory)
    default = last or StoreMeta(store_files.DEFAULT_DURABILITY, store_files.default_max_bytes())
    return StoreMeta(durability or default.durability, max_bytes or default.max_bytes, default.store_id)


class Coordinator:
    """All parts of one coordinator, put together."""

    def __init__(self, directory: Path, meta: StoreMeta, linger_s: float | None) -> None:
        self._directory = directory
        clock = SystemClock()
        storage = DiskStorage(directory)
        self._segment = Segment.create(meta.max_bytes, secrets.randbits(64))
        self._writer = Writer(self._segment)
        self._reclaimer = Reclaimer(self._writer, lambda: NOTHING_PINNED)
        found = recover(storage, self._writer, self._reclaimer, meta.store_id)
        store_id = found.store_id or store_files.new_store_id()
        self._meta = meta = meta._replace(store_id=store_id)
        # What can be refused comes before the first file is made: a store that is not served stays as it is.
        self._epoch = EpochWord(directory, writable=True)
        self._log: WalWriter | None = None
        if meta.durability != "memory":
            room = CheckpointRoom(storage, self._writer)
            room.acquire()
            self._log = WalWriter(storage, found.next_log_number, found.version, store_id, room)
            self._log.first_versions.update(found.log_files)
        self._engine = CommitEngine(
            self._writer,
            self._reclaimer,
            found.window,
            self._log,
            clock,
            found.version,
            found.remembered,
            sync_each_group=meta.durability == "strict",
        )
        self._checkpointer: Checkpointer | None = None
        if self._log is not None:
            self._checkpointer = Checkpointer(
                *(directory, storage, self._log, self._writer, self._reclaimer, self._remembered),
                *(found.log_bytes, store_id),
            )
        wake_read, self._wake_write = os.pipe()
        for fd in (wake_read, self._wake_write):
            os.set_blocking(fd, False)
        self._server = Server(
            self._engine,
            self._writer,
            self._reclaimer,
            found.window,
            self._checkpointer,
            meta,
            self._epoch.generation + 1,
            linger_s,
            wake_read,
            self._check,
        )
        self._reclaimer.pinned = self._server.pinned
        self._syncing = threading.Event()
        self._stop_syncing = threading.Event()
        self._synced = threading.Event()  # and will not be again

    def run(self, ready: Callable[[], None]) -> None:
        """Serve, then leave the store as found."""
        words = self._segment.words
        words[W_COORDINATOR_PID] = os.getpid()
        generation = self._epoch.generation + 1
        words[W_GENERATION] = generation
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        control = self._open_door()
        # From here on, who only reads looks for the new segment; whoever commits finds the socket.
        self._epoch.words[0] = generation << EPOCH_BITS
        self._writer.epoch_words = self._epoch.words
        if self._log is not None and self._meta.durability == "buffered":
            self._start_syncing()
        gc.freeze()  # what recovery built stays; the collector need not walk it again
        # Commits leave no cycles behind, but lists that grow: walked at the usual pace they cost a fifth of all time.
        gc.set_threshold(50_000, 20, 100)
        ready()
        try:
            self._server.serve(control)
        finally:
            control.close()
            if self._checkpointer is not None:
                self._checkpointer.close()
            self._stop_syncing.set()
            if self._syncing.is_set():
                self._synced.wait()
        if self._log is not None:
            self._log.close()

    def _open_door(self) -> ControlSocket:
        """From here on the store is served, and ``store.json`` says how; if not, no log file is left behind."""
        with contextlib.ExitStack() as undo:
            if self._log is not None:
                undo.callback(self._log.discard)
            control = ControlSocket(self._directory, self._server.admit)
            undo.callback(control.close)
            if store_files.read_meta(self._directory) != self._meta:
                store_files.write_meta(self._directory, self._meta)
            undo.pop_all()
        return control

    def _stop(self, _number: int, _frame: Any) -> None:
        self._server.stopping = True

    def _remembered(self) -> list[list[Any]]:
        return [[client, *outcome] for client, outcome in self._engine.remembered.items()]

    def _check(self) -> list[str]:
        return check_segment(self._segment, self._segment.words[W_PUBLISHED], self._writer)

    def _start_syncing(self) -> None:
        """Have a thread sync; OSError if there is none for it.

        Not ``threading.Thread``, whose ``start`` never returns if memory runs out as the new thread begins.
        """
        try:
            _thread.start_new_thread(self._sync_now_and_then, ())
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, f"{error} to sync the log") from error
        if not self._syncing.wait(limits.THREAD_START_S):
            raise OSError(errno.ENOMEM, f"the thread that syncs the log did not begin within {limits.THREAD_START_S} s")

    def _sync_now_and_then(self) -> None:
        self._syncing.set()
        log = self._log
        assert log is not None
        try:
            while not self._stop_syncing.wait(limits.SYNC_EVERY_MS / 1000):
                if log.synced_version < log.last_version:
                    log.sync()
        except Exception as error:
            # End without another commit: after a failed sync nobody knows what is on disk, and without this thread
            # nothing gets there.
            text = f"process {os.getpid()}: the log cannot be written to disk: {error}"
            append_note(self._directory, store_files.NOTES_FILE, text)
            print(f"shoal: {text}", file=sys.stderr, flush=True)
            os._exit(1)
        self._synced.set()


def main(arguments: list[str] | None = None) -> int:
    """Entry of a coordinator that a client starts for itself."""
    parser = argparse.ArgumentParser(prog="python -m shoal.coordinator.process", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--durability")
    parser.add_argument("--max-bytes", type=int)
    parser.add_argument("--linger", type=float, default=limits.LINGER_S, help="seconds to stay after the last client")
    parser.add_argument("--report-fd", type=int, required=True, help="pipe to say on how the start went")
    options = parser.parse_args(arguments)
    # The client waits for this process and reaps it; its child belongs to nobody and outlives the client.
    if os.fork():
        os._exit(0)
    os.setsid()
    report = _Report(options.report_fd)
    try:
        serve(options.path, options.durability, options.max_bytes, options.linger, report.ready)
    except AlreadyServedError:
        return EXIT_ALREADY_SERVED
    except ShoalError as error:
        report.failed(error)
        return 1
    except OSError as error:
        report.failed(ConfigurationError(f"{options.path} cannot be served: {error}"))
        append_note(options.path, store_files.NOTES_FILE, f"process {os.getpid()}: {error}")
        return 1
    except BaseException:
        append_note(options.path, store_files.NOTES_FILE, f"process {os.getpid()}: {traceback.format_exc()}")
        raise
    return 0


class _Report:
    """Tells whoever started this process, if he is still there, how the start went."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def ready(self) -> None:
        self._say([])

    def failed(self, error: ShoalError) -> None:
        self._say(list(commit_set.error_parts(error)))

    def _say(self, parts: list[Any]) -> None:
        if self._fd >= 0:
            with contextlib.suppress(BrokenPipeError):  # he was killed meanwhile; others are waiting
                os.write(self._fd, codec.pack(parts))
            os.close(self._fd)
            self._fd = -1


if __name__ == "__main__":
    sys.exit(main())
