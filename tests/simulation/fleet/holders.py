"""Checks of leases, claims and of the index of holders: who holds what, and that no late commit is done."""

from __future__ import annotations

from shoal.primitives.keys import Namespace, Tag
from shoal.primitives.rules.lease_rules import decode_record
from shoal.primitives.rules.queues.records import QUEUE, TASK, Queue
from shoal.primitives.rules.queues.task_record import (
    CANCELLED,
    CLAIMED,
    DEAD,
    DONE,
    WAITING,
    Task,
    decode_task,
    delayed_entry,
    ready_entry,
)
from shoal.primitives.rules.queues.transitions import held_by
from shoal.primitives.views.fleet.tasks import base_of, split_name
from shoal.shm import codec, holder_index
from shoal.shm.operation import VersionedValue
from tests.simulation.client import RUN_PREFIX
from tests.simulation.fleet.facts import COMMITTED, FLEET, KV, PREFIX, UNKNOWN, Fact
from tests.simulation.fleet.plan import QUEUES, SLOTS
from tests.simulation.fleet.replay import Commit, State
from tests.simulation.truth import Problem
from tests.support.present import present

_NAMED = PREFIX + bytes((Tag.LEASE,))
_LEASES = (_NAMED, PREFIX + bytes((Tag.IDEMPOTENCY, 2)), RUN_PREFIX + bytes((Tag.CONSUMER, 1)))
_QUEUED = PREFIX + bytes((Tag.QUEUE,))
_EFFECT = KV + b"e/"


class Leases:
    """No more holders than slots; tokens rise; each holder has an entry, and each entry its holder.

    Tokens of leases rise in the store, those of tasks in their queue, and no two are the same.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._newest: dict[bytes, int] = {}  # by the base of the queue; b"" are the leases
        self._given: set[int] = set()

    def see(self, commit: Commit, state: State) -> None:
        fresh: list[tuple[bytes, int]] = []
        for key, (before, after) in commit.changed.items():
            if key.startswith(_LEASES):
                fresh += [(b"", token) for token in self._lease(commit, state, key, before, after)]
            elif key.startswith(holder_index.PREFIX) and after is not None:
                self._entry(commit, state, key)
            elif key.startswith(_QUEUED) and key[-17:-16] == TASK and after is not None:
                token = decode_task(after).token
                if token and (before is None or decode_task(before).token != token):
                    fresh.append((key[:-17], token))
        for where, token in sorted(fresh):
            newest = self._newest.get(where, 0)
            if token <= newest or token in self._given:
                self._say("fences rise", commit, f"token {token} was given after {newest}, or twice")
            self._newest[where] = max(newest, token)
            self._given.add(token)

    def _lease(
        self, commit: Commit, state: State, key: bytes, before_raw: bytes | None, after_raw: bytes | None
    ) -> list[int]:
        """Look at a lease that has changed; the tokens that were given."""
        before, held = decode_record(before_raw), decode_record(after_raw)
        slots = SLOTS.get(key[len(_NAMED) :].decode(), 1) if key.startswith(_NAMED) else 1
        if len(held) > slots or len({each.slot for each in held}) < len(held):
            self._say("slots", commit, f"{key!r} has {slots} slots and is held by {held}")
        known = {each.token for each in before}
        for each in held:
            if _after(commit, state, holder_index.entry_key(each.holder, key)) is None:
                self._say("holders", commit, f"{each} holds {key!r} and has no entry")
        return [each.token for each in held if each.token not in known]

    def _entry(self, commit: Commit, state: State, key: bytes) -> None:
        holder, held_key = holder_index.decode_key(key)
        if held_key.startswith(_LEASES):
            held = decode_record(_after(commit, state, held_key))
            if holder not in {each.holder for each in held}:
                self._say("holders", commit, f"{holder} has an entry for {held_key!r}, which {held} hold")

    def _say(self, oracle: str, commit: Commit, text: str) -> None:
        self.problems.append((oracle, f"at {commit.version}: {text}"))


class Queues:
    """Tasks go the ways that they can go, in order, once each; counts, sets and entries agree with them."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._tasks: dict[bytes, dict[bytes, Task]] = {
            base_of(Namespace(), FLEET, queue): {} for queue in QUEUES
        }  # by the base of their queue

    def see(self, commit: Commit, state: State) -> None:
        done: list[bytes] = []
        for base, tasks in self._tasks.items():
            head = base + TASK
            now = {
                key[len(head) :]: None if after is None else decode_task(after)
                for key, (_, after) in commit.changed.items()
                if key.startswith(head)
            }
            if not now and base + QUEUE not in commit.changed:
                continue
            self._order(commit, tasks, now)
            for task_id, task in now.items():
                self._way(commit, tasks.get(task_id), task)
                if task is None:
                    tasks.pop(task_id, None)
                    continue
                if task.status == DONE and task.result is not None and task.result == task.payload:
                    done.append(task.payload)
                tasks[task_id] = task
            self._whole(commit, state, base, tasks)
        effects = {
            key[len(_EFFECT) :]: (before, after)
            for key, (before, after) in commit.changed.items()
            if key.startswith(_EFFECT)
        }
        names = {str(codec.decode(payload)).encode() for payload in done}
        if names != set(effects) or any(before or after is None or codec.decode(after) != 1
                                        for before, after in effects.values()):  # fmt: skip
            self._say("each effect once", commit, f"{names} are done, and effects are {effects}")

    def _way(self, commit: Commit, before: Task | None, task: Task | None) -> None:
        """From one status to the next."""
        if task is None:
            if before is None:
                self._say("tasks", commit, "what was not there was removed")
            return
        ways = {WAITING: (CLAIMED, CANCELLED), CLAIMED: (WAITING, DONE, DEAD, CANCELLED), DEAD: (WAITING,)}
        if before is None:
            # Puts and claims of one queue share a commit: a new task may be claimed in it, and no more.
            if task.status == CLAIMED and (task.attempt != 1 or not (task.token and task.holder)):
                self._say("attempts", commit, f"a new task was claimed as {task}")
            elif task.status not in (WAITING, CLAIMED):
                self._say("tasks", commit, f"a new task is {task}")
        elif task.status not in ways.get(before.status, ()):
            self._say("claimed once", commit, f"{before} has become {task}")
        elif task.status == CLAIMED and (task.attempt != before.attempt + 1 or task.attempt > task.max_attempts):
            self._say("attempts", commit, f"{before} was claimed as {task}")
        elif task.status == DEAD and task.attempt != task.max_attempts:
            self._say("attempts", commit, f"{task} is dead")
        elif (task.status == CLAIMED) != bool(task.token and task.holder):
            self._say("tasks", commit, f"{task} has the wrong holder")

    def _order(self, commit: Commit, tasks: dict[bytes, Task], now: dict[bytes, Task | None]) -> None:
        """What is claimed is before all that are ready and are not."""
        claimed = [task for task in now.values() if task is not None and task.status == CLAIMED]
        if not claimed:
            return
        last = max((-task.priority, task.sequence) for task in claimed)
        for task_id, task in tasks.items():
            is_ready = task.status == WAITING and task.due_ms <= commit.submitted_ms and task_id not in now
            if is_ready and (-task.priority, task.sequence) < last:
                self._say("order of tasks", commit, f"{claimed} were claimed before {task}")

    def _whole(self, commit: Commit, state: State, base: bytes, tasks: dict[bytes, Task]) -> None:
        """Counts, sets and entries."""

        def read(key: bytes) -> VersionedValue | None:
            value = _after(commit, state, key)
            return None if value is None else VersionedValue(value, 0, 0)

        queue = Queue(read, base + QUEUE)
        tally = [sum(task.status == status for task in tasks.values()) for status in range(5)]
        if [queue.counts[0] + queue.counts[1], *queue.counts[2:]] != tally:
            self._say("counts of tasks", commit, f"{queue.counts} are counted of {tally}")
        sets = {*queue.ready.entries(), *queue.delayed().entries()}
        waiting = [(task_id, task) for task_id, task in tasks.items() if task.status == WAITING]
        possible = [{ready_entry(*each), delayed_entry(*each)} for each in waiting]
        if len(sets) != len(waiting) or any(not sets & entries for entries in possible):
            self._say("sets of tasks", commit, f"{len(sets)} entries for {len(waiting)} tasks that wait")
        for task_id, task in tasks.items():
            if task.status == CLAIMED and task_id not in dict(held_by(queue, task.holder, task.ticket)):
                self._say("holders", commit, f"{task} is claimed and has no entry")

    def _say(self, oracle: str, commit: Commit, text: str) -> None:
        self.problems.append((oracle, f"at {commit.version}: {text:.300}"))


class Fences:
    """A commit with a fence is done only while what fences it is held."""

    def __init__(self, facts: list[Fact], done: dict[tuple[int, int], int]) -> None:
        self.problems: list[Problem] = []
        self._by_version = {done[fact.commit]: fact for fact in facts if fact.kind == "fenced" and fact.commit in done}
        for version, fact in self._by_version.items():
            if fact.outcome not in (COMMITTED, UNKNOWN):
                self.problems.append(("fenced", f"{fact} was told so, and {version} is there"))

    def see(self, commit: Commit, state: State) -> None:
        fact = self._by_version.get(commit.version)
        if fact is None:
            return
        what, name, holder, token = fact.about
        if what == "lease":
            held = [(each.holder, each.token) for each in decode_record(state.get(_NAMED + name.encode()))]
        else:
            queue, task_id = present(split_name(name))
            raw = state.get(base_of(Namespace(), FLEET, queue) + TASK + task_id)
            task = None if raw is None else decode_task(raw)
            held = [] if task is None or task.status != CLAIMED else [(task.holder, task.token)]
        if (holder, token) not in held:
            self.problems.append(("fenced", f"{fact} is done at {commit.version}, when {held} held it"))


def _after(commit: Commit, state: State, key: bytes) -> bytes | None:
    return commit.changed[key][1] if key in commit.changed else state.get(key)
