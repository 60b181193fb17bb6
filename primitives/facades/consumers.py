"""Consumers: processes that work through an event log one after the other, each from where the last one was done.

``views.positions`` has the keys. Who holds a name is a lease (``leases``), so a process that died is followed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NoReturn

from shoal.primitives.engine import EngineTransaction, Transactions
from shoal.primitives.event_types import Event
from shoal.primitives.facades.leases import Lease, take_at
from shoal.primitives.views.positions import read_position, write_position

_TTL_S = 30.0

Follow = Callable[[int], Iterator[Event]]  # the events from a sequence on, as they come
Commit = Callable[["Consumer", int], None]  # ``txn.events.commit`` in a transaction of its own


class Consumer:
    """A named reader of a run's event log whose position is kept: what ``EventLog.consumer`` returns.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     log = shoal.EventLog(db)
    ...     appended = log.append_many("run-1", [("step", 1), ("step", 2)])
    ...     with log.consumer("run-1", "indexer") as consumer:
    ...         for event in consumer:
    ...             with db.transaction("run-1") as txn:
    ...                 txn.kv.put("last", event.payload)
    ...                 txn.events.commit(consumer, event.sequence)
    ...             break
    ...     log.consumer("run-1", "indexer").position
    1

    - ``name`` (str): its name. One process at a time holds it.
    - ``position`` (int): the sequence of the first event that is not done.

    A context manager, which closes it. To iterate over it gives the events from ``position`` on, as they come, and
    waits for more as ``EventLog.follow`` does; it raises what that raises. An event that was given and not committed
    is given again to the next iteration, in this process or another.

    Any call may also raise ``InvalidOperationError`` (the database is closed), ``CoordinatorLostError``,
    ``StoreMovedError`` and ``CorruptionError`` (a record is none); ``commit`` ``StoreFullError``.
    """

    __slots__ = ("_commit", "_engine", "_follow", "_lease", "_log_prefix", "_position_key", "name")

    def __init__(
        self, store: Transactions, name: str, lease: Lease, keys: tuple[bytes, bytes], follow: Follow, commit: Commit
    ) -> None:
        self._engine = store.auto_commit
        self._lease = lease
        self._log_prefix, self._position_key = keys
        self._follow = follow
        self._commit = commit
        self.name = name

    def __enter__(self) -> Consumer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<shoal.Consumer {self.name!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a consumer belongs to the process that holds its name and cannot be copied or pickled")

    def __iter__(self) -> Iterator[Event]:
        return self._follow(self.position)

    @property
    def position(self) -> int:
        """The sequence of the first event that is not done, as the store has it."""
        return read_position(self._engine, self._position_key)

    def commit(self, sequence: int) -> None:
        """The event ``sequence`` is done, and with it those before: the position is the next one.

        ``txn.events.commit(consumer, sequence)`` does it together with the effects of a transaction. Raises
        ``NotFoundError`` if there is no such event, ``TypeError`` for a sequence that is not an int, and
        ``FencedError`` if another process may hold the name by now; nothing is written then.
        """
        self._commit(self, sequence)

    def close(self) -> None:
        """Let go of the name; the position stays. A second time does nothing."""
        self._lease.release()

    def _commit_in(self, transaction: EngineTransaction, position: int) -> None:
        """Write its position with ``transaction``, which is fenced with its name."""
        self._lease._require(transaction)
        write_position(transaction, self._position_key, position)


def take(
    store: Transactions,
    name: str,
    holder_key: bytes,
    keys: tuple[bytes, bytes],
    wait: float | None,
    follow: Follow,
    commit: Commit,
) -> Consumer:
    """``EventLog.consumer``. ``keys``: the prefix of the log's keys, and where the position is."""
    return Consumer(store, name, take_at(store, holder_key, name, _TTL_S, wait, 1), keys, follow, commit)
