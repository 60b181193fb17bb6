"""``shoal.open`` and what it returns."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from shoal.primitives.keys import Namespace
from shoal.primitives.rules.registry import TABLE
from shoal.primitives.transaction import Transaction
from shoal.shm.arguments import check_plain_function, check_plain_result, check_seconds
from shoal.shm.errors import AlreadyExistsError, SnapshotExpiredError
from shoal.shm.files import checkpoint, store_files
from shoal.shm.files.store_files import StoreMeta
from shoal.shm.limits import LINGER_S, OPEN_TIMEOUT_S
from shoal.shm.memory.layout import W_BYTES_USED, W_CLIENTS, W_COORDINATOR_PID, W_KEYS, W_PUBLISHED
from shoal.workers.retry import retry
from shoal.workers.shared_memory import transaction as engine
from shoal.workers.shared_memory.autocommit import AutoCommit
from shoal.workers.shared_memory.check import check_through
from shoal.workers.shared_memory.connection import Connection
from shoal.workers.shared_memory.read_only import ReadOnlyConnection

T = TypeVar("T")

# A check begins anew when it is given up: by the coordinator, or because another one serves now.
_CHECK_ATTEMPTS = 10

# The namespace used where none is named; shared, so that what it caches is, too.
DEFAULT_NAMESPACE = Namespace()


@dataclass(frozen=True)
class StoreInfo:
    """What ``Database.info`` says.

    ``keys`` counts live keys; those of a range just deleted go within moments. ``compiled`` says whether the hot
    modules run compiled; they run as plain Python.
    """

    path: str
    durability: str
    coordinator_pid: int
    commit_version: int
    keys: int
    bytes_used: int
    clients: int
    compiled: bool


class Database:
    """One store, attached. A context manager; pickles to its path and options, and attaches anew where it arrives.

    Only to the same store: if another one lies at the path by then, it is ``StoreMovedError``.
    Safe to share between threads, and across ``fork``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: str | None = None,
        max_bytes: int | None = None,
        timeout: float = OPEN_TIMEOUT_S,
        linger: float = LINGER_S,
        read_only: bool = False,
        _store_id: bytes | None = None,
    ) -> None:
        store_files.check_durability(durability)
        store_files.check_max_bytes(max_bytes)
        if type(read_only) is not bool:
            raise TypeError(f"read_only has type {type(read_only).__name__}; give True or False")
        self.path = store_files.absolute_path(path)
        self._options = {"durability": durability, "max_bytes": max_bytes, "timeout": timeout, "linger": linger}
        self._options["read_only"] = read_only
        directory, timeout_s = Path(self.path), check_seconds("timeout", timeout)
        linger_s = check_seconds("linger", linger)
        options = (directory, durability, max_bytes, timeout_s)
        if read_only:
            from shoal.at_rest import read_at_rest  # here, because only this needs what a coordinator is made of

            read = partial(read_at_rest, directory, durability, max_bytes)
            self._connection: Connection = ReadOnlyConnection(*options, read, TABLE, _store_id)
        else:
            self._connection = Connection(*options, linger_s, TABLE, _store_id)
        self.engine = AutoCommit(self._connection)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), self.path, self._options, self._connection.store_id)

    def __repr__(self) -> str:
        return f"<shoal.Database {self.path!r}>"

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Detach. The coordinator ends some time after its last client has; closing twice does nothing."""
        self._connection.close()

    def transaction(self, run_id: str, *, namespace: Namespace = DEFAULT_NAMESPACE) -> Transaction:
        """A transaction on a run, to be used in a ``with`` statement; see ``shoal.Transaction``.

        >>> import shoal, tempfile
        >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
        ...     with db.transaction("run-1") as txn:
        ...         txn.kv.put("status", "running")
        ...         txn.on("run-2").kv.put("parent", "run-1")
        ...     txn.version
        1
        """
        return Transaction(self._connection, namespace, run_id)

    def transact(
        self,
        run_id: str,
        fn: Callable[[Transaction], T],
        retries: int = 100,
        *,
        namespace: Namespace = DEFAULT_NAMESPACE,
    ) -> T:
        """Run ``fn(txn)`` in a transaction and return what it returns, again after each conflict.

        ``fn`` runs up to ``retries`` more times with jittered pauses between, so it must have no effect but through
        ``txn``. Raises the last ``ConflictError`` when all of them conflicted, and whatever ``fn`` raises at once.
        ``TypeError`` for an async or generator function, or one that returns what is still to be awaited or iterated:
        nothing is written then.
        """
        check_plain_function("fn", fn)
        if type(retries) is not int or retries < 0:
            raise ValueError(f"retries is {retries!r:.60}; give a whole number from 0")

        def attempt() -> T:
            with self.transaction(run_id, namespace=namespace) as txn:
                result = fn(txn)
                check_plain_result("fn", fn, result)  # while an error still keeps everything from being written
                return result

        return retry(attempt, retries)

    def snapshot(self, run_id: str, *, namespace: Namespace = DEFAULT_NAMESPACE) -> Transaction:
        """A transaction that only reads, at the newest version, from this moment; end it with ``close`` or ``with``."""
        return Transaction(self._connection, namespace, run_id, read_only=True)

    def begin(self, *, read_only: bool = False) -> engine.EngineTransaction:
        """A transaction of the engine, for what spans namespaces (export, import): ``commit`` or ``abandon`` ends it.

        Not of the public face: there, a transaction belongs to a namespace.
        """
        return engine.EngineTransaction(self._connection, read_only)

    def info(self) -> StoreInfo:
        """What the store holds and who serves it."""
        attachment = self._connection.current()
        with attachment.reading() as reader:
            words = reader.words
            return StoreInfo(
                path=self.path,
                durability=attachment.durability,
                coordinator_pid=words[W_COORDINATOR_PID],
                commit_version=words[W_PUBLISHED],
                keys=words[W_KEYS],
                bytes_used=words[W_BYTES_USED],
                clients=words[W_CLIENTS],
                compiled=False,
            )

    def check(self) -> list[str]:
        """Walk the whole segment and return every problem found; empty means sound.

        Commits go on meanwhile, in every process. A check keeps memory from being used again, so it begins anew when a
        commit needs that; ``SnapshotExpiredError`` if it does not come to an end so.

        >>> import shoal, tempfile
        >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
        ...     db.check()
        []
        """
        for attempt in range(_CHECK_ATTEMPTS):
            try:
                return check_through(self._connection, insist=attempt >= _CHECK_ATTEMPTS // 2)
            except SnapshotExpiredError:
                if attempt == _CHECK_ATTEMPTS - 1:
                    raise
        raise AssertionError("no attempt was made")

    def backup(self, dest: str | os.PathLike[str]) -> int:
        """Write a consistent copy to the directory ``dest``, which ``open`` accepts; return how many keys it has.

        Writers go on meanwhile. ``dest`` must not hold a store; ``StoreFullError`` if its disk is full, and
        ``SnapshotExpiredError`` if the copy takes so long that its snapshot is revoked to make room.
        """
        directory = Path(store_files.absolute_path(dest))
        store_files.make_directory(directory)
        if any(directory.iterdir()):
            raise AlreadyExistsError(f"{directory} is not empty; give a new directory")
        snapshot = engine.EngineTransaction(self._connection, read_only=True)
        store_id = store_files.new_store_id()  # not the original's: what is committed to either belongs to it alone
        try:
            attachment = snapshot.attachment
            with attachment.reading() as reader:
                keys = checkpoint.write_checkpoint(directory, reader, snapshot.snapshot, [], store_id)
            durability = attachment.durability
            if durability == "memory":
                durability = store_files.DEFAULT_DURABILITY  # what lies on disk is meant to stay
            size = attachment.segment.size_bytes
            meta = StoreMeta(durability, size, store_id, checkpoint_version=snapshot.snapshot)
            store_files.write_meta(directory, meta)
            return keys
        finally:
            snapshot.abandon()


def open(  # noqa: A001 (the contract's name; nothing here opens files)
    path: str | os.PathLike[str],
    *,
    durability: str | None = None,
    max_bytes: int | None = None,
    timeout: float = OPEN_TIMEOUT_S,
    linger: float = LINGER_S,
    read_only: bool = False,
) -> Database:
    """Attach to the store at ``path``, a directory, starting a coordinator if none serves it.

    ``path``: str, bytes or ``os.PathLike``; it is taken as it is, ``~`` is not expanded.
    ``durability``: ``"memory"``, ``"buffered"`` or ``"strict"``; None takes the one being served, else the last.
    ``max_bytes``: bound of the store's memory, 8 MiB at least; None likewise, else half of what machine,
    container and the limits of the process leave it (``shoal.shm.host.machine_memory``).
    ``timeout``: seconds to wait for a coordinator, now and after one has died; ``math.inf`` for ever.
    ``linger``: seconds a coordinator started here stays after its last client; ``math.inf`` for ever.
    ``read_only``: read a store that is there, and start and make nothing. One that nobody serves is read into memory of
    this process (``max_bytes`` then bounds that), also on read-only media. Every write is ``InvalidOperationError``.

    Raises ``ConfigurationError`` for options the store cannot be opened with, ``CorruptionError`` for damage,
    ``CoordinatorLostError`` if no coordinator could be reached or started in time, and with ``read_only``
    ``NotFoundError`` if there is no store; then nothing is changed. If the directory is moved, deleted or replaced
    later, commits raise ``StoreMovedError``.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     db.info().keys
    0
    """
    return Database(
        path, durability=durability, max_bytes=max_bytes, timeout=timeout, linger=linger, read_only=read_only
    )


def _reopen(kind: type[Database], path: str, options: dict[str, Any], store_id: bytes | None) -> Database:
    return kind(path, **options, _store_id=store_id)


__all__ = ["Database", "StoreInfo", "open"]
