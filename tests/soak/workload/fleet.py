"""What processes of a fleet do with each other: tasks, turns, a budget, effects that take place once, trimmed logs.

Holders are killed and stopped here as everywhere. A stop is shorter than ``TTL_S``, so none is taken for dead; one that
is refused all the same (``FencedError``) has done nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import shoal
from tests.soak import ledger
from tests.soak.workload import names
from tests.soak.workload.effects import EffectWorker

TTL_S = 10.0
_WAIT_S = 0.05
_EVENTS_AT_A_TIME = 5
FLEET_MIX = {"task": 4, "work": 5, "turn": 3, "reserve": 3, "once": 2, "roll": 8, "consume": 2}


class FleetWorker(EffectWorker):
    """The operations of ``FLEET_MIX``."""

    def _task(self) -> None:
        payload = [self._who, self._number]
        self._commit("task", None, lambda: self._queue.put(self._run, names.QUEUE, payload))

    def _work(self) -> None:
        """Claim a task of anybody; its effect and its completion are one commit."""
        task = self._queue.claim(self._run, names.QUEUE, ttl=TTL_S)
        if task is None:
            return

        def effect(txn: shoal.Transaction) -> None:
            txn.kv.increment(f"{names.EFFECTS}{task.id}")
            txn.queue.complete(task)

        self._fenced("effect", task.id, partial(self._commit_alone, effect))

    def _turn(self) -> None:
        """While a lease is held, nobody else has a turn, and whoever had one before has a lower token."""
        try:
            lease = self._db.lease(self._run, names.LEASE, ttl=TTL_S, wait=_WAIT_S)
        except shoal.LeaseHeldError:
            return
        with lease:

            def take() -> int:
                with self._db.transaction(self._run, fence=lease) as txn:
                    last: int = txn.kv.get(names.LAST_TOKEN, 0)
                    txn.kv.put(names.LAST_TOKEN, lease.token)
                    txn.kv.put(names.TURNS, txn.kv.get(names.TURNS, 0) + 1)
                return last

            last = self._fenced("turn", lease.token, take)
            if last is not None and last >= lease.token:
                self._complain(f"a turn has token {lease.token}, and the one before {last}")

    def _reserve(self) -> None:
        amount = self._rng.randint(1, 2)
        try:
            reservation = self._budget.reserve(self._run, names.BUDGET, amount, wait=_WAIT_S)
        except shoal.BudgetExceededError:
            return
        with reservation:
            reserved = self._budget.read(self._run, names.BUDGET).reserved
            if not amount <= reserved <= names.BUDGET_LIMIT:
                self._complain(f"{amount} were reserved, and {reserved} of {names.BUDGET_LIMIT} are")
            reservation.settle(0)
        self._count_commit()

    def _roll(self) -> None:
        """Append to the log that is trimmed: what is told stands behind what was told before."""
        event = self._commit(
            "roll", None, lambda: self._log.append(names.ROLLING, "step", self._number), lambda event: event.sequence
        )
        if event.sequence <= self._rolled:
            self._complain(f"event {event.sequence} was appended after event {self._rolled}")
        self._rolled = event.sequence

    def _consume(self) -> None:
        """Go on where whoever had the name before was done; each event and its effect are one commit."""
        try:
            consumer = self._log.consumer(self._run, names.CONSUMER)
        except shoal.LeaseHeldError:
            return
        with consumer:
            position = consumer.position
            ahead = min(self._log.len(self._run) - position, _EVENTS_AT_A_TIME)
            for event in itertools.islice(consumer, max(0, ahead)):
                self._expect("the next event of a consumer", event.sequence, position)
                position += 1

                def effect(txn: shoal.Transaction, sequence: int = event.sequence) -> None:
                    txn.kv.put(names.CONSUMED, txn.kv.get(names.CONSUMED, 0) + 1)
                    txn.events.commit(consumer, sequence)

                if self._fenced("consume", event.sequence, partial(self._commit_alone, effect)) is None:
                    return

    def _commit_alone(self, change: Callable[[shoal.Transaction], None]) -> int:
        return self._transact(change)[0]

    def _fenced(self, kind: str, what: Any, call: Callable[[], int]) -> int | None:
        """A commit of a holder; None if it is refused because it is none any more."""
        try:
            return self._commit(kind, what, call)
        except shoal.FencedError as error:
            assert self._ledger is not None
            self._slot[ledger.CONFLICTS] += 1
            self._ledger.write("f", kind, self._number, str(error))
            return None
