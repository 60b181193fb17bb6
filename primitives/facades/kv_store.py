"""KVStore: keys and values of a run, with expiry and counters."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from shoal.primitives.facades.facade import Facade
from shoal.primitives.views.fleet.changes import Change, key_changes
from shoal.primitives.views.kv import KVView
from shoal.shm.codec import Value


class KVStore(Facade[KVView]):
    """Keys and values of a run, each call a transaction of its own.

    >>> import shoal, tempfile
    >>> with tempfile.TemporaryDirectory() as path, shoal.open(path, durability="memory") as db:
    ...     kv = shoal.KVStore(db)
    ...     kv.put("run-1", "task/status", {"state": "running"})
    ...     kv.get("run-1", "task/status")
    ...     kv.increment("run-1", "task/attempts")
    ...     kv.list("run-1", "task/")
    ...     kv.put("run-1", "lease", "mine", ttl=30)
    ...     kv.delete("run-1", "lease")
    {'state': 'running'}
    1
    ['task/attempts', 'task/status']
    True

    ``db``: what ``shoal.open`` returns. ``namespace``: whose runs these are.

    A key is a str of 1 to 1,024 bytes of UTF-8, any character. A value is None, bool, int (-2**63 to 2**64 - 1), float,
    str, bytes, list, tuple (read back as a list), dict with str keys, or a datetime with a time zone; 16 MiB at most.
    ``TypeError``, ``ValueError`` and ``LimitExceededError`` are raised before anything is sent.

    Any call may also raise ``InvalidOperationError`` (the database is closed, or a write to one that only reads),
    ``CoordinatorLostError``, ``StoreMovedError`` and ``CorruptionError`` (a record is none); a write
    ``StoreFullError``; a listing ``SnapshotExpiredError`` if it takes very long. No call ever conflicts.
    """

    __slots__ = ()
    _view = KVView

    def get(self, run_id: str, key: str, default: Any = None) -> Any:
        """The value of ``key``, or ``default`` if it is absent or has expired.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id or key.
        """
        return self._views[run_id].get(key, default)

    def put(self, run_id: str, key: str, value: Value, *, ttl: float | timedelta | None = None) -> None:
        """Store ``value``, whatever was there.

        ``ttl``: seconds, or a ``timedelta``, after which the key is gone; None or ``math.inf`` keeps it for good.
        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id, key, value or ttl.
        """
        self._views[run_id].put(key, value, ttl=ttl)

    def put_with_ttl(self, run_id: str, key: str, value: Value, ttl: float | timedelta) -> None:
        """``put`` with a ``ttl`` that must be given.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id, key, value or ttl.
        """
        self._views[run_id].put_with_ttl(key, value, ttl)

    def ttl(self, run_id: str, key: str) -> float | None:
        """Seconds until ``key`` expires; None if it never does, or is absent.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id or key.
        """
        return self._views[run_id].ttl(key)

    def delete(self, run_id: str, key: str) -> bool:
        """Delete ``key``; whether it was there.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id or key.
        """
        return self._views[run_id].delete(key)

    def exists(self, run_id: str, key: str) -> bool:
        """Whether ``key`` is there.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id or key.
        """
        return self._views[run_id].exists(key)

    def list(self, run_id: str, prefix: str = "") -> builtins.list[str]:
        """The keys that begin with ``prefix``, sorted.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id or prefix.
        """
        return self._views[run_id].list(prefix)

    def list_with_values(self, run_id: str, prefix: str = "") -> builtins.list[tuple[str, Any]]:
        """``(key, value)`` of the keys that begin with ``prefix``, sorted by key, of one snapshot.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id or prefix.
        """
        return self._views[run_id].list_with_values(prefix)

    def increment(self, run_id: str, key: str, by: int = 1) -> int:
        """Add ``by`` to an integer, 0 if the key is absent, and return the sum. A ttl stays as it is.

        Raises ``TypeError``, ``ValueError`` or ``LimitExceededError`` for a bad run id, key or ``by``; also
        ``TypeError`` if the value is no integer, ``LimitExceededError`` if the sum is not from -2**63 to 2**64 - 1.
        """
        return self._views[run_id].increment(key, by)

    def watch(
        self, run_id: str, prefix: str = "", since: int | None = None, timeout: float | None = None
    ) -> Iterator[Change]:
        """What commits change in keys that begin with ``prefix``: a ``Change`` for each key and commit, as it comes.

        They come in the order of commits, those of one commit sorted by key, none missing and none twice, also while
        coordinators die. ``since``: the version of a commit, of which and of those before nothing is told; None is from
        this call on. ``Change.version`` is such a version for a later call, also in another process. ``timeout``: the
        iterator ends when the next change has not come within so many seconds; None waits for ever, 0 takes what is
        there. A commit wakes it; nothing is polled for.

        A key that expired is told with the commit that removes it; so is each key of a run that is deleted.

        Raises ``TypeError``, ``ValueError`` (also for a ``since`` that is not committed) or ``LimitExceededError`` for
        a bad argument at the call, and ``SnapshotExpiredError`` when the next change is not kept any more: the log has
        it until the next checkpoint, memory as long as there is room. Read the keys then, and watch from that
        snapshot's version on.
        """
        return key_changes(self._views[run_id], self._db._store.auto_commit, prefix, since, timeout)
