"""Faults in budgets, in what takes place once, in pipelines, watches and retention."""

from __future__ import annotations

from collections import deque
from typing import Any

from shoal.coordinator.commit.pipelining import Pipeline
from shoal.coordinator.presence.changes import Changes, Page
from shoal.coordinator.presence.holders import Holders
from shoal.primitives.facades.fleet import idempotency
from shoal.primitives.facades.fleet.idempotency import EffectRecord, Remembered, _Effect
from shoal.primitives.rules.budget_rules import BUDGET, BudgetRecord
from shoal.primitives.rules.layouts.parts import parts_end
from shoal.primitives.rules.retention import old_events
from shoal.primitives.rules.tags import Tag, tag_of
from shoal.primitives.rules.trim_rules import Trimming
from shoal.shm import codec
from shoal.shm.operation import Read, Write
from shoal.shm.wire.request import CommitSet
from tests.mutants.registry import SIMULATION, WORKER, Patch, mutant


@mutant("budgets", SIMULATION)
def refund_lost(patch: Patch) -> None:
    """What a dead process had reserved is not available to others."""

    def released(self: Holders, due: deque[bytes], held: dict[bytes, int], read: Read, now_ms: int) -> list[Write]:
        return [write for write in sound(self, due, held, read, now_ms) if not _is_budget(write.key)]

    sound = patch.set(Holders, "_released", released)


def _is_budget(key: bytes) -> bool:
    return key > b"\1" and tag_of(key) == Tag.BUDGET and key[parts_end(key) + 1 :][:1] == BUDGET


@mutant("budgets", SIMULATION)
def refill_counted_again(patch: Patch) -> None:
    """What has come back by the refill comes back again with the next commit."""

    def at(self: BudgetRecord, now_ms: int) -> BudgetRecord:
        record: BudgetRecord = sound(self, now_ms)
        return record._replace(refilled_at=self.refilled_at)

    sound = patch.set(BudgetRecord, "at", at)


@mutant("once", SIMULATION, side=WORKER)
def result_not_stored(patch: Patch) -> None:
    """The effect of a transaction with an idempotency key is committed without what remembers it."""

    def run(self: Remembered, txn: Any, fn: Any) -> Any:
        for result in self.find(txn._begun()):
            return result
        return codec.decode(codec.encode(fn(txn)))

    patch.set(Remembered, "run", run)


@mutant("once", SIMULATION, side=WORKER)
def effect_without_intent(patch: Patch) -> None:
    """An effect outside the store is begun without an intent, so after a death it is run again."""

    def finish(self: _Effect, token: int, result: bytes) -> EffectRecord:
        record = EffectRecord(idempotency.now_ms(), token, result)
        self._transact(lambda transaction: self._write(transaction, record))
        return record

    patch.set(_Effect, "_begin", lambda self, _lease, _again: self._transact(self._read))
    patch.set(_Effect, "_finish", finish)


@mutant("pipelines", SIMULATION)
def pipelined_again(patch: Patch) -> None:
    """A commit of a pipeline that is sent again, because the coordinator died, is done again."""

    def submit_one(self: Pipeline, client_id: int, request: CommitSet) -> bytes:
        engine: Any = self._engine
        engine.sessions.pop(client_id, None)
        answer: bytes = sound(self, client_id, request)
        return answer

    sound = patch.set(Pipeline, "_submit_one", submit_one)


@mutant("watching", SIMULATION)
def watch_begins_anew(patch: Patch) -> None:
    """A watch that goes on under another coordinator is not told what was committed under the one before."""

    def page(self: Changes, lower: bytes, upper: bytes, position: int, after: bytes, through: int) -> Page:
        found: Page = sound(self, lower, upper, position, after, through)
        return Page(through, b"", False, []) if found.is_lost and not found.changes else found

    sound = patch.set(Changes, "page", page)


@mutant("watching", SIMULATION)
def watch_told_twice(patch: Patch) -> None:
    """A watch is told the last commit of its page again."""

    def page(self: Changes, lower: bytes, upper: bytes, position: int, after: bytes, through: int) -> Page:
        found: Page = sound(self, lower, upper, position, after, through)
        if found.changes and not found.after and position < found.version - 1:
            return found._replace(version=found.version - 1)
        return found

    sound = patch.set(Changes, "page", page)


@mutant("retention", SIMULATION)
def one_event_too_many(patch: Patch) -> None:
    """The coordinator trims one event that a policy keeps."""

    class Greedy(Trimming):
        def add(self, last: int, events: Any, before: int) -> None:
            super().add(last, events, before + 1)

    patch.set(old_events, "Trimming", Greedy)
