"""``shoal.open`` and the ``Database`` it returns: a store behind the port of ``primitives.engine``."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from shoal.primitives.engine import Recipe, Store
from shoal.primitives.facades.fleet.idempotency import IDEMPOTENCY_TTL_S, OnDoubt, once, remembered
from shoal.primitives.facades.leases import Lease, LeaseInfo, check_fence, held, take
from shoal.primitives.keys import Namespace
from shoal.primitives.retry import retry
from shoal.primitives.transaction import Fence, Transaction
from shoal.shared_memory_store import opened
from shoal.shm.arguments import check_count, check_plain_function, check_plain_result
from shoal.shm.compilation import is_compiled
from shoal.shm.errors import ConflictError
from shoal.shm.limits import IDLE_TIMEOUT_S, OPEN_TIMEOUT_S
from shoal.shm.operation import past_of
from shoal.store_info import StoreInfo, info_of

if TYPE_CHECKING:
    from shoal.primitives.facades.pipeline import Pipeline

T = TypeVar("T")

# The namespace used where none is named; shared, so that what it caches is, too.
DEFAULT_NAMESPACE = Namespace()


class Database:
    """One store, attached; ``shoal.open`` makes it.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     with db.transaction("run-1") as txn:
    ...         txn.kv.put("status", "running")
    ...     db.transact("run-1", lambda txn: txn.kv.get("status")), db.info().keys
    ('running', 1)

    A context manager. Safe to share between threads, and across ``fork``. It pickles to the store's path and options
    and attaches where it arrives, but only to the same store: ``StoreMovedError`` if another one lies there by then.
    ``path`` is where the store lies, a str.

    Any call may raise ``InvalidOperationError`` once the database is closed, and ``CoordinatorLostError`` if no
    coordinator could be reached or started in time.
    """

    path: str

    def __init__(self, store: Store) -> None:
        self._store = store
        self.path = store.path

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), self._store.recipe())

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
        self._store.close()

    def transaction(
        self, run_id: str, *, fence: Fence | None = None, namespace: Namespace = DEFAULT_NAMESPACE
    ) -> Transaction:
        """A transaction on a run, to be used in a ``with`` statement; ``Transaction`` says what its exit may raise.

        With a ``fence`` (what ``lease`` gave) it commits only if the lease is still held then. If not, also after
        ``release``, its exit raises ``FencedError`` and nothing is written.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad argument.

        >>> import shoal, tempfile
        >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
        ...     with db.transaction("run-1") as txn:
        ...         txn.kv.put("status", "running")
        ...         txn.on("run-2").kv.put("parent", "run-1")
        ...     txn.version
        1
        """
        return Transaction(self._store, namespace, run_id, fence=check_fence(fence))

    def transact(
        self,
        run_id: str,
        fn: Callable[[Transaction], T],
        retries: int = 100,
        *,
        fence: Fence | None = None,
        idempotency_key: str | None = None,
        idempotency_ttl: float | timedelta = IDEMPOTENCY_TTL_S,
        namespace: Namespace = DEFAULT_NAMESPACE,
    ) -> T:
        """Run ``fn(txn)`` in a transaction and return what it returns, again after each conflict.

        ``fn`` runs up to ``retries`` more times with jittered pauses between, so it must have no effect but through
        ``txn``. An async or generator function, or one that returns what is still to be awaited or iterated, is
        refused, and nothing is written. ``fence``: as in ``transaction``.

        With an ``idempotency_key`` (str) it takes effect once for a run and that key, also if processes die on the way:
        the result is written in the same commit, for ``idempotency_ttl`` seconds (or a timedelta) from then on. A later
        call with the key returns that result and does not run ``fn``. The first call returns it as it is read back: a
        tuple is a list. It must be a storable value. A call that fails does not use the key up.

        Raises ``ConflictError`` or ``SnapshotExpiredError`` if all runs ended so, what else the commit may raise
        (``Transaction``), whatever ``fn`` raises, ``CorruptionError`` for a damaged result, and ``TypeError``,
        ``ValueError`` or ``LimitExceededError`` for a bad argument or a result that cannot be stored.

        >>> import shoal, tempfile
        >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
        ...     for _ in range(2):
        ...         db.transact("run-1", lambda txn: txn.kv.increment("paid", 10), idempotency_key="invoice 7")
        10
        10
        """
        check_plain_function("fn", fn)
        check_count("retries", retries, 0)
        known = remembered(namespace, run_id, idempotency_key, idempotency_ttl)

        def attempt() -> T:
            with self.transaction(run_id, fence=fence, namespace=namespace) as txn:
                result = fn(txn) if known is None else known.run(txn, fn)
                check_plain_result("fn", fn, result)  # while an error still keeps everything from being written
                return result

        try:
            return retry(attempt, retries, self._store)
        except ConflictError:  # perhaps with a call of the same key
            for result in [] if known is None else known.find(self._store.auto_commit):
                return result  # type: ignore[no-any-return]
            raise

    def once(
        self,
        run_id: str,
        key: str,
        fn: Callable[[], T],
        *,
        on_doubt: OnDoubt = "raise",
        namespace: Namespace = DEFAULT_NAMESPACE,
    ) -> T:
        """Do something outside the store once for a run and ``key``: call ``fn()``, record its result and return it.

        Called again, by any process, it returns the recorded result and does not call ``fn``. While another call is at
        it, this waits for that one. The result is a storable value, and comes as it is read back: a tuple is a list.
        It is kept as long as the run. No transaction is open while ``fn`` runs, and it must not call ``once`` with the
        same key: it would wait for itself. In the same thread or task of an event loop that is refused.

        The intent is recorded before ``fn`` is called. An exception that ``fn`` raises says that nothing has happened:
        the intent is deleted, and the next call runs ``fn``. But if the process ends between intent and result, or
        ``fn`` is interrupted (``KeyboardInterrupt``, ``SystemExit``), or the result cannot be recorded, nobody can know
        whether the effect took place. ``on_doubt`` says what the next call does then:

        - ``"raise"``: it raises ``InDoubtError``.
        - ``"retry"``: it calls ``fn`` again. If that raises, the first attempt is still in doubt.
        - a function ``on_doubt(key)`` that finds out what happened, and returns the result, which is recorded.

        Raises ``InDoubtError``, whatever ``fn`` or ``on_doubt`` raises, ``FencedError`` if the process was stopped for
        so long that another one has resolved the effect meanwhile, or the run was deleted, ``StoreFullError`` if there
        is no room for a record, ``ConflictError``, ``CorruptionError`` for a damaged record, ``InvalidOperationError``
        if the database only reads or ``fn`` calls this with its own key, and ``TypeError``, ``ValueError`` or
        ``LimitExceededError`` for a bad argument or a result that cannot be stored.

        >>> import shoal, tempfile
        >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
        ...     for _ in range(2):
        ...         db.once("run-1", "mail to ann", lambda: print("sent") or 250)
        sent
        250
        250
        """
        return once(self._store, namespace, run_id, key, fn, on_doubt)

    def pipeline(self, run_id: str, depth: int = 64, *, namespace: Namespace = DEFAULT_NAMESPACE) -> Pipeline:
        """Commits on a run that are sent without waiting for the one before, to be used in a ``with`` statement.

        At most ``depth`` of them (int, 1 at least; more than 1,024 count as 1,024) are under way at a time.
        ``Pipeline`` says what they promise. Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad
        argument.

        >>> import shoal, tempfile
        >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
        ...     with db.pipeline("run-1", depth=16) as pipe:
        ...         sums = [pipe.kv.increment("n") for _ in range(100)]
        ...     sums[-1].result()
        100
        """
        from shoal.primitives.facades.pipeline import Pipeline  # here: see shoal/__init__.py

        return Pipeline(self._store, namespace, run_id, check_count("depth", depth, 1))

    def snapshot(
        self,
        run_id: str,
        *,
        version: int | None = None,
        at: datetime | None = None,
        namespace: Namespace = DEFAULT_NAMESPACE,
    ) -> Transaction:
        """A transaction that only reads, at the version that is the newest now; end it with ``close`` or ``with``.

        With ``version`` (int) it reads at that commit version, and with ``at`` (an aware datetime) at the newest one
        committed at or before that moment. Past versions are kept if the store is opened with ``history``. One that is
        not kept any more is ``SnapshotExpiredError``, one of the future ``ValueError``. A key that has expired reads as
        absent in the past, too.

        A write through it, or any use after its end, is ``InvalidOperationError``. It is ``SnapshotExpiredError`` to
        read from it once it was revoked, because the history kept for it took too much room. Raises ``TypeError``,
        ``ValueError`` or ``LimitExceededError`` for a bad argument.
        """
        return Transaction(self._store, namespace, run_id, read_only=True, past=past_of(version, at))

    def lease(
        self,
        run_id: str,
        name: str,
        ttl: float = 30.0,
        wait: float | None = 0.0,
        *,
        slots: int = 1,
        namespace: Namespace = DEFAULT_NAMESPACE,
    ) -> Lease:
        """Take the lease ``name`` of a run: it is given while fewer than ``slots`` hold it. Use it in a ``with``.

        It is held, and renewed, until it is released, the database is closed or the process ends; all of that counts at
        once, and after the coordinator's death as well. If the process stops answering, it ends ``ttl`` seconds later.
        It is not reentrant. A forked child does not hold what its parent holds.

        While others hold it, this waits for ``wait`` seconds (None: for ever); those that wait are served in the order
        of arrival. Then it raises ``LeaseHeldError``. It raises ``StoreFullError`` if there is no room for the record,
        ``CorruptionError`` if that is damaged, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad
        argument.

        >>> import shoal, tempfile
        >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
        ...     with db.lease("run-1", "deploy") as lease:
        ...         db.transact("run-1", lambda txn: txn.kv.put("deployed", True), fence=lease)
        ...         lease.token, lease.slot, [held.name for held in db.leases("run-1")]
        ...     db.leases("run-1")
        (1, 0, ['deploy'])
        []
        """
        return take(self._store, namespace, run_id, name, ttl, wait, slots)

    def leases(self, run_id: str, *, namespace: Namespace = DEFAULT_NAMESPACE) -> list[LeaseInfo]:
        """Who holds which leases of a run, by name, then token.

        Raises ``CorruptionError`` for a damaged record, and ``TypeError``, ``ValueError`` or ``LimitExceededError`` for
        a bad run id.
        """
        return held(self._store, namespace, run_id)

    def info(self) -> StoreInfo:
        """What the store holds and which process serves it."""
        return info_of(self._store, is_compiled())

    def check(self) -> list[str]:
        """Walk the whole segment and return every problem found; empty means sound.

        Commits go on meanwhile, in every process. A check keeps memory from being used again, so it begins again when a
        commit needs that; after ten times it raises ``SnapshotExpiredError``.

        >>> import shoal, tempfile
        >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
        ...     db.check()
        []
        """
        return self._store.check()

    def backup(self, dest: str | os.PathLike[str]) -> int:
        """Write a consistent copy to the directory ``dest``, which ``open`` accepts; return how many keys it has.

        Writers go on meanwhile. Raises ``AlreadyExistsError`` if ``dest`` is not empty, ``ConfigurationError`` if no
        copy can be made there, ``StoreFullError`` if its disk is full, ``SnapshotExpiredError`` if the copy takes so
        long that its snapshot is revoked to make room, and ``TypeError`` or ``ValueError`` for what is no path.
        """
        return self._store.backup(dest)


def open(  # noqa: A001 (the contract's name; nothing here opens files)
    path: str | os.PathLike[str],
    *,
    durability: str | None = None,
    max_bytes: int | None = None,
    timeout: float = OPEN_TIMEOUT_S,
    linger: float = IDLE_TIMEOUT_S,
    read_only: bool = False,
    history: float | timedelta | None = None,
) -> Database:
    """Attach to the store at ``path``, a directory, starting a coordinator if none serves it.

    - ``path``: str, bytes or ``os.PathLike``. It is taken as it is: ``~`` is not expanded.
    - ``durability``: ``"memory"``, ``"buffered"`` or ``"strict"``. None takes the one being served, else the last.
    - ``max_bytes``: bound of the store's memory, int, 8 MiB at least. None takes the one being served, else the last,
      else half of what the machine, the container and the limits of the process leave.
    - ``timeout``: seconds to wait for a coordinator, now and after one has died; ``math.inf`` waits for ever.
    - ``linger``: seconds that a coordinator started here stays after its last client; ``math.inf`` is for ever.
    - ``history``: for how long past versions can be read (``Database.snapshot``), seconds or ``timedelta``; 0 keeps
      none. None takes the one being served, else the last, else 0. The store's memory bounds it: if that is short, the
      oldest goes first (``Database.info`` shows it). Except in ``memory`` durability, it outlives the coordinator.
    - ``read_only``: read a store that is there; start and make nothing. A store that is not served is read into memory
      of this process (``max_bytes`` bounds that), also on read-only media. Every write is ``InvalidOperationError``.

    Raises ``ConfigurationError`` for options the store cannot be opened with, ``CorruptionError`` for damage,
    ``CoordinatorLostError`` if no coordinator could be reached or started in time, ``StoreFullError`` if there is no
    room for its files or its memory, ``TypeError`` or ``ValueError`` for a bad argument, and with ``read_only``
    ``NotFoundError`` if there is no store; then nothing is changed. If the directory is moved, deleted or replaced
    later, commits raise ``StoreMovedError``.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     db.info().keys
    0
    """
    return Database(
        opened(
            path,
            durability=durability,
            max_bytes=max_bytes,
            timeout=timeout,
            linger=linger,
            read_only=read_only,
            history=history,
        )
    )


def _reopen(kind: type[Database], recipe: Recipe) -> Database:
    attach, arguments = recipe
    return kind(attach(*arguments))


__all__ = ["Database", "StoreInfo", "open"]
