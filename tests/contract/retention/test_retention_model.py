"""Trims, policies and passes in any order, against a plain model: events, trees of traces, tasks, a table of runs."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

import shoal
from shoal import RetentionPolicy, TaskStatus
from tests.support.upkeep import LEAST_SLICE, append_at, archive_at, do_pass, put_task_at, record_at

BEGIN = 1_900_000_000_000
RUNS = ("a", "b", "ç", "d" * 128)


class _Log(NamedTuple):
    timestamps: list[int]
    anchors: list[shoal.Anchor]


class Model:
    """What a store must hold, in plain Python."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.policies: dict[str | None, RetentionPolicy] = {}
        self.logs = {run: _Log([], []) for run in RUNS}
        self.first = dict.fromkeys(RUNS, 0)
        self.traces: dict[str, dict[str, tuple[str | None, int]]] = {run: {} for run in RUNS}
        self.tasks: dict[str, dict[str, tuple[TaskStatus, int]]] = {run: {} for run in RUNS}
        self.archived: dict[str, int] = {}

    def forget(self, run: str) -> None:
        """The run is gone with all it had."""
        self.logs[run], self.first[run], self.traces[run], self.tasks[run] = _Log([], []), 0, {}, {}
        self.policies.pop(run, None)
        self.archived.pop(run, None)

    def do_pass(self) -> None:
        """Remove what no policy keeps."""
        for run in RUNS:
            policy = self.policies.get(run, self.policies.get(None))
            if policy is None:
                continue
            if self._is_old(policy.archived_age, self.archived.get(run)):
                self.forget(run)
                continue
            timestamps = self.logs[run].timestamps
            if policy.events is not None:
                self.first[run] = max(self.first[run], len(timestamps) - policy.events)
            while self.first[run] < len(timestamps) and self._is_old(policy.event_age, timestamps[self.first[run]]):
                self.first[run] += 1
            traces = self.traces[run]
            kept: set[str] = set()
            for trace_id, (_, timestamp) in traces.items():
                above: str | None = None if self._is_old(policy.trace_age, timestamp) else trace_id
                while above is not None:
                    kept.add(above)
                    above = traces[above][0]
            self.traces[run] = {trace_id: traces[trace_id] for trace_id in kept}
            age = None if policy.task_age is None else max(2.0, float(policy.task_age))  # type: ignore[arg-type]
            gone = [
                task_id
                for task_id, (status, ended) in self.tasks[run].items()
                if status is not TaskStatus.Ready and self._is_old(age, ended)
            ]
            for task_id in gone:
                del self.tasks[run][task_id]

    def _is_old(self, age: object, timestamp: int | None) -> bool:
        assert age is None or isinstance(age, float)
        return age is not None and timestamp is not None and timestamp <= self.now - int(age * 1000)


class Checked:
    """A store and its model, changed together."""

    def __init__(self, db: shoal.Database, space: shoal.Namespace, seed: int) -> None:
        self.db, self.space, self.random, self.model = db, space, random.Random(seed), Model()
        self.log = shoal.EventLog(db, namespace=space)
        self.traces = shoal.TraceStore(db, namespace=space)
        self.queue = shoal.TaskQueue(db, namespace=space)
        self.runs = shoal.RunIndex(db, namespace=space)

    def step(self) -> None:
        """One change of the store and the model."""
        chance, model = self.random, self.model
        model.now += chance.choice((0, 1, 1_000, 60_000))
        run = chance.choice(RUNS)
        step = chance.choice((self.append, self.append, self.trim, self.record, self.put, self.set, self.archive))
        step(run)
        if chance.random() < 0.2:
            most = chance.choice((LEAST_SLICE, 20, 100, 10_000))
            slices = do_pass(self.db, model.now, most, self.check_whole)
            model.do_pass()
            self.check()
            assert slices == 1 or most < 10_000

    def append(self, run: str) -> None:
        types = [self.random.choice("xyz") for _ in range(self.random.choice((1, 1, 3, 60)))]
        append_at(self.db, self.space, run, self.model.now, *types)
        log = self.model.logs[run]
        log.timestamps.extend([self.model.now] * len(types))
        log.anchors.append(self.log.anchor(run))

    def trim(self, run: str) -> None:
        length, first = len(self.model.logs[run].timestamps), self.model.first[run]
        before = self.random.randint(-1, length + 2)
        self.model.first[run] = max(first, min(before, length))
        assert self.log.trim(run, before) == self.model.first[run] - first

    def record(self, run: str) -> None:
        traces = self.model.traces[run]
        for _ in range(self.random.choice((1, 12))):
            parent = self.random.choice([None, *traces])
            trace_id = f"{len(traces)} {self.random.random()}"
            timestamp = self.model.now - self.random.choice((0, 0, 30_000))  # a clock may be set back
            record_at(self.db, self.space, run, timestamp, trace_id, parent)
            traces[trace_id] = (parent, timestamp)

    def put(self, run: str) -> None:
        for _ in range(self.random.choice((1, 12))):
            status = self.random.choice((TaskStatus.Ready, TaskStatus.Done, TaskStatus.Dead, TaskStatus.Cancelled))
            put_at, queue = self.model.now - self.random.choice((0, 50_000)), self.random.choice(("q", "r"))
            task_id = put_task_at(self.db, self.space, run, queue, status, self.model.now, put_at)
            self.model.tasks[run][task_id] = status, self.model.now

    def set(self, run: str) -> None:
        chance = self.random
        ages = [chance.choice((None, 0, 0.001, 60.5, 200)) for _ in range(4)]
        policy = RetentionPolicy(chance.choice((None, 0, 1, 45, 200)), *ages)
        where = chance.choice((run, None))
        if chance.random() < 0.2:
            self.model.policies.pop(where, None)
            self.runs.set_retention(None, where)
        else:
            self.model.policies[where] = policy
            self.runs.set_retention(policy, where)

    def archive(self, run: str) -> None:
        if run not in self.model.archived and self.random.random() < 0.5:
            archive_at(self.db, self.space, run, self.model.now)
            self.model.archived[run] = self.model.now
            self.model.logs[run], self.model.first[run] = _Log([], []), 0
            self.model.traces[run], self.model.tasks[run] = {}, {}
            self.model.policies.pop(run, None)

    def check_whole(self) -> None:
        """After any slice every log verifies and every trace has its parent."""
        for run in RUNS:
            assert self.log.verify_chain(run), self.log.verify_chain(run)
            for trace_id in self.traces.list(run):
                trace = self.traces.get(run, trace_id)
                assert trace is not None
                assert trace.parent_id is None or self.traces.get(run, trace.parent_id) is not None

    def check(self) -> None:
        """The store is as the model."""
        model = self.model
        assert sorted(self.runs.list_runs()) == sorted(model.archived)
        for run in RUNS:
            first, log = model.first[run], model.logs[run]
            length = len(log.timestamps)
            assert (self.log.first_sequence(run), self.log.len(run)) == (first, length)
            events = list(self.log.iter(run))
            assert [(event.sequence, event.timestamp) for event in events] == [
                *zip(range(first, length), log.timestamps[first:], strict=True)
            ]
            for event_type in "xyz":
                assert self.log.read_by_type(run, event_type) == [it for it in events if it.event_type == event_type]
            for anchor in log.anchors:
                assert self.log.verify_chain(run, anchor).is_valid == (anchor.length >= first)
            assert {trace_id: self._of(run, trace_id) for trace_id in self.traces.list(run)} == model.traces[run]
            assert len(self.traces.query_by_tag(run, "a")) == len(model.traces[run])
            tasks = {info.id: info.status for queue in ("q", "r") for info in self.queue.list(run, queue)}
            assert tasks == {task_id: status for task_id, (status, _) in model.tasks[run].items()}
            counts = [self.queue.stats(run, queue) for queue in ("q", "r")]
            assert sum(each.done for each in counts) == list(tasks.values()).count(TaskStatus.Done)
            assert sum(each.ready for each in counts) == list(tasks.values()).count(TaskStatus.Ready)
            assert self.runs.get_retention(run) == model.policies.get(run, model.policies.get(None))

    def _of(self, run: str, trace_id: str) -> tuple[str | None, int]:
        trace = self.traces.get(run, trace_id)
        assert trace is not None
        return trace.parent_id, trace.timestamp


@pytest.mark.parametrize("steps", [40, pytest.param(1_500, marks=pytest.mark.slow)])
def test_against_a_model(toy_fleet_db: shoal.Database, space: shoal.Namespace, steps: int) -> None:
    """Whatever is done in which order, and however large the slices: a pass leaves what the model keeps."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    checked = Checked(toy_fleet_db, space, seed)
    for _ in range(steps):
        checked.step()
    checked.runs.set_retention(None)
    checked.model.policies.pop(None, None)
    do_pass(toy_fleet_db, checked.model.now, 10_000)
    checked.model.do_pass()
    checked.check()
