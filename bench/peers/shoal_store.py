"""shoal itself, through what its users call."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import shoal

from .base import BenchError, Peer, Session

_RUN = "bench"
_LOAD_KEYS_PER_COMMIT = 2_000
_COORDINATOR_END_S = 20.0
# Long enough for whoever started a coordinator to attach to it, short enough to wait for its end.
LINGER_S = 0.3


class ShoalSession(Session):
    """A database attached in the worker."""

    def __init__(self, database: shoal.Database) -> None:
        self._database = database
        self._kv = shoal.KVStore(database)

    def get(self, key: str) -> Any:
        """``Session.get``."""
        return self._kv.get(_RUN, key)

    def scan(self, prefix: str) -> list[tuple[str, Any]]:
        """``Session.scan``."""
        return self._kv.list_with_values(_RUN, prefix)

    def put(self, key: str, value: Any) -> None:
        """``Session.put``."""
        self._kv.put(_RUN, key, value)

    def rmw(self, key: str) -> None:
        """``Session.rmw``: optimistic, run again after each conflict."""

        def add(txn: shoal.Transaction) -> None:
            txn.kv.put(key, txn.kv.get(key) + 1)

        self._database.transact(_RUN, add)

    def close(self) -> None:
        """``Session.close``."""
        self._database.close()


class ShoalStore(Peer):
    """The parent stays attached from start to stop, so that the coordinator stays between rounds."""

    name = "shoal"
    session_type = ShoalSession
    settings: ClassVar[Mapping[str, str]] = {"buffered": "durability=buffered", "strict": "durability=strict"}

    _database: shoal.Database | None = None

    def start(self, items: Mapping[str, Any]) -> None:
        """Start the coordinator and load in commits of a few thousand keys."""
        self._database = database = shoal.open(self.directory, durability=self.durability, linger=LINGER_S)
        remaining = iter(items.items())
        while group := list(islice(remaining, _LOAD_KEYS_PER_COMMIT)):
            with database.transaction(_RUN) as txn:
                for key, value in group:
                    txn.kv.put(key, value)

    def connect(self) -> Session:
        """Attach anew, as a process of a fleet does."""
        return ShoalSession(shoal.open(self.directory, linger=LINGER_S))

    def stop(self) -> None:
        """Detach and wait until the coordinator, now without clients, has ended."""
        if self._database is None:
            return
        pid = self._database.info().coordinator_pid
        self._database.close()
        give_up_s = time.monotonic() + _COORDINATOR_END_S
        while _is_running(pid):
            if time.monotonic() > give_up_s:
                os.kill(pid, signal.SIGKILL)
                raise BenchError(f"shoal's coordinator had not ended {_COORDINATOR_END_S:.0f} s after its last client")
            time.sleep(0.01)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # ended, though where nobody reaps orphans it stays in the table
