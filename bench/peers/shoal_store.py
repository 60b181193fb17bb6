"""shoal, through its public interface."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import shoal

from .base import PIPELINE_DEPTH, BenchError, Peer, Session

_RUN = "bench"
_LOAD_KEYS_PER_COMMIT = 2_000
_COORDINATOR_END_S = 20.0
# Long enough for the process that starts a coordinator to attach to it, short enough to wait for its end.
LINGER_S = 0.3


class ShoalSession(Session):
    """A database attached in the worker."""

    pipelines = True

    def __init__(self, database: shoal.Database) -> None:
        self._database = database
        self._kv = shoal.KVStore(database)
        self._events = shoal.EventLog(database)
        self._cells = shoal.StateCell(database)
        self._traces = shoal.TraceStore(database)
        self._queue = shoal.TaskQueue(database)
        self._pipeline: shoal.Pipeline | None = None

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
        """``Session.rmw``: optimistic, repeated after each conflict."""

        def add(txn: shoal.Transaction) -> None:
            txn.kv.put(key, txn.kv.get(key) + 1)

        self._database.transact(_RUN, add)

    def think(self, key: str, seconds: float) -> None:
        """``Session.think``: optimistic, so workers think at the same time; repeated after each conflict."""

        def think(txn: shoal.Transaction) -> None:
            value = txn.kv.get(key)
            time.sleep(seconds)
            txn.kv.put(key, value + 1)

        self._database.transact(_RUN, think)

    def pipelined(self, pairs: Sequence[tuple[str, Any]]) -> None:
        """``Session.pipelined``: in one pipeline, which stays open: the next call does not wait for this one's last."""
        if self._pipeline is None:
            self._pipeline = self._database.pipeline(_RUN, depth=PIPELINE_DEPTH).__enter__()
        put = self._pipeline.kv.put
        for key, value in pairs:
            put(key, value)

    def hot(self, key: str, function: Callable[[int], int]) -> None:
        """``Session.hot``: a cell's transition."""
        self._cells.transition(_RUN, key, lambda state: (function(state.value), None))

    def make_hot(self, key: str) -> None:
        """``Session.make_hot``: it is a cell."""
        self._cells.init(_RUN, key, 0)

    def hot_value(self, key: str) -> int:
        """``Session.hot_value``."""
        state = self._cells.read(_RUN, key)
        if state is None:
            raise BenchError(f"the cell {key} is gone")
        value: int = state.value
        return value

    def append(self, run: str, event_type: str, payload: Any) -> None:
        """``Session.append``."""
        self._events.append(run, event_type, payload)

    def log_length(self, run: str) -> int:
        """``Session.log_length``."""
        verification = self._events.verify_chain(run)
        if not verification:
            raise BenchError(f"the log of {run} is broken: {verification.error}")
        return verification.length

    def cas(self, run: str, name: str, version: int, value: Any) -> int:
        """``Session.cas``."""
        return self._cells.cas(run, name, version, value)

    def create_cell(self, run: str, name: str) -> int:
        """``Session.create_cell``."""
        return self._cells.init(run, name, None)

    def version(self, run: str, name: str) -> int:
        """``Session.version``."""
        state = self._cells.read(run, name)
        return state.version if state else 0

    def trace(self, run: str, content: str, tag: str) -> None:
        """``Session.trace``."""
        self._traces.record(run, shoal.TraceType.Thought(content), tags=(tag,))

    def trace_count(self, run: str, tag: str) -> int:
        """``Session.trace_count``."""
        return len(self._traces.query_by_tag(run, tag))

    def cross(self, run: str, name: str, event_type: str, payload: Any, content: str, tag: str) -> None:
        """``Session.cross``."""

        def write(txn: shoal.Transaction) -> None:
            txn.kv.put(name, payload)
            txn.events.append(event_type, payload)
            txn.state.set(name, payload)
            txn.traces.record(shoal.TraceType.Thought(content), tags=(tag,))

        self._database.transact(run, write)

    def queue(self, queue: str, payload: Any) -> None:
        """``Session.queue``."""
        self._queue.put(_RUN, queue, payload)
        task = self._queue.claim(_RUN, queue)
        if task is None:
            raise BenchError(f"no task of {queue} was ready")
        task.complete(True)

    def tasks(self, queue: str) -> tuple[int, int]:
        """``Session.tasks``."""
        stats = self._queue.stats(_RUN, queue)
        return stats.done, stats.ready + stats.delayed + stats.claimed + stats.dead

    def close(self) -> None:
        """``Session.close``: a pipeline waits for all answers and raises the first error."""
        if self._pipeline is not None:
            self._pipeline.__exit__(None, None, None)
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
        """Attach anew, as each process of a fleet does."""
        return ShoalSession(shoal.open(self.directory, linger=LINGER_S))

    def stop(self) -> None:
        """Detach and wait until the coordinator, now without clients, has ended."""
        if self._database is None:
            return
        pid = self._database.info().coordinator_pid
        self._database.close()
        await_end(pid)


def await_end(pid: int) -> None:
    """Wait until a coordinator, which has no client any more, has ended."""
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
    return state != "Z"  # a process that has ended may stay in the table if its parent does not reap it
