"""A coordinator as a process: ``python -m shoal.coordinator_main PATH ...`` (``shoal serve`` calls ``serve``).

- One per store: it holds a lock on the directory as long as it lives; the kernel lets go of it at any kind of death.
- It serves the directory, not the path: it works in it, and when the directory is moved or deleted it refuses further
  commits, closes its log there, and ends. Who opens the store at its new path starts the next one.
- ``store.json`` and the first log file are written when it begins to serve; refused before, it leaves all as it was.
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

from shoal.coordinator.checkpoint.checkpointer import Checkpointer
from shoal.coordinator.checkpoint.room import CheckpointRoom
from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.recovery.recover import recover
from shoal.coordinator.server.checks import Checks
from shoal.coordinator.server.control_socket import ControlSocket
from shoal.coordinator.server.loop import Server
from shoal.coordinator.server.maintenance import Maintenance
from shoal.coordinator.server.process_start import Report, leave_everything, raise_limit_of_descriptors
from shoal.coordinator.server.served_meta import ServedMeta
from shoal.coordinator.server.serving_epoch import ServingEpoch
from shoal.shm import limits
from shoal.shm.clock import SystemClock
from shoal.shm.errors import ConfigurationError, CoordinatorLostError, ShoalError, StoreMovedError
from shoal.shm.files import store_files
from shoal.shm.files.storage import DiskStorage, append_note
from shoal.shm.files.store_files import StoreMeta
from shoal.shm.files.store_place import HERE, WorkingPlace, lock_directory
from shoal.shm.host import child_python, descriptors
from shoal.shm.memory.layout import W_COORDINATOR_PID
from shoal.shm.memory.segment import Segment
from shoal.shm.operation import OperationTable

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
    operations: OperationTable,
    store_id: bytes | None = None,
) -> None:
    """Serve the store until stopped. Raises ShoalError for what keeps it from being served at all.

    With ``store_id`` only that store is served: ``StoreMovedError`` if it is not there. The working directory is the
    store's afterwards. A store that is not served after all stays as it was, and one that was not there is not made.
    """
    descriptors.keep_standard()
    raise_limit_of_descriptors()
    store_files.check_durability(durability)
    store_files.check_max_bytes(max_bytes)
    is_served = False
    try:
        with contextlib.ExitStack() as held, contextlib.ExitStack() as made:

            def served() -> None:
                nonlocal is_served
                is_served = True
                made.pop_all()
                ready()

            if store_id is None:
                made.callback(store_files.remove_directories, store_files.make_directory(directory))
            place = _enter(directory, store_id)
            _hold_locks(directory, held, made)
            meta = _meta(HERE, durability, max_bytes)
            if store_id not in (None, meta.store_id):
                raise place.moved_error()
            Coordinator(HERE, meta, linger_s, place, operations).run(served)
    except OSError as error:
        if not is_served:
            store_files.raise_if_read_only(directory, error)
        raise


def _enter(directory: Path, store_id: bytes | None) -> WorkingPlace:
    try:
        return WorkingPlace(directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        if store_id is None:
            raise
        raise StoreMovedError(str(directory), False) from error


def _hold_locks(directory: Path, held: contextlib.ExitStack, made: contextlib.ExitStack) -> None:
    """Keep other coordinators out: with the directory's lock, and with the lock file, which shoal 0.1 looks at."""
    directory_fd = lock_directory(HERE, shared=False)
    if directory_fd is None:
        raise AlreadyServedError(f"{directory} is served by another coordinator")
    held.callback(os.close, directory_fd)
    for path in (HERE / store_files.COORDINATOR_LOCK_FILE, HERE / store_files.EPOCH_FILE):
        if not path.exists():
            made.callback(path.unlink, missing_ok=True)
    lock = filelock.FileLock(HERE / store_files.COORDINATOR_LOCK_FILE, mode=0o600, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise AlreadyServedError(f"{directory} is served by another coordinator") from None
    held.callback(lock.release)


def _meta(directory: Path, durability: str | None, max_bytes: int | None) -> StoreMeta:
    """How the store is to be served: as asked for, or else as it was last."""
    last = store_files.read_meta(directory)
    default = last or StoreMeta(store_files.DEFAULT_DURABILITY, store_files.default_max_bytes())
    return default._replace(durability=durability or default.durability, max_bytes=max_bytes or default.max_bytes)


class Coordinator:
    """All parts of one coordinator, put together."""

    def __init__(
        self,
        directory: Path,
        meta: StoreMeta,
        linger_s: float | None,
        place: WorkingPlace,
        operations: OperationTable,
    ) -> None:
        self._directory = directory
        store_files.check_epoch(directory)
        clock = SystemClock()
        storage = DiskStorage(directory)
        self._segment = Segment.create(meta.max_bytes, secrets.randbits(64))
        self._writer = Writer(self._segment)
        self._reclaimer = Reclaimer(self._writer, lambda: NOTHING_PINNED)
        found = recover(storage, self._writer, self._reclaimer, meta)
        store_id = found.store_id or store_files.new_store_id()
        self._meta = meta = meta._replace(store_id=store_id)
        self._served_meta = ServedMeta(storage, directory, meta)
        self._epoch = ServingEpoch(directory, self._writer)
        wake_read, self._wake_write = os.pipe()
        for fd in (wake_read, self._wake_write):
            os.set_blocking(fd, False)
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
            operations=operations,
        )
        self._checkpointer: Checkpointer | None = None
        if self._log is not None:
            self._checkpointer = Checkpointer(
                *(directory, storage, self._log, self._writer, self._reclaimer, self._remembered),
                *(found.log_bytes, store_id, found.checkpoint_version),
            )
        checks = Checks(self._writer, self._reclaimer)
        maintenance = Maintenance(self._engine, self._writer, self._reclaimer, found.window, checks, self._checkpointer)
        self._server = Server(
            self._engine,
            self._writer,
            maintenance,
            checks,
            meta,
            linger_s,
            wake_read,
            place,
            self._keep_files,
        )
        self._reclaimer.pinned = self._server.pinned
        self._syncing = threading.Event()
        self._stop_syncing = threading.Event()
        self._synced = threading.Event()  # and will not be again

    def run(self, ready: Callable[[], None]) -> None:
        """Serve, then leave the store as found."""
        words = self._segment.words
        words[W_COORDINATOR_PID] = os.getpid()
        self._epoch.prepare()
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        control = self._open_door()
        # From here on, who only reads looks for the new segment; whoever commits finds the socket.
        self._epoch.publish()
        if self._log is not None and self._meta.durability == "buffered":
            self._start_syncing()
        gc.freeze()  # what recovery built stays; the collector need not walk it again
        # Commits leave no cycles behind, but lists that grow: walked at the usual pace they cost a fifth of all time.
        gc.set_threshold(50_000, 20, 100)
        ready()
        try:
            self._serve(control)
            if self._log is not None:
                self._log.close()
        except BaseException:
            text = f"process {os.getpid()} ended while it served: {traceback.format_exc()}"
            append_note(self._directory, store_files.NOTES_FILE, text)
            raise

    def _serve(self, control: ControlSocket) -> None:
        try:
            self._server.serve(control)
            if self._checkpointer is not None:
                self._checkpointer.save_lost()
        finally:
            control.close()
            if self._checkpointer is not None:
                self._checkpointer.close()
            self._stop_syncing.set()
            if self._syncing.is_set():
                self._synced.wait()

    def _open_door(self) -> ControlSocket:
        """From here on the store is served, and ``store.json`` says how; if not, no log file is left behind."""
        with contextlib.ExitStack() as undo:
            if self._log is not None:
                undo.callback(self._discard_log, self._log)
            control = ControlSocket(self._directory, self._server.admit)
            undo.callback(control.close)
            self._served_meta.begin(0 if self._log is None else self._log.number)
            undo.pop_all()
        if self._log is not None:
            self._log.named_number = self._served_meta.log_number
            self._log.name_newest = self._served_meta.name_log
        return control

    def _discard_log(self, log: WalWriter) -> None:
        last = store_files.read_meta(self._directory)
        if last is None or last.log_number != log.number:  # else it stays: store.json names it
            log.discard()

    def _keep_files(self, now_s: float) -> None:
        self._epoch.keep(now_s)
        self._served_meta.keep(now_s)

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


def main(operations: OperationTable, arguments: list[str] | None = None, apart: bool = False) -> int:
    """Entry of a coordinator that a client starts for itself, ``apart`` from what its process inherited."""
    parser = argparse.ArgumentParser(prog=f"python -m {child_python.COORDINATOR}", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--durability")
    parser.add_argument("--max-bytes", type=int)
    parser.add_argument("--linger", type=float, default=limits.LINGER_S, help="seconds to stay after the last client")
    parser.add_argument("--store-id", type=bytes.fromhex, help="serve this store only, and make none")
    parser.add_argument("--report-fd", type=int, required=True, help="pipe to say on how the start went")
    options = parser.parse_args(arguments)
    if apart:
        leave_everything(options.report_fd)
    # The client waits for this process and reaps it; its child belongs to nobody and outlives the client.
    if os.fork():
        os._exit(child_python.LAUNCHED)
    os.setsid()
    report = Report(options.report_fd)
    try:
        serve(
            *(options.path, options.durability, options.max_bytes, options.linger, report.ready, operations),
            store_id=options.store_id,
        )
    except AlreadyServedError:
        return EXIT_ALREADY_SERVED
    except ShoalError as error:
        report.failed(error)
        return 1
    except OSError as error:
        if report.is_due:
            report.failed(ConfigurationError(f"{options.path} cannot be served: {error}"))
        return 1
    except MemoryError:
        if report.is_due:
            report.failed(ConfigurationError(f"{options.path} cannot be served: {_NO_MEMORY}"))
        return 1
    except BaseException as error:
        if report.is_due:
            told = f"the coordinator of {options.path} could not start: {type(error).__name__}: {error}"
            report.failed(CoordinatorLostError(f"{told}; {store_files.NOTES_FILE} there has the whole traceback"))
            append_note(options.path, store_files.NOTES_FILE, f"process {os.getpid()}: {traceback.format_exc()}")
        raise
    return 0
