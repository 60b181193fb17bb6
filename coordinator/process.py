"""A coordinator as a process: ``python -m shoal.coordinator.process PATH ...`` (``shoal serve`` calls ``serve``).

- One per store: it holds ``coordinator.lock`` as long as it lives; the kernel lets go of it at any kind of death.
- Nothing is served before recovery has verified everything; an error until then goes to whoever started the process.
- It ends in order on SIGINT, SIGTERM, and, unless told to stay, some time after its last client.
- An error of the disk, or a broken invariant, ends it at once, with exit code 1 and its reason in ``coordinator.log``:
  what is acknowledged is in the log, and the next coordinator recovers from what the disk really holds.
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

from shoal.coordinator.checkpointer import Checkpointer
from shoal.coordinator.checks import Checks
from shoal.coordinator.commit_engine import CommitEngine
from shoal.coordinator.control_socket import ControlSocket
from shoal.coordinator.log.wal_writer import WalWriter
from shoal.coordinator.recover import recover
from shoal.coordinator.server import Server
from shoal.shm import child_python, codec, commit_set, limits, store_files
from shoal.shm.clock import SystemClock
from shoal.shm.errors import ConfigurationError, CoordinatorLostError, ShoalError
from shoal.shm.layout import EPOCH_BITS, W_COORDINATOR_PID, W_GENERATION
from shoal.shm.reclaim import Reclaimer
from shoal.shm.segment import Segment
from shoal.shm.storage import DiskStorage, append_note
from shoal.shm.store_files import EpochWord, StoreMeta
from shoal.shm.writer import Writer

EXIT_ALREADY_SERVED = 3
_NO_MEMORY = (
    "its process has no memory left; open the store with a smaller max_bytes, or raise the limits of the process "
    "(ulimit -v) or of its container"
)
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
    meta = StoreMeta(durability or default.durability, max_bytes or default.max_bytes)
    if meta != last:
        store_files.write_meta(directory, meta)
    return meta


class Coordinator:
    """All parts of one coordinator, put together."""

    def __init__(self, directory: Path, meta: StoreMeta, linger_s: float | None) -> None:
        self._directory = directory
        self._meta = meta
        clock = SystemClock()
        storage = DiskStorage(directory)
        self._segment = Segment.create(meta.max_bytes, secrets.randbits(64))
        self._writer = Writer(self._segment)
        self._reclaimer = Reclaimer(self._writer, lambda: NOTHING_PINNED)
        found = recover(storage, self._writer, self._reclaimer)
        self._log: WalWriter | None = None
        if meta.durability != "memory":
            self._log = WalWriter(storage, found.next_log_number, found.version)
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
                directory, storage, self._log, self._writer, self._reclaimer, self._remembered, found.log_bytes
            )
        self._epoch = EpochWord(directory, writable=True)
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
            Checks(self._writer, self._reclaimer),
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
        control = ControlSocket(self._directory, self._server.admit)
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
        except BaseException:
            text = f"process {os.getpid()} ended while it served: {traceback.format_exc()}"
            append_note(self._directory, store_files.NOTES_FILE, text)
            raise
        finally:
            control.close()
            if self._checkpointer is not None:
                self._checkpointer.close()
            self._stop_syncing.set()
            if self._syncing.is_set():
                self._synced.wait()
        if self._log is not None:
            self._log.close()

    def _stop(self, _number: int, _frame: Any) -> None:
        self._server.stopping = True

    def _remembered(self) -> list[list[Any]]:
        return [[client, *outcome] for client, outcome in self._engine.remembered.items()]

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
        os._exit(child_python.LAUNCHED)
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
        if not report.is_ready:
            append_note(options.path, store_files.NOTES_FILE, f"process {os.getpid()}: {error}")
        return 1
    except MemoryError:
        if not report.is_ready:
            report.failed(ConfigurationError(f"{options.path} cannot be served: {_NO_MEMORY}"))
            append_note(options.path, store_files.NOTES_FILE, f"process {os.getpid()}: {_NO_MEMORY}")
        return 1
    except BaseException as error:
        if not report.is_ready:
            told = f"the coordinator of {options.path} could not start: {type(error).__name__}: {error}"
            report.failed(CoordinatorLostError(f"{told}; {store_files.NOTES_FILE} there has the whole traceback"))
            append_note(options.path, store_files.NOTES_FILE, f"process {os.getpid()}: {traceback.format_exc()}")
        raise
    return 0


class _Report:
    """Tells whoever started this process, if it is still there, how the start went."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.is_ready = False

    def ready(self) -> None:
        self.is_ready = True
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
