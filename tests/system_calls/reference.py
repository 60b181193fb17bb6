"""The reference workload: what a client asks of a store, and what the store owes it afterwards.

Every step leaves something that can be counted: a step acknowledged is there once, one that failed once or not at all.
"""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shoal

RUNS = ("first", "second")
OPEN_TIMEOUT_S = 6.0
NOT_BEGUN, BEGUN, ACKNOWLEDGED, REFUSED = range(4)
_ERROR_BYTES = 200
LARGE_BYTES = 150_000
CHECKPOINT_WAIT_S = 0.6
KEPT = 20


class Ledger:
    """What became of every step, in memory the driver shares with the client: noting it takes no system call."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16384)

    def note(self, step: int, state: int, error: BaseException | None = None) -> None:
        """Step number ``step`` is in ``state`` now."""
        if error is not None:
            text = f"{type(error).__name__}: {error}".encode()[: _ERROR_BYTES - 2]
            start = step * _ERROR_BYTES + 1
            self._memory[start : start + len(text) + 1] = text + b"\0"
        self._memory[step * _ERROR_BYTES] = state

    def state(self, step: int) -> int:
        """How far the step came."""
        return self._memory[step * _ERROR_BYTES]

    def error(self, step: int) -> str:
        """What the step was refused with."""
        raw = bytes(self._memory[step * _ERROR_BYTES + 1 : (step + 1) * _ERROR_BYTES])
        return raw.partition(b"\0")[0].decode(errors="replace")

    def pids(self) -> tuple[int, int]:
        """Coordinator at the first step that could tell, and at the last."""
        return int.from_bytes(self._memory[16000:16004], "little"), int.from_bytes(self._memory[16004:16008], "little")

    def note_pid(self, pid: int) -> None:
        """The coordinator that answers now."""
        raw = pid.to_bytes(4, "little")
        if not any(self._memory[16000:16004]):
            self._memory[16000:16004] = raw
        self._memory[16004:16008] = raw

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()


class Client:
    """What the steps use: one database, and the run that is this client's own."""

    def __init__(self, db: shoal.Database, run: str) -> None:
        self.db, self.run = db, run
        self.kv, self.events, self.cells = shoal.KVStore(db), shoal.EventLog(db), shoal.StateCell(db)

    def get(self, key: str) -> Any:
        """A key of the run, 0 if it is not there."""
        return self.kv.get(self.run, key, 0)

    def count_events(self, kind: str) -> int:
        """How many events of the type are in the run's log."""
        return len(list(self.events.read_by_type(self.run, kind)))

    def transaction(self) -> None:
        """Two keys that are always equal, and an event."""

        def both(txn: shoal.Transaction) -> None:
            assert txn.kv.get("kept/0") == 0
            txn.kv.put("left", txn.kv.get("left", 0) + 1)
            txn.kv.increment("right")
            txn.events.append("in a transaction", {"left": 1})

        self.db.transact(self.run, both)

    def count_transactions(self) -> int:
        """How often it took place; -1 if in part."""
        found = {self.get("left"), self.get("right"), self.count_events("in a transaction")}
        return found.pop() if len(found) == 1 else -1

    def put_large(self, tag: str) -> None:
        """A value that leaves a log file little room."""
        self.kv.put(self.run, f"large/{tag}", tag * LARGE_BYTES)

    def count_large(self, tag: str) -> int:
        """Whether it is there."""
        return int(self.get(f"large/{tag}") == tag * LARGE_BYTES)

    def count_sets(self) -> int:
        """How often the cell was set."""
        cell = self.cells.read(self.run, "cell")
        return 0 if cell is None else cell.version

    def wait_for_checkpoint(self) -> None:
        """Give the coordinator time for a checkpoint; whether it makes one is its affair."""
        until = time.monotonic() + CHECKPOINT_WAIT_S
        while time.monotonic() < until:
            names = os.listdir(self.db.path)
            if "wal-000000000001.log" not in names and any(name.endswith(".ckpt") for name in names):
                return
            time.sleep(0.01)


Step = tuple[str, Callable[[Client], object], Callable[[Client], int] | None]
STEPS: list[Step] = [
    ("put", lambda c: c.kv.put(c.run, "a", 1), lambda c: c.get("a")),
    ("increment", lambda c: c.kv.increment(c.run, "sum"), lambda c: c.get("sum")),
    ("transaction", lambda c: c.transaction(), lambda c: c.count_transactions()),
    ("append", lambda c: c.events.append(c.run, "alone", [1]), lambda c: c.count_events("alone")),
    ("set", lambda c: c.cells.set(c.run, "cell", "x"), lambda c: c.count_sets()),
    ("delete", lambda c: c.kv.delete(c.run, "goes"), lambda c: int(not c.kv.exists(c.run, "goes"))),
    ("large put", lambda c: c.put_large("x"), lambda c: c.count_large("x")),
    ("large put that needs another log file", lambda c: c.put_large("y"), lambda c: c.count_large("y")),
    ("wait for a checkpoint", lambda c: c.wait_for_checkpoint(), None),
    ("append after it", lambda c: c.events.append(c.run, "late", None), lambda c: c.count_events("late")),
    ("check", lambda c: c.db.check(), None),
]
OPEN, CLOSE = len(STEPS), len(STEPS) + 1


def work(path: Path, durability: str, ledger: Ledger, run: str) -> None:
    """All of it, in a client's process; a step that fails with an error a user may see does not end it."""
    try:
        ledger.note(OPEN, BEGUN)
        db = shoal.open(path, durability=durability, timeout=OPEN_TIMEOUT_S, linger=0.0)
    except (shoal.ShoalError, OSError) as error:
        ledger.note(OPEN, REFUSED, error)
        return
    ledger.note(OPEN, ACKNOWLEDGED)
    client = Client(db, run)
    for number, (_, act, _) in enumerate(STEPS):
        ledger.note(number, BEGUN)
        try:
            act(client)
        except (shoal.ShoalError, OSError) as error:
            ledger.note(number, REFUSED, error)
        else:
            ledger.note(number, ACKNOWLEDGED)
            ledger.note_pid(db.info().coordinator_pid)
    ledger.note(CLOSE, BEGUN)
    db.close()
    ledger.note(CLOSE, ACKNOWLEDGED)


def prepare(path: Path) -> None:
    """A store with something in it, whose coordinator was killed: there is a log to replay and a tail to cut."""
    with shoal.open(path, durability="strict", timeout=OPEN_TIMEOUT_S) as db:
        for run in RUNS:
            client = Client(db, run)
            for i in range(KEPT):
                client.kv.put(run, f"kept/{i}", i)
                client.events.append(run, "old", i)
            client.kv.put(run, "goes", "soon")
        os.kill(db.info().coordinator_pid, signal.SIGKILL)
    for name in ("checkpoint-00000000000000000003.ckpt.new", "store.json.new"):
        (path / name).write_bytes(b"left by a process that was killed")


def audit(db: shoal.Database, ledger: Ledger, run: str) -> list[str]:
    """What a store opened without any fault lacks of what one client was promised."""
    problems = []
    client = Client(db, run)
    for number, (name, _, count) in enumerate(STEPS):
        if count is None:
            continue
        found, state = count(client), ledger.state(number)
        allowed = {NOT_BEGUN: (0,), BEGUN: (0, 1), ACKNOWLEDGED: (1,), REFUSED: (0, 1)}[state]
        if found not in allowed:
            problems.append(f"{run}: step {name!r} ended in state {state} and is there {found} times")
    lost = [i for i in range(KEPT) if client.kv.get(run, f"kept/{i}") != i]
    if lost or client.count_events("old") != KEPT:
        problems.append(f"{run}: of what was there before, {lost} are lost, {client.count_events('old')} events left")
    chain = client.events.verify_chain(run)
    if not chain.is_valid:
        problems.append(f"{run}: the event chain is broken: {chain}")
    return problems
