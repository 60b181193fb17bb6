"""A store in shared memory, put together: connection, engine, operations of the primitives, files.

It implements the port ``primitives.engine.Store``. ``shoal.open`` makes one and builds a ``Database`` on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.primitives.engine import Recipe
from shoal.primitives.rules.registry import TABLE
from shoal.shm.arguments import check_bool, check_seconds
from shoal.shm.errors import AlreadyExistsError, ConfigurationError, SnapshotExpiredError
from shoal.shm.files import checkpoint, store_directory, store_files
from shoal.shm.files.store_files import StoreMeta
from shoal.shm.host.shortage import no_descriptor
from shoal.shm.operation import Past, StoreStats
from shoal.workers.host import THIS_MACHINE, Host
from shoal.workers.presence.holding import Holding
from shoal.workers.presence.watching import Position
from shoal.workers.shared_memory.autocommit import AutoCommit
from shoal.workers.shared_memory.check import check_through
from shoal.workers.shared_memory.connection import StoreConnection
from shoal.workers.shared_memory.transaction import EngineTransaction

if TYPE_CHECKING:
    from shoal.workers.shared_memory.pipeline import EnginePipeline
    from shoal.workers.shared_memory.read_only import ReadOnlyConnection

# A check begins again when it is given up: because a commit needs memory, or because another coordinator serves now.
_CHECK_ATTEMPTS = 10


class SharedMemoryStore:
    """One attached store. ``store_id``: refuse another store at the path. The options are those of ``shoal.open``.

    ``for_tasks``: calls may run in tasks of an event loop (``shoal.aio``). ``host``: a simulated machine's.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: str | None,
        max_bytes: int | None,
        timeout: float,
        linger: float,
        read_only: bool,
        history: float | timedelta | None = None,
        store_id: bytes | None = None,
        for_tasks: bool = False,
        host: Host = THIS_MACHINE,
    ) -> None:
        store_files.check_durability(durability)
        store_files.check_max_bytes(max_bytes)
        history_ms = store_files.check_history(history)
        check_bool("read_only", read_only)
        self.path = store_directory.absolute_path(path)
        self._options: dict[str, Any] = {
            "durability": durability,
            "max_bytes": max_bytes,
            "timeout": timeout,
            "linger": linger,
            "read_only": read_only,
            "history": history,
            **({"for_tasks": True} if for_tasks else {}),
        }
        directory, timeout_s = Path(self.path), check_seconds("timeout", timeout)
        idle_timeout_s = check_seconds("linger", linger)
        self.connection: StoreConnection
        if read_only:
            from shoal.at_rest import read_at_rest  # here, because only this needs what a coordinator is made of

            read = partial(read_at_rest, directory, durability, max_bytes)
            reads = _reading(for_tasks)
            self.connection = reads(directory, durability, max_bytes, timeout_s, read, TABLE, store_id, history_ms)
        else:
            writes = _writing(for_tasks)
            self.connection = writes(
                directory, durability, max_bytes, timeout_s, idle_timeout_s, TABLE, store_id, history_ms, host
            )
        self.auto_commit = AutoCommit(self.connection, partial(_past_changes, directory))
        self.holding = Holding(self.connection)

    def begin(self, read_only: bool = False, past: Past | None = None) -> EngineTransaction:
        """A transaction at the newest version, or one that only reads at a past one."""
        return EngineTransaction(self.connection, read_only or past is not None, past)

    def pipeline(self, depth: int) -> EnginePipeline:
        """A pipeline with at most ``depth`` commits in flight."""
        from shoal.workers.shared_memory.pipeline import EnginePipeline  # here: see shoal/__init__.py

        return EnginePipeline(self.connection, depth)

    @property
    def durability(self) -> str:
        """The durability that the store is served with."""
        return self.connection.current().durability

    def stats(self) -> StoreStats:
        """The store's figures now."""
        return self.auto_commit.stats()

    def check(self) -> list[str]:
        """Every problem of the segment and its indices. The second half of the attempts insists (``check_through``)."""
        for attempt in range(_CHECK_ATTEMPTS):
            try:
                return check_through(self.connection, insist=attempt >= _CHECK_ATTEMPTS // 2)
            except SnapshotExpiredError:
                if attempt == _CHECK_ATTEMPTS - 1:
                    raise
        raise AssertionError("no attempt was made")

    def backup(self, dest: str | os.PathLike[str]) -> int:
        """Write one checkpoint of a snapshot, as a store of its own, to the directory ``dest``; how many keys it has.

        A copy of a ``memory`` store is ``buffered``: what lies on a disk is meant to stay.
        """
        directory = Path(store_directory.absolute_path(dest, "dest"))
        with store_directory.copying_to(directory):
            made = store_directory.make_directory(directory)
            try:
                with new_store(directory):
                    return self._write_copy(directory)
            except BaseException:
                store_directory.remove_directories(made)
                raise

    def _write_copy(self, directory: Path) -> int:
        snapshot = self.begin(read_only=True)
        store_id = store_files.new_store_id()  # not the original's: what is committed to either belongs to it alone
        try:
            attachment = snapshot.attachment
            with attachment.reading() as reader:
                keys = checkpoint.write_checkpoint(directory, reader, snapshot.snapshot, [], store_id)
            durability = attachment.durability
            if durability == "memory":
                durability = store_files.DEFAULT_DURABILITY
            size = attachment.segment.size_bytes
            meta = StoreMeta(durability, size, store_id, checkpoint_version=snapshot.snapshot)
            store_files.write_meta(directory, meta)
            return keys
        except BaseException:
            (directory / checkpoint.file_name(snapshot.snapshot)).unlink(missing_ok=True)
            raise
        finally:
            snapshot.abandon()

    def recipe(self) -> Recipe:
        """How another process attaches to this store, and to no other at the same path."""
        return _attach_again, (self.path, self._options, self.connection.store_id)

    def close(self) -> None:
        """Detach; see ``StoreConnection.close``."""
        try:
            self.holding.finish()
        finally:
            self.connection.close()
            self.holding.close()


def opened(path: str | os.PathLike[str], **options: Any) -> SharedMemoryStore:
    """Open a store for a user; ``ConfigurationError`` if this process lacks descriptors (a pool waits for some)."""
    try:
        return SharedMemoryStore(path, **options)
    except OSError as error:
        lack = no_descriptor(error)
        if lack is None:
            raise
        raise ConfigurationError(f"{os.fsdecode(path)} cannot be opened: {lack}") from error


def _past_changes(
    directory: Path, lower: bytes, upper: bytes, position: Position, through: int
) -> Iterator[tuple[int, bytes, bytes | None]]:
    from shoal.past_changes import past_changes  # here, because only this needs what reads a log

    return past_changes(directory, lower, upper, position, through)


@contextmanager
def new_store(directory: Path) -> Iterator[None]:
    """Hold the lock file of a store that is made in an empty directory: no coordinator serves it before it is whole.

    The lock is the one that a coordinator takes (``process_start.hold_locks``), and ends with the process. After an
    exception the directory has no lock file. ``AlreadyExistsError`` if another process makes or serves a store there.
    """
    from filelock import FileLock, Timeout  # here, because its import takes as long as a start of a coordinator

    path = directory / store_files.COORDINATOR_LOCK_FILE
    not_empty = AlreadyExistsError(f"{directory} is not empty; give a new directory")
    if any(directory.iterdir()):
        raise not_empty
    try:
        with FileLock(path, timeout=0, mode=0o600):
            path.chmod(0o600)  # whatever the umask
            if [found for found in directory.iterdir() if found != path]:
                raise not_empty
            try:
                yield
            except BaseException:
                path.unlink(missing_ok=True)
                raise
    except Timeout:
        raise AlreadyExistsError(f"{directory} is being made by another process; give a new directory") from None


def _writing(for_tasks: bool) -> type[StoreConnection]:
    if not for_tasks:
        return StoreConnection
    from shoal.workers.tasks.connection import TaskConnection  # here: needs greenlet

    return TaskConnection


def _reading(for_tasks: bool) -> type[ReadOnlyConnection]:
    if for_tasks:
        from shoal.workers.tasks.connection import ReadOnlyTaskConnection

        return ReadOnlyTaskConnection
    from shoal.workers.shared_memory.read_only import ReadOnlyConnection  # here: few programs need it

    return ReadOnlyConnection


def _attach_again(path: str, options: dict[str, Any], store_id: bytes | None) -> SharedMemoryStore:
    return SharedMemoryStore(path, **options, store_id=store_id)
