"""Makes list-append histories: processes that read and append to lists in one store while its coordinator is killed.

What a process asks for follows from the seed alone. An append reads a list and puts it longer.
"""

from __future__ import annotations

import multiprocessing
import pickle
import random
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import shoal
from tests.support.histories.history_workers import JOIN_S, TIMEOUT_S, WorkersFailedError, kill_coordinators
from tests.support.histories.list_append import ListTransaction, Operation, Status

RUN = "lists"
_KEYS_AT_ONCE = 5
# Lists do not grow for ever: after so many transactions of a process the next keys' turn comes.
_TRANSACTIONS_PER_KEYS = 60


def plan(rng: random.Random, number: int, unique: str) -> tuple[str, list[Operation]]:
    """What the transaction ``number`` of a process does, in a "transaction", a "snapshot" or "single"."""
    how = rng.choices(["transaction", "snapshot", "single"], [8, 2, 1])[0]
    first = number // _TRANSACTIONS_PER_KEYS * _KEYS_AT_ONCE
    operations = []
    for i in range(1 if how == "single" else rng.randint(1, 4)):
        key = f"list{first + min(rng.randrange(_KEYS_AT_ONCE), rng.randrange(_KEYS_AT_ONCE))}"
        if how == "transaction" and rng.random() < 0.5:
            operations.append(Operation("append", key, f"{unique}.{i}"))
        else:
            operations.append(Operation("read", key, []))
    return how, operations


class ListRecorder:
    """Runs plans on one database; ``transactions`` is what its client saw."""

    def __init__(self, db: shoal.Database, process: str, rng: random.Random) -> None:
        self._db = db
        self._process = process
        self._rng = rng
        self.transactions: list[ListTransaction] = []

    def run(self, how: str, planned: list[Operation]) -> None:
        """Run one; a refused transaction's reads are kept as those of one that only read: it saw a snapshot, too."""
        done: list[Operation] = []
        start = time.monotonic()
        status: Status = "committed"
        try:
            if how == "single":
                value = shoal.KVStore(self._db).get(RUN, planned[0].key, [])
                done.append(planned[0]._replace(value=value))
            elif how == "snapshot":
                with self._db.snapshot(RUN) as view:
                    self._perform(view, planned, done)
            else:
                with self._db.transaction(RUN) as txn:
                    self._perform(txn, planned, done)
        except shoal.ConflictError:
            status = "aborted"
        except shoal.SnapshotExpiredError:  # it read nothing wrong and wrote nothing
            return
        end = time.monotonic()
        self.transactions.append(ListTransaction(self._process, status, start, end, done))
        if status == "aborted":
            appended: set[str] = set()
            reads = []
            for operation in done:
                if operation.name == "append":
                    appended.add(operation.key)
                elif operation.key not in appended:
                    reads.append(operation)
            self.transactions.append(ListTransaction(self._process + "'", "committed", start, end, reads))

    def _perform(self, txn: shoal.Transaction, planned: list[Operation], done: list[Operation]) -> None:
        for operation in planned:
            if self._rng.random() < 0.2:
                time.sleep(self._rng.random() * 0.001)  # let others overtake
            seen = txn.kv.get(operation.key, [])
            if operation.name == "append":
                txn.kv.put(operation.key, [*seen, operation.value])
                done.append(operation)
            else:
                done.append(operation._replace(value=seen))


def _worker(
    path: Path, name: str, seed: int, count: int, barrier: Barrier, out: Path, first: Callable[[], None] | None
) -> None:
    if first is not None:
        first()
    rng = random.Random(f"{seed}/{name}")
    with shoal.open(path, timeout=TIMEOUT_S) as db:
        recorder = ListRecorder(db, name, rng)
        barrier.wait(TIMEOUT_S)
        for number in range(count):
            recorder.run(*plan(rng, number, f"{name}.{number}"))
    out.write_bytes(pickle.dumps(recorder.transactions))


def run_lists(
    directory: Path,
    seed: int,
    count: int,
    *,
    durability: str = "buffered",
    processes: int = 4,
    kills: int = 0,
    first: Callable[[], None] | None = None,
) -> list[ListTransaction]:
    """Run ``count`` transactions in all, kill -9 the coordinator ``kills`` times meanwhile, return what was seen.

    The last is a read of every list, after all of it. ``first`` is called by every process before it opens.
    """
    directory.mkdir(parents=True)
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(processes)
    path = directory / "db"
    each = count // processes
    outs = [directory / f"worker-{i}.pickle" for i in range(processes)]
    with shoal.open(path, durability=durability, timeout=TIMEOUT_S, linger=0.2) as db:
        workers = [
            fork.Process(target=_worker, args=(path, f"w{i}", seed, each, barrier, outs[i], first))
            for i in range(processes)
        ]
        try:
            for worker in workers:
                worker.start()
            killed = kill_coordinators(db, workers, kills, random.Random(seed))
            assert killed >= min(kills, 1), "the workers had ended before the coordinator could be killed"
            for worker in workers:
                worker.join(JOIN_S)
            if any(worker.exitcode for worker in workers):
                raise WorkersFailedError([worker.exitcode for worker in workers])
        finally:
            for worker in workers:
                worker.kill()
                worker.join()
        recorder = ListRecorder(db, "end", random.Random(seed))
        keys = range((each // _TRANSACTIONS_PER_KEYS + 1) * _KEYS_AT_ONCE)
        recorder.run("snapshot", [Operation("read", f"list{key}", []) for key in keys])
    seen: list[ListTransaction] = [transaction for out in outs for transaction in pickle.loads(out.read_bytes())]
    return seen + recorder.transactions
