"""A store in shared memory, put together: connection, engine, operations of the primitives, files.

It implements the port ``primitives.engine.Store``. ``shoal.open`` makes one and builds a ``Database`` on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.primitives.engine import Recipe
from shoal.primitives.rules.registry import TABLE
from shoal.shm.arguments import check_bool, check_seconds
from shoal.shm.errors import AlreadyExistsError, SnapshotExpiredError
from shoal.shm.files import checkpoint, store_directory, store_files
from shoal.shm.files.store_files import StoreMeta
from shoal.workers.presence.holding import Holding
from shoal.workers.presence.watching import Position
from shoal.workers.shared_memory.attachment import EngineStats
from shoal.workers.shared_memory.autocommit import AutoCommit
from shoal.workers.shared_memory.check import check_through
from shoal.workers.shared_memory.connection import StoreConnection
from shoal.workers.shared_memory.transaction import EngineTransaction

if TYPE_CHECKING:
    from shoal.workers.shared_memory.pipeline import EnginePipeline

# A check begins again when it is given up: because a commit needs memory, or because another coordinator serves now.
_CHECK_ATTEMPTS = 10


class SharedMemoryStore:
    """One attached store. ``store_id``: refuse another store at the path. The options are those of ``shoal.open``."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: str | None,
        max_bytes: int | None,
        timeout: float,
        linger: float,
        read_only: bool,
        store_id: bytes | None = None,
    ) -> None:
        store_files.check_durability(durability)
        store_files.check_max_bytes(max_bytes)
        check_bool("read_only", read_only)
        self.path = store_directory.absolute_path(path)
        self._options: dict[str, Any] = {
            "durability": durability,
            "max_bytes": max_bytes,
            "timeout": timeout,
            "linger": linger,
            "read_only": read_only,
        }
        directory, timeout_s = Path(self.path), check_seconds("timeout", timeout)
        idle_timeout_s = check_seconds("linger", linger)
        if read_only:
            from shoal.at_rest import read_at_rest  # here, because only this needs what a coordinator is made of
            from shoal.workers.shared_memory.read_only import ReadOnlyConnection

            read = partial(read_at_rest, directory, durability, max_bytes)
            self.connection: StoreConnection = ReadOnlyConnection(
                directory, durability, max_bytes, timeout_s, read, TABLE, store_id
            )
        else:
            self.connection = StoreConnection(
                directory, durability, max_bytes, timeout_s, idle_timeout_s, TABLE, store_id
            )
        self.auto_commit = AutoCommit(self.connection, partial(_past_changes, directory))
        self.holding = Holding(self.connection)

    def begin(self, read_only: bool = False) -> EngineTransaction:
        """A transaction at the newest version."""
        return EngineTransaction(self.connection, read_only)

    def pipeline(self, depth: int) -> EnginePipeline:
        """A pipeline with at most ``depth`` commits in flight."""
        from shoal.workers.shared_memory.pipeline import EnginePipeline  # here: see shoal/__init__.py

        return EnginePipeline(self.connection, depth)

    @property
    def durability(self) -> str:
        """The durability that the store is served with."""
        return self.connection.current().durability

    def stats(self) -> EngineStats:
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
        directory = Path(store_directory.absolute_path(dest))
        store_directory.make_directory(directory)
        if any(directory.iterdir()):
            raise AlreadyExistsError(f"{directory} is not empty; give a new directory")
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
        finally:
            snapshot.abandon()

    def recipe(self) -> Recipe:
        """How another process attaches to this store, and to no other at the same path."""
        return _attach_again, (self.path, self._options, self.connection.store_id)

    def close(self) -> None:
        """Detach; see ``StoreConnection.close``."""
        self.connection.close()
        self.holding.close()


def _past_changes(
    directory: Path, lower: bytes, upper: bytes, position: Position, through: int
) -> Iterator[tuple[int, bytes, bytes | None]]:
    from shoal.past_changes import past_changes  # here, because only this needs what reads a log

    return past_changes(directory, lower, upper, position, through)


def _attach_again(path: str, options: dict[str, Any], store_id: bytes | None) -> SharedMemoryStore:
    return SharedMemoryStore(path, **options, store_id=store_id)
