"""Consumers: processes that work through an event log one after the other, each from where the last one was done.

``views.positions`` has the keys. Who holds a name is a lease (``leases``), so a process that died is followed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NoReturn, Protocol

from shoal.primitives.engine import AutoCommit, EngineTransaction
from shoal.primitives.event_types import Event
from shoal.primitives.facades.leases import Lease
from shoal.primitives.transaction import Transaction
from shoal.primitives.views.fleet.positions import read_position, write_position
from shoal.shm.arguments import FOREVER_S, text_of

TTL_S = 30.0


class Log(Protocol):
    """What a consumer needs of an ``EventLog``."""

    def _follow(self, run_id: str, sequence: int, wait_s: float, lease: Lease) -> Iterator[Event]:
        """The events from ``sequence`` on, as they come, while ``lease`` is held."""
        ...

    def _transact(self, run_id: str, call: Callable[[Transaction], None]) -> None:
        """Run a call in a transaction of its own."""
        ...


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
    waits for more as ``EventLog.follow`` does; it raises what that raises, and ``FencedError`` when the name is not
    held any more: the consumer was closed, or another process may have it. An event that was given and not committed is
    given again to the next iteration, in this process or another.

    Any call may also raise ``InvalidOperationError`` (the database is closed), ``CoordinatorLostError``,
    ``StoreMovedError`` and ``CorruptionError`` (a record is none); ``commit`` ``StoreFullError``.
    """

    __slots__ = ("_engine", "_lease", "_log", "_log_prefix", "_position_key", "_run_id", "name")

    def __init__(
        self, log: Log, run_id: str, name: str, lease: Lease, engine: AutoCommit, keys: tuple[bytes, bytes]
    ) -> None:
        self._log = log
        self._run_id = run_id
        self._lease = lease
        self._engine = engine
        self._log_prefix, self._position_key = keys  # of every key of the log; where the position is
        self.name = text_of(name)

    def __enter__(self) -> Consumer:
        self._lease.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lease.__exit__(kind, error, traceback)

    def __repr__(self) -> str:
        return f"<shoal.Consumer {self.name!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a consumer belongs to the process that holds its name and cannot be copied or pickled")

    def __iter__(self) -> Iterator[Event]:
        return self._log._follow(self._run_id, self.position, FOREVER_S, self._lease)

    @property
    def position(self) -> int:
        """The sequence of the first event that is not done, as the store has it."""
        return read_position(self._engine, self._position_key)

    def commit(self, sequence: int) -> None:
        """The event ``sequence`` is done, and with it those before: the position is the next one.

        ``txn.events.commit(consumer, sequence)`` does it together with the effects of a transaction. The event may have
        been trimmed meanwhile. Raises ``NotFoundError`` if there never was such an event, ``TypeError`` for a sequence
        that is not an int, and ``FencedError`` if another process may hold the name by now; nothing is written then.
        """
        self._log._transact(self._run_id, lambda txn: txn.events.commit(self, sequence))

    def close(self) -> None:
        """Let go of the name; the position stays. A second time does nothing."""
        self._lease.release()

    def _commit_in(self, transaction: EngineTransaction, position: int) -> None:
        """Write its position with ``transaction``, which is fenced with its name."""
        self._lease._require(transaction)
        write_position(transaction, self._position_key, position)
