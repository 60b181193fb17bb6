"""Faults in who holds what: leases, claims, lines of those that wait, and the ends of holders."""

from __future__ import annotations

from typing import Any

from shoal.coordinator.presence import asked
from shoal.coordinator.presence.holders import Holders
from shoal.coordinator.server.control_requests import ControlRequests, Line
from shoal.primitives.rules import lease_rules, registry
from shoal.primitives.rules.queues import queue_rules, transitions
from shoal.primitives.rules.queues.ordered_pages import ENTRY_BYTES
from shoal.primitives.rules.queues.ready_set import ReadySet
from shoal.primitives.rules.queues.records import Queue
from shoal.primitives.rules.queues.task_record import CLAIMED, WAITING, Task
from shoal.primitives.rules.tags import Tag
from shoal.shm import codec
from shoal.shm.fleet_errors import FencedError
from shoal.shm.operation import Decision, Read, nothing_held
from shoal.shm.wire.request import CommitSet
from tests.mutants.fleet import Rule, change_rule
from tests.mutants.registry import SIMULATION, Patch, mutant


@mutant("leases", SIMULATION)
def fence_not_compared(patch: Patch) -> None:
    """A commit with a fence is done whoever holds the lease by then."""
    change_rule(patch, registry.LEASE_FENCE, lambda *_arguments: Decision([], None))


@mutant("leases", SIMULATION)
def fence_not_raised(patch: Patch) -> None:
    """The next holder is given the token of the one before."""

    def next_token(read: Read) -> int:
        last = read(lease_rules.TOKEN_KEY)
        return 1 if last is None else int(codec.unpackb(last.value))

    def take_tokens(self: Queue, count: int) -> int:
        token: int = sound(self, count)
        self._token -= count
        return token

    patch.set(lease_rules, "next_token", next_token)
    sound = patch.set(Queue, "take_tokens", take_tokens)


@mutant("leases", SIMULATION)
def one_slot_too_many(patch: Patch) -> None:
    """A lease is given to one more than has a slot."""

    def take(sound: Rule, read: Read, now_ms: int, key: bytes, name: str, slots: int, *others: Any) -> Decision:
        return sound(read, now_ms, key, name, slots + 1, *others)

    change_rule(patch, registry.LEASE_TAKE, take)


@mutant("leases", SIMULATION)
def lease_of_the_dead(patch: Patch) -> None:
    """What a dead process held ends with its ttl, as if it had only stopped to answer."""
    patch.set(Holders, "gone", lambda _self, _holder: None)


@mutant("leases", SIMULATION)
def ttl_of_the_living(patch: Patch) -> None:
    """A sign of life is not noted, so a lease ends with its ttl however often it is renewed."""
    patch.set(Holders, "renew", lambda self, holder: holder in self._known)


@mutant("leases", SIMULATION)
def last_come_first_served(patch: Patch) -> None:
    """Of those that wait in line the one that came last is served first."""

    def serve(self: ControlRequests, key: Line) -> None:
        line = self._lines[key]
        for place, pending in reversed(list(line.items())):
            answer = self._submit(pending.client, pending.request, key)
            if answer:
                self._answers.append((pending.client, answer))
                del line[place], self._pending[pending.client]
        if not line:
            del self._lines[key]
            self._waiters.remove(key)

    patch.set(ControlRequests, "_serve", serve)


@mutant("leases", SIMULATION)
def lines_form_by_arrival(patch: Patch) -> None:
    """Under the next coordinator those that wait come into the order in which they happen to be back."""

    def understood_in_line(request: CommitSet, arguments: Any) -> list[Any]:
        ranges, wait_ms, _ = sound(request, arguments)
        return [ranges, wait_ms, 0]

    sound = patch.set(asked, "understood_in_line", understood_in_line)


@mutant("queues", SIMULATION)
def claim_again(patch: Patch) -> None:
    """A claim leaves the task among those that are ready, so another process claims it, too."""

    def waiting(queue: Queue, task_id: bytes) -> Task | None:
        return queue.task(task_id)

    patch.set(ReadySet, "take_least", lambda self: self.head[:ENTRY_BYTES] or None)
    patch.set(queue_rules, "waiting", waiting)


@mutant("queues", "lost_claim")
def complete_unfenced(patch: Patch) -> None:
    """A task may be completed by who has lost it."""

    def held(queue: Queue, name: str, task_id: bytes, holder: int, token: int) -> Task:
        task = queue.task(task_id)
        if task is None or task.status not in (WAITING, CLAIMED):
            raise FencedError(name, token)
        return task

    patch.set(queue_rules, "_held", held)


@mutant("queues", SIMULATION)
def task_of_the_dead(patch: Patch) -> None:
    """A task whose holder has ended stays claimed by it."""

    patch.set(registry, "ENDED", {**registry.ENDED, Tag.QUEUE: nothing_held})


@mutant("queues", SIMULATION)
def task_loses_its_place(patch: Patch) -> None:
    """Tasks are claimed in the order in which they were put, whatever their priority."""

    def entry(task_id: bytes, task: Task) -> bytes:
        priority, task.priority = task.priority, 0
        made: bytes = sound(task_id, task)
        task.priority = priority
        return made

    sound = patch.set(transitions, "ready_entry", entry)
