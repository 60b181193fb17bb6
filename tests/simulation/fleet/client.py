"""What a client of a fleet does, and the facts that it leaves behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import shoal
from shoal.primitives.facades.leases import Lease
from shoal.shm.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidOperationError,
    LeaseHeldError,
    NotFoundError,
    SnapshotExpiredError,
)
from shoal.shm.fleet_errors import BudgetExceededError, FencedError, InDoubtError
from tests.simulation.client import RUN, Attempt, Client
from tests.simulation.fleet import plan
from tests.simulation.fleet.facts import COMMITTED, FENCED, FLEET, KV, Fact

CONSUMER = "consumer"


class _UnusedError(Exception):
    """Nothing was used of what is reserved."""


class FleetClient(Client):
    """A process that does all that others do, and leases, queues, budgets and the like."""

    facts: list[Fact]
    _fact: Fact | None = None

    def open_database(self) -> None:
        super().open_database()
        self._queue, self._budget = shoal.TaskQueue(self.db), shoal.Budget(self.db)
        self._runs = shoal.RunIndex(self.db)
        self._left: list[Any] = []  # held until the process ends
        self.world.databases[self.store.holding.holder] = self.world.process

    def note_sent(self, commit: tuple[int, int]) -> None:
        if self._fact is not None:
            self._fact.commit = commit
        elif self.attempt is not None and self.attempt.kind not in plan.FLEET_KINDS:
            super().note_sent(commit)

    def run_operation(self, operation: Any) -> None:
        self._fact = None
        super().run_operation(operation)

    def _noted(self, kind: str, *about: Any) -> Fact:
        fact = Fact(kind, self.name, self.world.boot, about)
        self.facts.append(fact)
        return fact

    def _commit(self, fact: Fact, change: Any, fence: Any = None) -> bool:
        """Commit ``change(txn)`` in run FLEET, and note in ``fact`` what came of it; whether it is done."""
        self._fact = fact
        try:
            with self.db.transaction(FLEET, fence=fence) as txn:
                change(txn)
            fact.outcome, fact.version = COMMITTED, txn.version
        except FencedError:
            fact.outcome = FENCED
        except ConflictError:
            fact.outcome = "conflict"
        finally:
            self._fact = None
        return fact.outcome == COMMITTED

    def _pause(self, seconds: float) -> None:
        if seconds:
            self.world.sleep(seconds)

    # --- leases ---

    def _lease(self, attempt: Attempt, options: dict[str, Any]) -> None:
        name = options["name"]
        try:
            lease = self.db.lease(FLEET, name, options["ttl_s"], options["wait_s"], slots=plan.SLOTS[name])
        except LeaseHeldError:
            return
        for number in range(options["commits"]):
            self._pause(options["pause_s"])
            self._write_fenced(lease, f"f/{attempt.who}.{number}")
        if options["leaves"]:
            self._left.append(lease)
            return
        lease.release()
        self._write_fenced(lease, f"f/{attempt.who}.late")

    def _write_fenced(self, lease: Lease, key: str) -> None:
        fact = self._noted("fenced", "lease", lease.name, self.store.holding.holder, lease.token)
        self._commit(fact, lambda txn: txn.kv.put(key, lease.token), fence=lease)

    # --- queues ---

    def _put_tasks(self, attempt: Attempt, options: dict[str, Any]) -> None:
        queue, key, count = options["queue"], options["key"], options["count"]
        kept = {"priority": options["priority"], "delay": options["delay_s"], "max_attempts": options["max_attempts"]}
        if key is None and count > 1:
            self._queue.put_many(FLEET, queue, [f"{attempt.who}.{i}" for i in range(count)], **kept)
        else:
            self._queue.put(FLEET, queue, attempt.who, key=key, **kept)

    def _work(self, attempt: Attempt, options: dict[str, Any]) -> None:
        claimed = self._queue.claim_many(
            FLEET, options["queue"], options["limit"], ttl=options["ttl_s"], wait=options["wait_s"]
        )
        for task in claimed:
            self._pause(options["pause_s"])
            with contextlib.suppress(FencedError):
                self._do(task, options["how"], options["retry_s"])

    def _do(self, task: shoal.Task, how: str, retry_s: float | None) -> None:
        if how == "leave":
            self._left.append(task)
        elif how == "fail":
            task.fail("no", retry_in=retry_s)
        elif how == "release":
            task.release()
        elif how == "complete":  # without an effect
            task.complete("nothing")
        else:

            def change(txn: shoal.Transaction) -> None:
                txn.kv.increment(f"e/{task.payload}")
                txn.queue.complete(task, task.payload)

            fact = self._noted("fenced", "task", task.id, self.store.holding.holder, task.token)
            if not self._commit(fact, change, fence=task) and fact.outcome != FENCED:
                task.release()

    def _end_task(self, attempt: Attempt, options: dict[str, Any]) -> None:
        tasks = self._queue.list(FLEET, options["queue"])
        if not tasks:
            return
        task = tasks[options["number"] % len(tasks)]
        if options["how"] == "cancel":
            self._queue.cancel(FLEET, task.id)
        elif options["how"] == "purge":
            self._queue.purge(FLEET, options["queue"], task.status)
        else:
            with contextlib.suppress(InvalidOperationError, NotFoundError):
                self._queue.retry(FLEET, task.id)

    # --- budgets ---

    def _spend(self, attempt: Attempt, options: dict[str, Any]) -> None:
        name = options["budget"]
        limit, refill = plan.BUDGETS[name]
        with contextlib.suppress(AlreadyExistsError):
            self._budget.create(FLEET, name, limit, refill_per_s=refill)
        if options["how"] == "adjust":
            self._budget.adjust(FLEET, name, limit + options["amount"])
            return
        try:
            reservation = self._budget.reserve(FLEET, name, options["amount"], wait=options["wait_s"])
        except BudgetExceededError:
            return
        self._pause(options["pause_s"])
        self._end(reservation, options["how"], options["used"])

    def _end(self, reservation: shoal.Reservation, how: str, used: int) -> None:
        if how == "leave":
            self._left.append(reservation)
            return
        if how == "refund":
            with contextlib.suppress(_UnusedError), reservation:
                raise _UnusedError
            return
        fact = self._noted("settled", reservation.name, reservation.amount, self.store.holding.holder, used)
        if how == "together":
            self._commit(fact, lambda txn: txn.budget.settle(reservation, used))
            return
        self._fact = fact
        reservation.settle(used)
        fact.outcome = COMMITTED

    # --- what takes place once ---

    def _keyed(self, attempt: Attempt, options: dict[str, Any]) -> None:
        key = options["key"]
        fact = self._noted("keyed", key)

        def change(txn: shoal.Transaction) -> list[Any]:
            return [attempt.who, txn.kv.increment(f"i/{key}")]

        self._fact = fact
        fact.seen.append(self.db.transact(FLEET, change, idempotency_key=key))
        fact.outcome = COMMITTED

    def _once(self, attempt: Attempt, options: dict[str, Any]) -> None:
        key = options["effect"]

        def effect() -> str:
            self._noted("called", key, attempt.who)
            self._pause(options["pause_s"])
            return attempt.who

        try:
            on_doubt: Any = plan.EFFECTS[key]
            result = self.db.once(FLEET, key, effect, on_doubt=on_doubt)
        except (InDoubtError, FencedError):
            return
        self._noted("once", key, result)

    # --- watching ---

    def _watch(self, attempt: Attempt, options: dict[str, Any]) -> None:

        def published() -> int:
            return self.db.info().commit_version

        before, back = published(), options["back"]
        since = None if back is None else max(0, before - back)
        try:
            watch = self.kv.watch(FLEET, options["prefix"], since, options["timeout_s"])
            begun = published() if since is None else since
            fact = self._noted("watched", options["prefix"], before if since is None else since, begun)
            for _ in range(200):
                through = published()
                change = next(watch, None)
                if change is None:
                    fact.version, fact.outcome = through, COMMITTED  # it has seen all up to there
                    break
                fact.seen.append(change)
                fact.version = change.version - 1
        except SnapshotExpiredError:
            pass

    # --- pipelines, logs ---

    def _pipeline(self, attempt: Attempt, options: dict[str, Any]) -> None:
        keys = [f"p/{attempt.who}.{number}" for number in range(options["count"])]
        fact = self._noted("pipelined", keys)
        futures = []
        try:
            with self.db.pipeline(FLEET, depth=options["depth"]) as pipe:
                for key in keys:
                    futures.append(pipe.kv.increment(key))
                    self._pause(options["pause_s"] / 10)
        finally:
            fact.seen += [
                future.result() if future.done() and future.exception() is None else None for future in futures
            ]

    def _append(self, attempt: Attempt, options: dict[str, Any]) -> None:
        payloads = [f"{attempt.who}.{number}" for number in range(options["count"])]
        fact = self._noted("appended", payloads)
        fact.seen += self.log.append_many(FLEET, [("event", payload) for payload in payloads])
        fact.version = attempt.told

    def _trim(self, attempt: Attempt, options: dict[str, Any]) -> None:
        before = max(0, self.log.len(FLEET) - options["back"])
        self._noted("trimmed", before)
        self.log.trim(FLEET, before)

    def _retain(self, attempt: Attempt, options: dict[str, Any]) -> None:
        self._noted("retained", options["events"])
        self._runs.set_retention(shoal.RetentionPolicy(events=options["events"]), FLEET)

    def _consume(self, attempt: Attempt, options: dict[str, Any]) -> None:
        try:
            consumer = self.log.consumer(RUN, CONSUMER, wait=options["wait_s"])
        except LeaseHeldError:
            return
        with consumer:
            left = min(options["count"], self.log.len(RUN) - consumer.position)
            if left <= 0:
                return
            for event in _while_held(consumer):
                fact = self._noted("consumed", event.sequence)

                def change(txn: shoal.Transaction, sequence: int = event.sequence) -> None:
                    txn.kv.increment(f"n/{sequence}")
                    txn.on(RUN).events.commit(consumer, sequence)

                left -= 1
                if not self._commit(fact, change) or not left:
                    return
                self._pause(options["pause_s"])

    def _temporary(self, attempt: Attempt, options: dict[str, Any]) -> None:
        self.kv.put(FLEET, options["key"], attempt.who, ttl=options["ttl_s"])

    def _wipe(self, attempt: Attempt, options: dict[str, Any]) -> None:
        lower = KV + options["prefix"].encode()
        self.store.auto_commit.clear(lower, lower + b"\xff")


def _while_held(consumer: shoal.Consumer) -> Iterator[shoal.Event]:
    """Its events until another process has its name."""
    with contextlib.suppress(FencedError):
        yield from consumer
