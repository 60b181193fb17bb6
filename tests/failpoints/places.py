"""Every failpoint: a name for people, the process that is killed there, and where it is in shoal."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from shoal.coordinator import control_socket
from shoal.coordinator.checkpoint import checkpointer
from shoal.coordinator.commit import engine as commit_engine
from shoal.coordinator.log import writer as wal_writer
from shoal.coordinator.memory import writer
from shoal.coordinator.recovery import recover
from shoal.coordinator.server import clients, coordinator, process_start
from shoal.coordinator.server import loop as server
from shoal.shm.files import checkpoint, storage
from shoal.shm.memory import segment
from shoal.shm.wire import handshake
from shoal.workers import coordinator_start
from shoal.workers.shared_memory import channel
from tests.mutants.registry import COORDINATOR, HELPER, WORKER, Failpoint


class ModuleOs:
    """``os`` as one module sees it, so that a failpoint can be one of its calls."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def _begins(prefix: str, position: int) -> Callable[..., bool]:
    return lambda *arguments: os.path.basename(str(arguments[position])).startswith(prefix)


def _is_record(_file: Any, offset: int, data: bytes) -> bool:
    return offset > 0 and not _is_zeros(_file, offset, data)


def _is_head(_file: Any, offset: int, data: bytes) -> bool:
    return offset == 0 and not _is_zeros(_file, offset, data)


def _is_zeros(_file: Any, _offset: int, data: bytes) -> bool:
    return not data.strip(b"\0")


STORAGE_OS, CHECKPOINT_OS = ModuleOs(), ModuleOs()
_engine, _log, _disk = commit_engine.CommitEngine, wal_writer.WalWriter, storage.DiskStorage
_log_file, _door, _keeper = storage._MappedFile, control_socket.ControlSocket, checkpointer.Checkpointer
_lock = _begins("coordinator.lock", 0)


FAILPOINTS = {
    # --- a commit
    "commit: read, nothing done": Failpoint(COORDINATOR, _engine, "submit_together", "before"),
    "commit: validated, not applied": Failpoint(COORDINATOR, writer.Writer, "apply", "before"),
    "commit: applied, not logged": Failpoint(COORDINATOR, _log, "append", "before"),
    "commit: half of the record written": Failpoint(COORDINATOR, _log_file, "write", "half", _is_record),
    "commit: record written, not counted": Failpoint(COORDINATOR, _log_file, "write", "after", _is_record),
    "commit: logged, not synced": Failpoint(COORDINATOR, _log, "append", "after"),
    "commit: before the sync": Failpoint(COORDINATOR, _log, "sync", "before"),
    "commit: file synced, not noted": Failpoint(COORDINATOR, _log_file, "sync", "after"),
    "commit: synced, not published": Failpoint(COORDINATOR, _log, "sync", "after"),
    "commit: before publishing": Failpoint(COORDINATOR, writer.Writer, "publish", "before"),
    "commit: published, not answered": Failpoint(COORDINATOR, writer.Writer, "publish", "after"),
    "commit: before the answer": Failpoint(COORDINATOR, clients.Client, "send", "before"),
    "commit: answered": Failpoint(COORDINATOR, clients.Client, "send", "after"),
    # --- a new log file
    "log file: made, empty": Failpoint(COORDINATOR, storage, "private_file", "after", _begins("wal-", 0)),
    "log file: room reserved, not synced": Failpoint(COORDINATOR, STORAGE_OS, "posix_fallocate", "after"),
    "log file: synced, not in the directory": Failpoint(COORDINATOR, _disk, "sync_directory", "before"),
    "log file: ready as the spare": Failpoint(COORDINATOR, _disk, "create_log_file", "after"),
    "log file: half of the zeros written": Failpoint(COORDINATOR, _log_file, "write", "half", _is_zeros),
    "log file: taken, without a head": Failpoint(COORDINATOR, _log, "_rotate", "before"),
    "log file: half of its head written": Failpoint(COORDINATOR, _log_file, "write", "half", _is_head),
    "log file: taken": Failpoint(COORDINATOR, _log, "_rotate", "after"),
    # --- a checkpoint
    "checkpoint: helper started": Failpoint(COORDINATOR, _keeper, "start", "after"),
    "checkpoint: temporary file made": Failpoint(HELPER, checkpoint, "private_file", "after"),
    "checkpoint: block made, not written": Failpoint(HELPER, checkpoint, "_block", "after"),
    "checkpoint: before the file's sync": Failpoint(HELPER, CHECKPOINT_OS, "fsync", "before"),
    "checkpoint: after the file's sync": Failpoint(HELPER, CHECKPOINT_OS, "fsync", "after"),
    "checkpoint: before the rename": Failpoint(HELPER, CHECKPOINT_OS, "replace", "before"),
    "checkpoint: after the rename": Failpoint(HELPER, CHECKPOINT_OS, "replace", "after"),
    "checkpoint: after the directory's sync": Failpoint(HELPER, checkpoint, "write_checkpoint", "after"),
    "checkpoint: written, nothing removed": Failpoint(COORDINATOR, _keeper, "_finish", "before"),
    "checkpoint: before a log file is removed": Failpoint(COORDINATOR, _disk, "remove", "before", _begins("wal-", 1)),
    "checkpoint: after a log file is removed": Failpoint(COORDINATOR, _disk, "remove", "after", _begins("wal-", 1)),
    "checkpoint: log removed": Failpoint(COORDINATOR, _log, "remove_before", "after"),
    "checkpoint: finished": Failpoint(COORDINATOR, _keeper, "_finish", "after"),
    # --- recovery
    "recovery: lock taken": Failpoint(COORDINATOR, process_start, "lock_file", "after"),
    "recovery: store.json written, not renamed": Failpoint(COORDINATOR, STORAGE_OS, "replace", "before"),
    "recovery: store.json renamed": Failpoint(COORDINATOR, STORAGE_OS, "replace", "after"),
    "recovery: memory made": Failpoint(COORDINATOR, segment, "anonymous_file", "after"),
    "recovery: before the checkpoint": Failpoint(COORDINATOR, recover, "_load_checkpoint", "before"),
    "recovery: after the checkpoint": Failpoint(COORDINATOR, recover, "_load_checkpoint", "after"),
    "recovery: in the replay": Failpoint(COORDINATOR, recover, "_replay", "after"),
    "recovery: before the tail is cut": Failpoint(COORDINATOR, _disk, "truncate", "before"),
    "recovery: after the tail is cut": Failpoint(COORDINATOR, _disk, "truncate", "after"),
    "recovery: replayed, not synced": Failpoint(COORDINATOR, _disk, "write_again", "before"),
    "recovery: synced": Failpoint(COORDINATOR, _disk, "write_again", "after"),
    "recovery: done, no log begun": Failpoint(COORDINATOR, coordinator, "recover", "after"),
    "recovery: between lock and socket": Failpoint(COORDINATOR, _door, "__init__", "before"),
    "recovery: socket there, epoch not raised": Failpoint(COORDINATOR, _door, "__init__", "after"),
    "recovery: epoch raised, nobody told": Failpoint(COORDINATOR, process_start.Report, "ready", "before"),
    "recovery: starter told": Failpoint(COORDINATOR, process_start.Report, "ready", "after"),
    # --- clients come
    "greeting: pipes made": Failpoint(COORDINATOR, server, "welcome_client", "after"),
    "greeting: client admitted, not told": Failpoint(COORDINATOR, handshake, "send_welcome", "before"),
    "greeting: client told": Failpoint(COORDINATOR, handshake, "send_welcome", "after"),
    # --- an orderly end
    "close: clients gone": Failpoint(COORDINATOR, _door, "close", "before"),
    "close: socket gone": Failpoint(COORDINATOR, _door, "close", "after"),
    "close: before the mark": Failpoint(COORDINATOR, _log, "close", "before"),
    "close: marked, not synced": Failpoint(COORDINATOR, _log, "append", "after", lambda *a: a[2:4] == (0, 0)),
    "close: before the spare is removed": Failpoint(COORDINATOR, _log, "_drop_spare", "before"),
    "close: log closed, lock held": Failpoint(COORDINATOR, _log, "close", "after"),
    # --- clients
    "take-over: holding start.lock": Failpoint(WORKER, coordinator_start, "_start", "before"),
    "take-over: coordinator started, not heard": Failpoint(WORKER, coordinator_start, "_read_report", "before"),
    "take-over: coordinator heard, lock held": Failpoint(WORKER, coordinator_start, "_start", "after"),
    "take-over: before the greeting": Failpoint(WORKER, coordinator_start, "greet", "before"),
    "take-over: greeted": Failpoint(WORKER, handshake, "receive_welcome", "after"),
    "client: before the request": Failpoint(WORKER, channel, "write_all", "before"),
    "client: half of the request written": Failpoint(WORKER, channel, "write_all", "half"),
    "client: between request and answer": Failpoint(WORKER, channel, "write_all", "after"),
    "client: answer read": Failpoint(WORKER, channel, "read_message", "after"),
}
