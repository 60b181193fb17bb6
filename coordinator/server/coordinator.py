"""All parts of one coordinator, put together: recovered, then serving, then ended in order.

- Nothing is served before recovery has verified everything.
- ``store.json`` and the first log file are written when it begins to serve. If that is refused, no log file is left,
  unless ``store.json`` names it already.
- From the control socket on, processes that commit find it; from the epoch word on, processes that only read look for
  the new segment.
- An exception while it serves ends it, with its reason in ``coordinator.log``. What is acknowledged is in the log, and
  the next coordinator recovers from what the disk really holds.
"""

from __future__ import annotations

import contextlib
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.coordinator.checkpoint.checkpointer import Checkpointer
from shoal.coordinator.checkpoint.history import History
from shoal.coordinator.checkpoint.moments_file import MomentsFile
from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.commit.upkeep import Upkeep
from shoal.coordinator.control_socket import ControlSocket
from shoal.coordinator.host import THIS_MACHINE, Host
from shoal.coordinator.log.background_sync import BackgroundSync
from shoal.coordinator.log.checkpoint_room import CheckpointRoom
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.presence.changes import Changes
from shoal.coordinator.presence.holders import Holders
from shoal.coordinator.recovery.recover import Recovered, recover
from shoal.coordinator.server.checks import Checks
from shoal.coordinator.server.control_requests import ControlRequests
from shoal.coordinator.server.loop import Server
from shoal.coordinator.server.maintenance import Maintenance
from shoal.coordinator.server.served_meta import ServedMeta
from shoal.coordinator.server.serving_epoch import ServingEpoch
from shoal.shm.files import store_files
from shoal.shm.files.storage import Storage
from shoal.shm.files.store_files import StoreMeta
from shoal.shm.files.store_place import WorkingPlace
from shoal.shm.limits import DEFAULT_LIMITS, Limits
from shoal.shm.memory.layout import W_COORDINATOR_PID, W_GENERATION
from shoal.shm.operation import OperationTable

NOTHING_PINNED: list[int] = []


class Coordinator:
    """The process that serves one store."""

    def __init__(
        self,
        directory: Path,
        meta: StoreMeta,
        idle_timeout_s: float | None,
        place: WorkingPlace,
        operations: OperationTable,
        limits: Limits = DEFAULT_LIMITS,
        host: Host = THIS_MACHINE,
    ) -> None:
        self._directory = directory
        self._limits = limits
        self._host = host
        storage = host.storage(directory)
        self._segment = host.new_segment(meta.max_bytes)
        self._writer = Writer(self._segment, limits)
        self._reclaimer = Reclaimer(self._writer, lambda: NOTHING_PINNED)
        self._history = History(meta.history_ms, self._segment, self._reclaimer, host.now_us, host.monotonic_s)
        self._history.load(storage, meta.store_id)
        found = recover(storage, self._writer, self._reclaimer, meta, limits)
        store_id = found.store_id or store_files.new_store_id()
        self._meta = meta._replace(store_id=store_id)
        self._moments_file = None if meta.durability == "memory" else MomentsFile(storage, store_id)
        self._served_meta = ServedMeta(storage, directory, self._meta, host)
        self._epoch = ServingEpoch(directory, self._writer, host)
        self._log = self._begin_log(storage, found, store_id)
        self._engine = CommitEngine(
            *(self._writer, self._reclaimer, found.window, self._log, host, found.version, found.sessions),
            sync_each_group=meta.durability == "strict",
            operations=operations,
            limits=limits,
        )
        self._checkpointer: Checkpointer | None = None
        if self._log is not None:
            self._checkpointer = Checkpointer(
                *(directory, storage, self._log, self._writer, self._reclaimer, self._sessions),
                *(found.log_bytes, store_id, found.checkpoint_version, limits, host),
            )
        self._background_sync: BackgroundSync | None = None
        if self._log is not None and (meta.durability == "buffered" or self._log.fills_ahead):
            self._background_sync = BackgroundSync(self._log, directory, limits, host)
        self._server = self._new_server(found, idle_timeout_s, place)
        self._reclaimer.pinned = self._server.pinned
        if self._checkpointer is not None:
            self._checkpointer.before_removal = self._server.tell_watches

    def run(self, ready: Callable[[], None]) -> None:
        """Serve, call ``ready`` when that begins, and leave the log closed."""
        self._segment.words[W_COORDINATOR_PID] = self._host.pid()
        self._epoch.prepare()
        self._host.on_signal((signal.SIGINT, signal.SIGTERM), self._stop, self._server.wake_write_fd)
        control = self._listen()
        self._begin_history()
        self._epoch.publish()
        if self._background_sync is not None:
            self._background_sync.start()
        self._host.tune_collector()
        ready()
        try:
            self._serve(control)
            self._history.close()
            if self._log is not None:
                self._log.close()
        except BaseException:
            text = f"process {self._host.pid()} ended while it served: {traceback.format_exc()}"
            self._host.note(self._directory, text)
            raise

    def _begin_history(self) -> None:
        self._history.begin(self._engine.version, self._moments_file)
        if self._meta.history_ms:
            self._engine.history = self._history

    def _begin_log(self, storage: Storage, found: Recovered, store_id: bytes) -> WalWriter | None:
        """A log file for what is committed from now on; None in ``memory`` durability."""
        if self._meta.durability == "memory":
            return None
        room = CheckpointRoom(storage, self._writer)
        room.acquire()  # before a log file takes the disk's last bytes: a checkpoint is the way out of a full disk
        ahead = self._meta.durability == "strict" and storage.overwrites_in_place()
        log = WalWriter(
            *(storage, found.next_log_number, found.version, store_id, room, self._limits, self._host.new_lock),
            fill_step_bytes=self._limits.fill_step_bytes if ahead else 0,
        )
        log.first_versions.update(found.log_files)
        return log

    def _new_server(self, found: Recovered, idle_timeout_s: float | None, place: WorkingPlace) -> Server:
        writer, reclaimer, limits = self._writer, self._reclaimer, self._limits
        checks = Checks(writer, reclaimer, limits)
        upkeep = Upkeep(self._engine, writer, self._host.monotonic_s, limits)
        maintenance = Maintenance(
            *(self._engine, writer, reclaimer, found.window, checks, self._checkpointer, upkeep, self._history, limits)
        )
        holders = Holders(writer, self._engine, self._host.monotonic_s)
        changes = Changes(found.window, writer, reclaimer, has_log=self._log is not None)
        control_requests = ControlRequests(*(self._engine, found.window, checks, holders, changes, self._past_version))
        return Server(
            *(self._engine, writer, maintenance, control_requests, self._meta, idle_timeout_s, place, self._keep_files),
            *(limits, self._host),
        )

    def _serve(self, control: ControlSocket) -> None:
        try:
            self._server.serve(control)
            if self._checkpointer is not None:
                self._checkpointer.save_lost()
        finally:
            control.close()
            if self._checkpointer is not None:
                self._checkpointer.close()
            if self._background_sync is not None:
                self._background_sync.stop()

    def _past_version(self, version: int | None, moment_us: int | None) -> list[int]:
        return [self._segment.words[W_GENERATION], *self._history.answer(version, moment_us)]

    def _listen(self) -> ControlSocket:
        """From here on the store is served, and ``store.json`` says how; if not, no log file is left behind."""
        with contextlib.ExitStack() as undo:
            if self._log is not None:
                undo.callback(self._discard_log, self._log)
            control = self._host.control_socket(self._directory, self._server.admit)
            undo.callback(control.close)
            self._served_meta.begin(0 if self._log is None else self._log.number)
            undo.pop_all()
        if self._log is not None:
            self._log.named_number = self._served_meta.log_number
            self._log.name_newest = self._served_meta.name_log
        return control

    def _discard_log(self, log: WalWriter) -> None:
        """Remove the log file that was begun, unless ``store.json`` names it already."""
        last = self._host.read_meta(self._directory)
        if last is None or last.log_number != log.number:
            log.discard()

    def _keep_files(self, now_s: float) -> None:
        """Make files again that somebody removed."""
        self._epoch.keep(now_s)
        self._served_meta.keep(now_s)

    def _stop(self, _number: int, _frame: Any) -> None:
        self._server.stopping = True

    def _sessions(self) -> list[list[Any]]:
        """The client sessions as a checkpoint has them."""
        return [[client_id, *session] for client_id, session in self._engine.sessions.items()]
