"""Makes histories: processes that run random transactions on one store and write down what they saw.

What a process does follows from the seed alone: it is decided before, and whatever, the store answers.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple

import shoal
from tests.support.histories.history import Event, Step

RUN = "history"
TEXT_KEYS = [f"k{i:02}" for i in range(40)]
COUNTERS = [f"c{i:02}" for i in range(10)]
PREFIXES = ["k0", "k1", "k2", "k3", "c0", "k", "c"]
TIMEOUT_S = 60.0
JOIN_S = 240.0
_COMMITS_OF_EACH = 20  # by a coordinator before it is killed: with 4 processes, more than what was under way


class WorkersFailedError(Exception):
    """A process that made a history ended with an error, which it has printed, or not at all."""


class Plan(NamedTuple):
    """One transaction to come: ``pauses`` are seconds before each step, which let others overtake."""

    kind: str  # "single", "snapshot", "transaction"
    steps: list[Step]
    pauses: list[float]


def seed_from(default: int) -> int:
    """The seed of this run: SHOAL_SEED, or ``default``; printed, so that a failure can be repeated."""
    seed = int(os.environ.get("SHOAL_SEED", default))
    print(f"SHOAL_SEED={seed}")
    return seed


def plan_transaction(rng: random.Random, who: str) -> Plan:
    """Decide on one transaction."""
    kind = rng.choices(["single", "snapshot", "transaction", "blind"], [3, 2, 8, 1])[0]
    count = 1 if kind == "single" else rng.randint(1, 6)
    steps = [_plan_step(rng, kind, f"{who}.{i}") for i in range(count)]
    pauses = [rng.random() * 0.001 if rng.random() < 0.3 else 0.0 for _ in steps]
    return Plan("transaction" if kind == "blind" else kind, steps, pauses)


def _plan_step(rng: random.Random, kind: str, unique: str) -> Step:
    # Half of all steps go to a few keys, so that transactions meet.
    hot = rng.random() < 0.5
    text = rng.choice(TEXT_KEYS[:6] if hot else TEXT_KEYS)
    counter = rng.choice(COUNTERS[:2] if hot else COUNTERS)
    any_key = rng.choice([text, text, counter])
    names = {
        "single": (["get", "put", "delete", "increment"], [3, 3, 2, 4]),
        "snapshot": (["get", "scan"], [3, 2]),
        "transaction": (["get", "scan", "put", "delete", "increment"], [5, 2, 5, 2, 3]),
        "blind": (["put"], [1]),
    }[kind]
    name = rng.choices(*names)[0]
    if name == "scan":
        return name, rng.choice(PREFIXES), None, None
    if name == "put":
        return name, text, unique, None
    if name == "increment":
        return name, counter, rng.randint(1, 5), None
    return name, any_key, None, None


class Recorder:
    """Runs plans on one database and keeps the events."""

    def __init__(self, db: shoal.Database, name: str) -> None:
        self._db = db
        self._name = name
        self._kv = shoal.KVStore(db)
        self._committed = 0  # the version the coordinator gave last; facades do not tell
        self.events: list[Event] = []
        store: Any = db._store
        connection = store.connection
        submit = connection.submit

        def note(*request: Any) -> Any:
            self._committed = 0
            version, results = submit(*request)
            self._committed = version
            return version, results

        connection.submit = connection.submit_one = note

    def run(self, number: int, plan: Plan) -> None:
        """Run one plan; a refusal is an event, too."""
        run = {"single": self._single, "snapshot": self._snapshot, "transaction": self._transaction}[plan.kind]
        start = time.monotonic()
        try:
            kind, snapshot, version, steps = run(plan)
        except shoal.SnapshotExpiredError:  # it read nothing wrong and wrote nothing: as if it had never been
            return
        event = Event(f"{self._name}/{number}", kind, snapshot, version, start, time.monotonic(), steps)
        self.events.append(event)

    def _single(self, plan: Plan) -> tuple[str, int, int, list[Step]]:
        name, key, argument, _ = plan.steps[0]
        (given,) = [argument] if argument is not None else [()]
        call: Callable[..., Any] = getattr(self._kv, name)
        result = call(RUN, key) if given == () else call(RUN, key, given)
        steps = [(name, key, argument, result)]
        if name == "get":
            return "latest", -1, 0, steps
        if name == "delete" and not result:  # it wrote nothing: a read at the version it was decided at
            return "read", self._committed, 0, steps
        return "update", -1, self._committed, steps

    def _snapshot(self, plan: Plan) -> tuple[str, int, int, list[Step]]:
        with self._db.snapshot(RUN) as view:
            return "read", view.version, 0, _perform(view, plan, [])

    def _transaction(self, plan: Plan) -> tuple[str, int, int, list[Step]]:
        steps: list[Step] = []
        self._committed = 0
        snapshot = -1
        try:
            with self._db.transaction(RUN) as txn:
                engine: Any = txn._engine
                snapshot = engine.snapshot
                _perform(txn, plan, steps)
        except shoal.ConflictError:
            return "aborted", snapshot, 0, steps
        return ("update" if self._committed else "read"), snapshot, txn.version, steps


def _perform(txn: shoal.Transaction, plan: Plan, steps: list[Step]) -> list[Step]:
    kv = txn.kv
    for (name, key, argument, _), pause in zip(plan.steps, plan.pauses, strict=True):
        if pause:
            time.sleep(pause)
        result: Any = None
        if name == "scan":
            result = kv.list_with_values(key)
        elif name == "put":
            kv.put(key, argument)
        elif name == "increment":
            result = kv.increment(key, argument)
        else:
            result = kv.get(key) if name == "get" else kv.delete(key)
        steps.append((name, key, argument, result))
    return steps


def _worker(
    path: Path, name: str, seed: int, count: int, barrier: Barrier, out: Path, first: Callable[[], None] | None
) -> None:
    if first is not None:
        first()
    rng = random.Random(f"{seed}/{name}")
    with shoal.open(path, timeout=TIMEOUT_S) as db:
        recorder = Recorder(db, name)
        barrier.wait(TIMEOUT_S)
        for number in range(count):
            recorder.run(number, plan_transaction(rng, f"{name}.{number}"))
    out.write_bytes(pickle.dumps([tuple(event) for event in recorder.events]))


def run_history(
    directory: Path,
    seed: int,
    transactions: int,
    *,
    durability: str = "buffered",
    processes: int = 4,
    kills: int = 0,
    first: Callable[[], None] | None = None,
    checked: list[str] | None = None,
) -> list[Event]:
    """Run ``transactions`` in all, kill -9 the coordinator ``kills`` times meanwhile, and return every event.

    The last event is a read of everything, after all of it. ``first`` is called by every process before it opens.
    What ``check()`` says at the end is added to ``checked``.
    """
    directory.mkdir(parents=True)
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(processes)
    path = directory / "db"
    outs = [directory / f"worker-{i}.pickle" for i in range(processes)]
    with shoal.open(path, durability=durability, timeout=TIMEOUT_S, linger=0.2) as db:
        workers = [
            fork.Process(target=_worker, args=(path, f"w{i}", seed, transactions // processes, barrier, outs[i], first))
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
        if checked is not None:
            checked += db.check()
        events = [Event(*event) for out in outs for event in pickle.loads(out.read_bytes())]
        recorder = Recorder(db, "end")
        recorder.run(0, Plan("snapshot", [("scan", "", None, None)], [0.0]))
        return events + recorder.events


def kill_coordinators(db: shoal.Database, workers: list[Any], kills: int, rng: random.Random) -> int:
    """Kill -9 the coordinator up to ``kills`` times while workers live, each time a new one; how often it was done.

    Each has done some commits. So what was under way at the death before has been answered: a commit at which two
    coordinators died is not sent again, and its client would end.
    """
    killed = 0
    for done in range(kills):
        due = time.monotonic() + 0.02 + rng.random() * 0.03
        first: int | None = None  # commit version of the new coordinator when it was seen first
        while any(worker.is_alive() for worker in workers):
            info = db.info()
            if info.coordinator_pid != killed:
                first = info.commit_version if first is None else first
                if time.monotonic() > due and info.commit_version >= first + _COMMITS_OF_EACH:
                    break
            time.sleep(0.001)
        else:
            return done
        killed = info.coordinator_pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(killed, signal.SIGKILL)
    return kills
