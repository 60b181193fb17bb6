"""Workers that claim the tasks of one queue while they are killed and stopped, and coordinators are killed.

Each worker notes in a file of its own what it claims and what comes of it. Afterwards files and store are compared.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import shoal
from tests.support.workers.crash_workers import DEADLINE_S, kill, wait_for

RUN, Q = "run", "q"
_MOST_ATTEMPTS = 1_000_000
# Takes each task through effect and completion in one commit. Notes: claimed, done, fenced, with task and token.
_WORKER = """
import os, random, sys, time, shoal
path, file, ttl_s, seed = sys.argv[1:]
rng = random.Random(int(seed))
out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
db = shoal.open(path, timeout=60.0)
queue = shoal.TaskQueue(db)
print("ready", flush=True)
while True:
    task = queue.claim("run", "q", ttl=float(ttl_s), wait=None)
    def note(what):
        os.write(out, f"{what} {task.payload} {task.token}\\n".encode())
    note("claimed")
    time.sleep(rng.random() * 0.03)
    def work(txn):
        txn.kv.increment(f"done/{task.payload}")
        txn.queue.complete(task, [task.payload, task.token])
    try:
        db.transact("run", work, fence=task)
    except shoal.FencedError:
        note("fenced")
    else:
        note("done")
"""
_HOLDER = """
import sys, shoal
task = shoal.TaskQueue(shoal.open(sys.argv[1])).claim("run", "taken over", ttl=1000.0)
print("claimed", flush=True)
sys.stdin.read()
"""
Start = Callable[..., "subprocess.Popen[str]"]


class Plan(NamedTuple):
    """How many tasks there are, and what is done to those that work on them meanwhile."""

    tasks: int
    workers: int
    worker_kills: int
    stops: int
    coordinator_kills: int
    ttl_s: float


class Worker:
    """One place for a worker: the process that has it now, and the file that those before it wrote, too."""

    def __init__(self, start: Start, file: Path, ttl_s: float, seed: int) -> None:
        self.file = file
        self._start, self._ttl_s, self._seed = start, ttl_s, seed
        self.process = self._begin()

    def notes(self) -> list[tuple[str, int, int]]:
        """What was noted: what, task, token."""
        found = self.file.read_text().splitlines() if self.file.exists() else []
        return [(what, int(task), int(token)) for what, task, token in map(str.split, found)]

    def kill(self) -> None:
        """SIGKILL, and another process in its place."""
        self.process.kill()
        self.process.wait()
        with self.file.open("a") as out:
            out.write("killed 0 0\n")
        self._seed += 1
        self.process = self._begin()

    def has_ended_all(self) -> bool:
        """Whether it has noted what came of its last claim."""
        notes = self.notes()
        return not notes or notes[-1][0] != "claimed"

    def _begin(self) -> subprocess.Popen[str]:
        return self._start(_WORKER, self.file, self._ttl_s, self._seed, says="ready")


def work_and_kill(db: shoal.Database, start: Start, directory: Path, plan: Plan, seed: int) -> None:
    """All tasks of ``plan`` are done once each, whoever is killed or stopped on the way."""
    rng = random.Random(seed)
    queue = shoal.TaskQueue(db)
    ids: list[str] = []
    workers = [
        Worker(start, directory / f"worker-{number}", plan.ttl_s, seed + 1000 * number)
        for number in range(plan.workers)
    ]
    faults = ["kill"] * plan.worker_kills + ["stop"] * plan.stops + ["coordinator"] * plan.coordinator_kills
    rng.shuffle(faults)
    late: list[tuple[int, int]] = []
    taken_s: list[float] = []
    for number, fault in enumerate(faults):
        _wait_until_done(queue, len(ids) - plan.workers)
        _put(queue, ids, plan.tasks * (number + 1) // len(faults) - len(ids))
        if fault == "kill":
            chosen = rng.choice(workers) if rng.random() < 0.3 else _holding(queue, ids, workers, rng)
            chosen.kill()
        elif fault == "coordinator":
            kill(db.info().coordinator_pid)
        else:
            _stop(queue, ids, _holding(queue, ids, workers, rng), late, taken_s)
    _wait_until_done(queue, len(ids))
    for worker in workers:
        wait_for(worker.has_ended_all, "the last note")
        worker.process.kill()
        worker.process.wait()
    if taken_s:
        print(f"ttl {plan.ttl_s} s: stopped ones were taken over after {min(taken_s):.2f} to {max(taken_s):.2f} s")
    _compare(db, queue, ids, workers, late)


def _wait_until_done(queue: shoal.TaskQueue, count: int) -> None:
    wait_for(lambda: queue.stats(RUN, Q).done >= count, f"{count} tasks to be done", 4 * DEADLINE_S)


def _put(queue: shoal.TaskQueue, ids: list[str], count: int) -> None:
    """Put more tasks; their payloads are their places in ``ids``."""
    ids += queue.put_many(RUN, Q, range(len(ids), len(ids) + max(0, count)), max_attempts=_MOST_ATTEMPTS)


def _holding(queue: shoal.TaskQueue, ids: list[str], workers: list[Worker], rng: random.Random) -> Worker:
    """A worker that has a task, which is stopped."""
    for attempt in range(2000):
        worker = rng.choice(workers)
        os.kill(worker.process.pid, signal.SIGSTOP)
        what, task, _ = (worker.notes() or [("", 0, 0)])[-1]
        if what == "claimed":
            info = queue.get(RUN, ids[task])
            if info is not None and info.status == shoal.TaskStatus.Claimed:
                return worker
        os.kill(worker.process.pid, signal.SIGCONT)
        time.sleep(0.001)
        if attempt % 20 == 19:
            _put(queue, ids, 2)
    raise AssertionError("no worker ever had a task")


def _stop(
    queue: shoal.TaskQueue, ids: list[str], worker: Worker, late: list[tuple[int, int]], taken_s: list[float]
) -> None:
    """Wait until a stopped worker has lost its task, then let it go on: its commit comes too late."""
    begin_s, pid = time.monotonic(), worker.process.pid
    _, task, token = worker.notes()[-1]
    info = queue.get(RUN, ids[task])
    assert info is not None

    def is_lost() -> bool:
        now = queue.get(RUN, ids[task])
        return now is not None and (now.status != shoal.TaskStatus.Claimed or now.attempt != info.attempt)

    try:
        wait_for(is_lost, "the claim to end", 4 * DEADLINE_S)
        took_s = time.monotonic() - begin_s
        now = queue.get(RUN, ids[task])
    finally:
        os.kill(pid, signal.SIGCONT)
    if now is not None and now.result == [task, token]:
        return  # its commit was under way when it was stopped
    taken_s.append(took_s)
    late.append((task, token))
    wait_for(
        lambda: any(each[1:] == (task, token) and each[0] != "claimed" for each in worker.notes()),
        "what comes of the late commit",
    )


def _compare(
    db: shoal.Database, queue: shoal.TaskQueue, ids: list[str], workers: list[Worker], late: list[tuple[int, int]]
) -> None:
    """Every effect is there once, by the claim whose token the result has; all other claims were fenced or killed."""
    winners = {}
    for task, task_id in enumerate(ids):
        payload, winners[task] = queue.result(RUN, task_id, timeout=0)
        assert payload == task
    effects = shoal.KVStore(db).list_with_values(RUN, "done/")
    assert effects == sorted((f"done/{task}", 1) for task in range(len(ids)))
    notes = [note for worker in workers for note in worker.notes()]
    tokens = [token for what, _, token in notes if what == "claimed"]
    assert len(tokens) == len(set(tokens))
    for what, task, token in notes:
        if what == "done":
            assert winners[task] == token, f"task {task} was done by {winners[task]}, and {token} was told so, too"
        elif what == "fenced":
            assert winners[task] != token, f"task {task} was done by {token}, which was told that it is fenced"
    fenced = {(task, token) for what, task, token in notes if what == "fenced"}
    assert fenced >= set(late), f"late commits {set(late) - fenced} were not fenced"
    assert queue.stats(RUN, Q) == shoal.QueueStats(0, 0, 0, len(ids), 0)
    # A claim's entry stays until its process claims again or ends; the coordinator learns of an end a moment later.
    wait_for(lambda: not list(db._store.auto_commit.scan(b"\0\1", b"\0\2")), "the index of holders to be empty")
    assert db.check() == []
    print(f"{len(ids)} tasks, {len(tokens)} claims noted, {len(fenced)} late commits, all fenced")


def take_over_ms(db: shoal.Database, start: Start, deaths: int) -> list[float]:
    """How long one that waits takes to get the task of a process that is killed; nothing else happens meanwhile."""
    queue = shoal.TaskQueue(db)
    took_ms = []
    for _ in range(deaths):
        queue.put(RUN, "taken over", 0, max_attempts=2)
        holder = start(_HOLDER, says="claimed")
        killed_s: list[float] = []

        def end(holder: subprocess.Popen[str] = holder, killed_s: list[float] = killed_s) -> None:
            time.sleep(0.03)  # until the other waits
            killed_s.append(time.monotonic())
            holder.kill()

        thread = threading.Thread(target=end)
        thread.start()
        task = queue.claim(RUN, "taken over", wait=DEADLINE_S)
        took_s = time.monotonic()
        thread.join()
        took_ms.append((took_s - killed_s[0]) * 1000)
        assert task is not None
        assert task.attempt == 2
        task.complete()
    return took_ms


def shown(took_ms: list[float]) -> str:
    """Median and 99th percentile."""
    return f"median {median(took_ms):.2f} ms, p99 {sorted(took_ms)[int(len(took_ms) * 0.99)]:.2f} ms"
