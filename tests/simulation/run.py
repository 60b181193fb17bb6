"""One seed: draw the plan, let it happen, judge it."""

from __future__ import annotations

import contextlib
import gc
import hashlib
from typing import Any, NamedTuple

import shoal
from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.log import format as wal_format
from shoal.coordinator.server import coordinator
from shoal.coordinator.server.clients import Client as ServedClient
from shoal.coordinator.server.control_requests import ControlRequests
from shoal.shm.wire.request import CommitSet
from tests import mutants
from tests.simulation import plan as plans
from tests.simulation.client import KV_PREFIX, RUN, Attempt, Client, open_store
from tests.simulation.damage import flip_a_bit
from tests.simulation.fleet.client import FleetClient
from tests.simulation.fleet.facts import Fact
from tests.simulation.fleet.judge import Last, look_at_last
from tests.simulation.fleet.presence import Ends, Lines
from tests.simulation.oracles import Moments, judge
from tests.simulation.plan import Fault, Phase, Plan
from tests.simulation.truth import Problem, Truth
from tests.simulation.world.installing import under
from tests.simulation.world.machine import World
from tests.simulation.world.scheduler import StuckError
from tests.support.histories.list_append import Operation

_LONG_MS = 3_600_000
_MOST_STEPS = 500_000  # of a phase: a long plan, most of it pipelines on a slow disk, took 123,000
_STOPPED_S = 0.05
_FULL_S = 0.02
_FROZEN_S = 0.01


class Verdict(NamedTuple):
    """What came of a seed."""

    seed: int
    problems: list[Problem]
    steps: int
    attempts: int
    commits: int
    digest: str  # of the whole history: the same for the same plan
    trace: list[str]
    counts: dict[str, int]


def run_seed(seed: int, mutant: str | None = None, verbose: bool = False) -> Verdict:
    """The history of a seed, with a mutant or none."""
    return run_plan(plans.draw(seed), mutant, verbose)


def run_plan(plan: Plan, mutant: str | None = None, verbose: bool = False) -> Verdict:
    """A history and its verdict."""
    run = _Run(plan, verbose)
    gc.disable()  # what the collector drops, and when, would be part of the history
    try:
        with under(run.world), run.patched(), mutants.mutated(mutant):
            return run.verdict()
    finally:
        gc.enable()


class _Run:
    def __init__(self, plan: Plan, verbose: bool) -> None:
        self._plan = plan
        self.world = World(plan.seed, plan.durability)
        self.world.history_ms = plan.history_ms
        faults = {fault.kind for phase in plan.phases for fault in phase.faults}
        self.world.keeps_all = plan.history_ms >= _LONG_MS and not faults & {"fill disk", "fail sync"}
        if verbose:
            self.world.trace = []
        self._truth = Truth(self.world.disk, plan.durability == "strict")
        self._attempts: list[Attempt] = []
        self._facts: list[Fact] = []
        self._last: Last | None = None
        self._lines = Lines()
        self._events: list[shoal.Event] = []
        self._clients: dict[Any, Client] = {}
        self._cut = False
        self._submitted_ms = 0  # wall clock when the last commit was submitted
        self._decided_from: dict[int, int] = {}  # and when each was, by version

    @contextlib.contextmanager
    def patched(self) -> Any:
        """Watch recoveries, and if planned so, leave little room for history."""
        patch, world, truth = mutants.Patch(), self.world, self._truth

        def recover_watched(storage: Any, writer: Any, reclaimer: Any, *arguments: Any) -> Any:
            truth.begin_recovery()
            world.reclaimers.append(reclaimer)
            try:
                found = recover(storage, writer, reclaimer, *arguments)
            except BaseException:
                truth.abandon_recovery()
                raise
            truth.end_recovery(found.version)
            return found

        def submit(engine: CommitEngine, client_id: int, request: CommitSet, *line: Any) -> bytes:
            self._submitted_ms = world.now_ms()
            is_again = bool(line and line[0]) and engine.outcome(client_id, request.commit_id) is not None
            answer: bytes = decide(engine, client_id, request, *line)
            if answer and line and line[0]:
                self._lines.served(len(world.reclaimers), client_id, request, answer, is_again)
            return answer

        def note_record(data: bytes) -> None:
            found = wal_format.decode_record(data, 0)
            if found is not None and not found[0].is_close_mark:
                self._decided_from[found[0].version] = self._submitted_ms
            note(data)

        note, world.disk.on_record = world.disk.on_record, note_record
        try:
            recover = patch.set(coordinator, "recover", None)
            patch.set(coordinator, "recover", recover_watched)
            decide = patch.set(CommitEngine, "submit", submit)
            self._watch_lines(patch)
            if self._plan.revoking:
                # Any history is too much.
                world.limits = world.limits._replace(history_bytes=-(1 << 20), snapshot_grace_s=0.005)
            yield
        finally:
            patch.restore()

    def _watch_lines(self, patch: mutants.Patch) -> None:
        """See who waits in line, and who leaves it."""

        def answer(requests: ControlRequests, client: ServedClient, request: CommitSet, now_s: float) -> bytes | None:
            told: bytes | None = ask(requests, client, request, now_s)
            if told == b"" and request.operations:
                self._lines.waits(len(self.world.reclaimers), client.client_id, request)
            return told

        def forget(requests: ControlRequests, client: ServedClient) -> None:
            self._lines.left(client.client_id)
            drop(requests, client)

        ask = patch.set(ControlRequests, "answer", answer)
        drop = patch.set(ControlRequests, "forget", forget)

    def verdict(self) -> Verdict:
        world = self.world
        try:
            for phase in self._plan.phases:
                self._phase(phase)
            self._last_look()
            problems = [
                *world.problems,
                *judge(
                    self._attempts,
                    self._truth,
                    Moments(self._decided_from, world.moments),
                    KV_PREFIX,
                    self._events,
                    self._facts,
                    self._last,
                    self._ends(),
                ),
                *self._lines.problems,
            ]
            if not problems:
                problems += flip_a_bit(world.disk, world.rng)
        except StuckError as error:
            problems = [*world.problems, *self._truth.problems, ("progress", str(error))]
        text = repr((self._attempts, self._facts, self._events, world.steps, world.now_s, problems))
        counts = {
            "coordinators": world.coordinators,
            "checkpoints": world.checkpoints,
            "snapshots revoked": world.revoked,
            "boots": world.boot,
        }
        return Verdict(
            self._plan.seed, problems, world.steps, len(self._attempts), len(self._truth.records),
            hashlib.blake2b(text.encode(), digest_size=8).hexdigest(), world.trace or [], counts,
        )  # fmt: skip

    def _ends(self) -> Ends | None:
        """The check of when what is held ends; None where coordinators were hurt."""
        kinds = {fault.kind for phase in self._plan.phases for fault in phase.faults}
        if len(self._plan.phases) > 1 or not kinds <= {"kill client", "stop client", "kill checkpoint"}:
            return None
        return Ends(self.world.ended_ms, "stop client" in kinds)

    def _phase(self, phase: Phase) -> None:
        world = self.world
        for number, operations in enumerate(phase.clients):
            self._spawn(f"client-{world.boot}.{number}", operations)
        begin = world.steps
        faults: dict[int, Any] = {}
        for fault in phase.faults:
            step = begin + fault.step
            while step in faults:
                step += 1
            faults[step] = lambda fault=fault: self._happen(fault)
        world.plan(faults)
        self._cut = False
        world.limit = begin + _MOST_STEPS
        world.run()
        if any("cut power" in fault.kind for fault in phase.faults) and not self._cut:
            self._cut_power()  # everybody was done before

    def _spawn(self, name: str, operations: list[plans.Operation]) -> None:
        client = FleetClient(self.world, name, operations, self._attempts)
        client.facts = self._facts
        process = self.world.spawn(name, "client", client.run)
        self._clients[process] = client

    def _happen(self, fault: Fault) -> None:
        world = self.world
        action, _, kind = fault.kind.partition(" ")
        world.say(f"fault: {fault.kind}")
        if fault.kind == "cut power":
            self._cut_power()
        elif fault.kind == "cut power in sync":
            world.disk.cut_in_sync = self._cut_power
        elif fault.kind == "kill in sync":
            world.disk.cut_in_sync = lambda: world.kill(world.process)
        elif fault.kind == "kill starter":
            world.kills_starter = True
        elif action == "freeze":
            self._freeze(fault, kind)
        elif fault.kind == "fail sync":
            world.disk.failing_syncs = 1
        elif fault.kind == "fill disk":
            world.disk.is_full = True
            world.spawn("cleaner", "cleaner", self._clean)
        else:
            targets = [each for each in world.processes if each.alive and each.kind == kind]
            if not targets:
                return
            target = targets[fault.number % len(targets)]
            if action == "stop":
                target.stopped_until_s = world.now_s + _STOPPED_S * (1 + fault.number % 10)
                return
            world.kill(target)
            client = self._clients.get(target)
            if client is not None and client.left and fault.number % 2:
                self._spawn(f"{target.name}'", client.left)

    def _freeze(self, fault: Fault, kind: str) -> None:
        """The coordinator stands still, others go on, and then it is killed, or the power is cut."""
        world = self.world
        target = next((each for each in world.processes if each.alive and each.kind == "coordinator"), None)
        frozen_s = _FROZEN_S * (1 + fault.number % 5)

        def end() -> None:
            world.sleep(frozen_s)
            if kind == "and cut power":
                self._cut_power()
            elif target is not None:
                world.kill(target)

        if target is not None:
            target.stopped_until_s = world.now_s + 2 * frozen_s
        world.spawn("fate", "fate", end)

    def _clean(self) -> None:
        self.world.sleep(_FULL_S)
        self.world.disk.is_full = False

    def _cut_power(self) -> None:
        self._cut = True
        for attempt in self._attempts:
            if attempt.status in ("committed", "aborted"):
                self._truth.tell(max(attempt.told, attempt.snapshot))
        self._truth.cut_power()
        self.world.plan({})
        self.world.crash()

    def _last_look(self) -> None:
        """A last process reads everything, and has the coordinator check itself."""
        world = self.world

        def look() -> None:
            client = Client(world, "last", [("snapshot", "last", 0.0, _ALL)], self._attempts)
            store = open_store(world)
            db = shoal.Database(store)
            world.problems += [("check()", text) for text in db.check()]
            log = shoal.EventLog(db)
            self._events += log.read_range(RUN, 0, 10_000)
            verified = log.verify_chain(RUN)
            if not verified:
                world.problems.append(("event chain", f"event {verified.first_invalid}: {verified.error}"))
            lists = Attempt("last lists", "list", world.steps, world.boot)
            kv = shoal.KVStore(db)
            world.step()
            lists.list_operations += [Operation("read", key, kv.get(RUN, key, [])) for key in plans.LISTS]
            lists.status, lists.end, lists.told = "committed", world.steps + 1, 0
            self._attempts.append(lists)
            world.step()
            if self._plan.has_fleet:
                self._last = look_at_last(store, db, world.sleep)
            db.close()
            client.run()

        world.plan({})
        world.kills_starter, world.disk.cut_in_sync, world.disk.failing_syncs = False, None, 0
        world.limit = world.steps + 60_000  # a check may be given up, and begins anew, nine times
        world.spawn("last", "client", look)
        world.run()


_ALL = [("scan", "k", None, 0.0), ("scan", "c", None, 0.0)] + [
    ("get", key, None, 0.0) for key in (*plans.KEYS, *plans.COUNTERS)
]
