"""Processes that append to one event log and increment a counter, and keep what they were told, by which commit."""

from __future__ import annotations

import multiprocessing
import pickle
import random
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import shoal
from shoal.coordinator.log import format as wal_format
from shoal.coordinator.log.format import LogRecord
from tests.support.histories.acknowledged import Told, ToldEvent, broken_chain, not_exactly_once
from tests.support.histories.history_workers import JOIN_S, TIMEOUT_S, WorkersFailedError, kill_coordinators
from tests.support.workers.crash_workers import wait_until_left

RUN = "acknowledged"


def _worker(path: Path, name: str, count: int, barrier: Barrier, out: Path, first: Callable[[], None] | None) -> None:
    if first is not None:
        first()
    told: list[Told] = []
    events: list[ToldEvent] = []
    with shoal.open(path, timeout=TIMEOUT_S) as db:
        store: Any = db._store
        connection = store.connection
        submit = connection.submit

        def note(*request: Any) -> Any:
            version, results = submit(*request)
            channel = connection._idle[-1]
            told.append(Told(channel.client_id, channel.commit_id, version))
            return version, results

        connection.submit = connection.submit_one = note
        log, kv = shoal.EventLog(db), shoal.KVStore(db)
        barrier.wait(TIMEOUT_S)
        for number in range(count):
            payload = f"{name}.{number}"
            appended = log.append(RUN, name, payload)
            events.append(ToldEvent(appended.sequence, appended.hash, name, payload))
            if number % 4 == 0:
                kv.increment(RUN, "sum")
    out.write_bytes(pickle.dumps((told, events)))


def _records(data: bytes) -> Iterator[LogRecord]:
    """The records of a log file, as they stand in it."""
    offset = wal_format.FILE_HEAD_BYTES
    while (found := wal_format.decode_record(data, offset)) is not None:
        record, offset = found
        yield record


def run_acknowledged(
    directory: Path,
    seed: int,
    count: int,
    *,
    durability: str = "buffered",
    processes: int = 4,
    kills: int = 0,
    first: Callable[[], None] | None = None,
) -> list[tuple[str, str]]:
    """Run ``count`` appends in all, kill -9 the coordinator meanwhile, and judge the log at rest: (oracle, problem)."""
    directory.mkdir(parents=True)
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(processes)
    path = directory / "db"
    outs = [directory / f"worker-{i}.pickle" for i in range(processes)]
    with shoal.open(path, durability=durability, timeout=TIMEOUT_S, linger=0.2) as db:
        workers = [
            fork.Process(target=_worker, args=(path, f"w{i}", count // processes, barrier, outs[i], first))
            for i in range(processes)
        ]
        try:
            for worker in workers:
                worker.start()
            kill_coordinators(db, workers, kills, random.Random(seed))
            for worker in workers:
                worker.join(JOIN_S)
            if any(worker.exitcode for worker in workers):
                raise WorkersFailedError([worker.exitcode for worker in workers])
        finally:
            for worker in workers:
                worker.kill()
                worker.join()
        found = list(shoal.EventLog(db).iter(RUN))
    del db
    wait_until_left(path)
    told: list[Told] = []
    events: list[ToldEvent] = []
    for out in outs:
        mine = pickle.loads(out.read_bytes())
        told += mine[0]
        events += mine[1]
    records = [record for file in sorted(path.glob("wal-*.log")) for record in _records(file.read_bytes())]
    problems = [("event chain", text) for text in broken_chain(events, found)]
    return problems + [("exactly once", text) for text in not_exactly_once(told, records)]
