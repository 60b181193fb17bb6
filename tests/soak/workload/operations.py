"""A worker: all primitives in random order, every intention and acknowledgement in its ledger.

What it is told is compared at once with what it knows (its own keys are written by nobody else); what only the whole
shows, the audit of the window finds. The names of a window's keys are in ``names``.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import shoal
from shoal import TraceType
from shoal.primitives.facades.fleet import idempotency
from shoal.shm import limits
from tests.soak import ledger
from tests.soak.ledger import Slots, note_time
from tests.soak.workload import names
from tests.soak.workload.fleet import FLEET_MIX, FleetWorker
from tests.soak.workload.stopping import start_prepared

TIMEOUT_S = 60.0
LINGER_S = 0.2
_LARGE_BYTES = (20_000, 100_000, 400_000)
_CLOCK_MARGIN_S = 0.02
MIX = {
    "put": 20, "put_large": 1, "delete": 6, "put_with_ttl": 5, "increment": 12, "append": 10, "transition": 6,
    "record": 6, "pair": 10, "append_to_lists": 16, "runs": 1, "scratch": 1, "look": 18, "hold": 1,
    **FLEET_MIX,
}  # fmt: skip
# Reading alone acknowledges nothing: who is to be killed under load had better write.
WRITING_MIX = {
    name: weight for name, weight in MIX.items() if name not in ("look", "hold", "scratch", "runs", *FLEET_MIX)
}


class Worker(FleetWorker):
    """What there is to do."""

    def _put(self, size: int = 0) -> None:
        number, value = self._number, names.content(self._who, self._number, size)
        self._commit("put", size, lambda: self._kv.put(self._run, names.unique(self._who, number), value))
        self._sizes[number] = size

    def _put_large(self) -> None:
        self._put(self._rng.choice(_LARGE_BYTES))

    def _delete(self) -> None:
        if not self._sizes:
            return self._put()
        number = self._rng.choice(list(self._sizes))
        key = names.unique(self._who, number)
        there = self._commit("delete", number, lambda: self._kv.delete(self._run, key))
        self._expect(f"delete({key})", there, True)
        del self._sizes[number]
        self._expect(f"get({key}) after its deletion", self._kv.get(self._run, key), None)
        return None

    def _put_with_ttl(self) -> None:
        key, ttl_s = f"{names.EXPIRING}{self._who}/{self._number}", self._rng.uniform(0.05, 0.8)
        begun = time.time()
        self._commit("ttl", ttl_s, lambda: self._kv.put(self._run, key, self._number, ttl=ttl_s))
        found = self._kv.get(self._run, key)
        if time.time() - begun < ttl_s - _CLOCK_MARGIN_S:
            self._expect(f"get({key}) before it expires", found, self._number)
        self._expiring.append((key, time.time() + ttl_s + _CLOCK_MARGIN_S))

    def _increment(self) -> None:
        self._commit("increment", None, lambda: self._kv.increment(self._run, names.SUM))

    def _append(self) -> None:
        payload = [self._who, self._number]
        appended = self._commit(
            "append", None, lambda: self._log.append(self._run, "single", payload), lambda appended: appended.sequence
        )
        self._told.append((appended.sequence, self._number))

    def _transition(self) -> None:
        self._commit(
            "transition",
            None,
            lambda: self._cells.transition(self._run, names.COUNTER, lambda state: (state.value + 1, state.value + 1)),
        )

    def _record(self) -> None:
        trace_id = names.trace(self._who, self._number)
        parent = self._rng.choice(self._recorded) if self._recorded and self._rng.random() < 0.5 else None
        thought = TraceType.Thought(f"number {self._number}")
        self._commit(
            "record",
            parent,
            lambda: self._traces.record(self._run, thought, id=trace_id, parent_id=parent, tags=[self._who]),
        )
        self._recorded.append(trace_id)

    def _pair(self) -> None:
        """One transaction over four primitives: each of them counts it once, or none does."""
        who, number = self._who, self._number

        def change(txn: shoal.Transaction) -> int:
            count: int = txn.kv.get(f"{names.LEFT}{who}", 0) + 1
            txn.kv.put(f"{names.LEFT}{who}", count)
            txn.kv.increment(f"{names.RIGHT}{who}")
            txn.kv.put(names.SHARED, txn.kv.get(names.SHARED, 0) + 1)
            txn.state.set(f"{names.PAIRS_CELL}{who}", count)
            txn.events.append("pair", [who, number])
            txn.traces.record(TraceType.Decision("which", ["left", "right"], "both"), id=f"pair-{who}-{number}")
            return count

        _, count = self._commit("pair", None, lambda: self._transact(change), list)
        self._pairs += 1
        self._expect("the count of pairs", count, self._pairs)

    def _append_to_lists(self) -> None:
        """A transaction whose history tells what it saw: it appends to lists that all append to, and reads some."""
        at = int((time.monotonic() - self._began) / names.LIST_LIFE_S)
        plan = []
        for i in range(self._rng.randint(1, 4)):
            key = names.list_key(at, self._rng.randrange(names.LISTS_AT_A_TIME))
            value = f"{self._who}.{self._number}.{i}"
            plan.append(["append", key, value] if self._rng.random() < 0.5 else ["read", key, None])
        assert self._ledger is not None
        number = self._number
        self._ledger.write("i", "list", number, plan)
        begun = time.perf_counter_ns()
        try:
            with self._db.transaction(self._run) as txn:
                done = [told for step in plan for told in _perform(txn, *step)]
        except (shoal.ConflictError, shoal.SnapshotExpiredError):
            self._slot[ledger.CONFLICTS] += 1
            self._ledger.write("f", "list", number, None)
            return
        note_time(self._slot, ledger.COMMIT_HISTOGRAM, ledger.SLOWEST_COMMIT, time.perf_counter_ns() - begun)
        self._ledger.write("a", "list", number, [txn.version, done])
        self._count_commit()

    def _runs(self) -> None:
        """Create a run, fill it, fork it, compare, delete the fork again or leave it."""
        run, fork = names.child(self._run, self._who, self._number), names.fork(self._run, self._who, self._number)
        self._commit("create", run, lambda: self._index.create_run(run_id=run, parent_run=self._run), lambda _run: None)
        for i in range(5):
            self._kv.put(run, f"key-{i}", [self._who, i])
        self._log.append(run, "begun", self._who)
        self._cells.set(run, "cell", self._number)
        self._commit("fork", fork, lambda: self._index.fork_run(run, new_run_id=fork), lambda _run: None)
        self._expect("the keys of a fork", self._kv.list_with_values(fork), self._kv.list_with_values(run))
        self._expect("the log of a fork", self._log.anchor(fork), self._log.anchor(run))
        self._expect("the cell of a fork", self._cells.read(fork, "cell"), self._cells.read(run, "cell"))
        if self._rng.random() < 0.5:
            self._commit("drop", fork, lambda: self._index.delete_run(fork))
            self._expect("the keys of a deleted run", self._kv.list(fork), [])
            self._expect("a deleted run", self._index.get_run(fork), None)

    def _scratch(self) -> None:
        """Fill a run of one's own and clear the whole range at once."""
        run = names.scratch(self._run, self._who)
        values = [(f"{i:04}", i) for i in range(self._rng.randint(5, 60))]
        with self._db.transaction(run) as txn:
            for key, value in values:
                txn.kv.put(key, value)
        self._count_commit()
        self._expect("a scratch run", self._read(self._kv.list_with_values, run), values)
        self._index.delete_run(run)
        self._count_commit()
        self._expect("a cleared scratch run", self._read(self._kv.list, run), [])

    # --- reading ----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Something of one's own, which must be as it was left."""
        who, run, rng = self._who, self._run, self._rng
        for number in rng.sample(list(self._sizes), min(len(self._sizes), 5)):
            value = self._read(self._kv.get, run, names.unique(who, number))
            if value != names.content(who, number, self._sizes[number]):
                self._complain(f"get({names.unique(who, number)}) gave {value!r:.100}")
        if self._expiring:
            key, gone_by = self._expiring[0]
            if time.time() > gone_by:
                self._expect(f"get({key}) after it expired", self._read(self._kv.get, run, key), None)
                self._expiring.pop(0)
        scan = rng.random()
        if scan < 0.1:
            found = self._read(self._kv.list, run, f"{names.UNIQUE}{who}/")
            self._expect("a scan", found, sorted(names.unique(who, number) for number in self._sizes))
        elif scan < 0.15:
            found = sorted(trace.id for trace in self._read(self._traces.query_by_tag, run, who))
            self._expect("a query by tag", found, sorted(self._recorded))
        elif scan < 0.4 and self._told:
            sequence, number = rng.choice(self._told)
            event = self._read(self._log.read, run, sequence)
            self._expect(f"event {sequence}", event and event.payload, [who, number])

    def _hold(self) -> None:
        """Keep a snapshot open for a while; ``_let_go`` looks whether it still says the same."""
        if self._held is not None:
            return
        view = self._db.snapshot(self._run)
        seen = self._seen(view)
        self._held = (view, self._run, seen, time.monotonic() + self._rng.uniform(0.2, 3.0))

    def _seen(self, view: shoal.Transaction) -> dict[str, Any]:
        return {
            "sum": view.kv.get(names.SUM),
            "shared": view.kv.get(names.SHARED),
            "keys": view.kv.list(f"{names.UNIQUE}{self._who}/"),
            "events": view.events.anchor(),
        }

    def _let_go(self) -> None:
        if self._held is None:
            return
        view, run, seen, _ = self._held
        self._held = None
        try:
            self._expect(f"a snapshot of {run} kept open", self._seen(view), seen)
        except shoal.SnapshotExpiredError:
            pass  # room was short and the snapshot old: that is its contract
        finally:
            view.close()


def _perform(txn: shoal.Transaction, name: str, key: str, value: str | None) -> list[list[Any]]:
    found = txn.kv.get(key, [])
    if name == "read":
        return [[name, key, found]]
    txn.kv.put(key, [*found, value])
    return [["read", key, found], [name, key, value]]


def start_worker(
    path: Path,
    slots: Slots,
    index: int,
    who: str,
    directory: Path,
    seed: str,
    pause_s: float,
    mix: dict[str, int] = MIX,
) -> Any:
    """A process that works until SIGTERM, which finds it prepared however early it comes."""
    return start_prepared(_run_worker, path, slots, index, who, directory, seed, pause_s, mix)


def _run_worker(
    path: Path, slots: Slots, index: int, who: str, directory: Path, seed: str, pause_s: float, mix: dict[str, int]
) -> None:
    # Kills at random moments may meet one commit more often than chance allows shoal to believe.
    limits.MAX_DEATHS_PER_COMMIT = 1 << 30
    # Who dies while there is no coordinator holds its effects for so long: others wait, and the window for them.
    idempotency.LEASE_TTL_S = names.LEASE_TTL_S
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stops.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    with shoal.open(path, timeout=TIMEOUT_S, linger=LINGER_S) as db:
        Worker(db, slots, index, who, directory, random.Random(f"{seed}/{who}"), pause_s, stops).work(mix)
    slots.slot(index)[ledger.WINDOW] = ledger.NOBODY  # no window waits for it any more
