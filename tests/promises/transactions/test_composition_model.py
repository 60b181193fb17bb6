"""All primitives, alone and composed, against plain dicts: random namespaces, runs and nasty text."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import shoal
from shoal import Namespace, RunStatus, TraceType

# Names chosen to reach into each other if lengths were forgotten.
NAMES = st.sampled_from(["a", "b", "a\0", "a\0b", "__idx_type__", "\x01", "\uffff", "é", "a" * 1024, "😀"])
RUNS = st.sampled_from(["r", "r\0", "rr", "\x05", "é"])
NAMESPACES = st.sampled_from([Namespace(), Namespace(tenant="default\x07"), Namespace(agent="a\0")])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
TAGS = st.lists(st.sampled_from(["t", "t\0", "u"]), unique=True, max_size=2)
STATUSES = st.sampled_from(list(RunStatus))
ALLOWED = {
    RunStatus.Active: set(RunStatus) - {RunStatus.Active},
    RunStatus.Paused: {RunStatus.Active, RunStatus.Cancelled, RunStatus.Archived},
    RunStatus.Completed: {RunStatus.Archived},
    RunStatus.Failed: {RunStatus.Archived},
    RunStatus.Cancelled: {RunStatus.Archived},
    RunStatus.Archived: set(),
}


class Model:
    """What one run holds, and the runs of its namespace."""

    def __init__(self) -> None:
        self.kv: dict[str, Any] = {}
        self.events: list[tuple[str, Any]] = []
        self.cells: dict[str, tuple[Any, int]] = {}
        self.last_versions: dict[str, int] = {}
        self.traces: dict[str, tuple[str | None, str, list[str]]] = {}


OPERATIONS = st.one_of(
    st.tuples(st.just("kv_put"), NAMES, VALUES),
    st.tuples(st.just("kv_delete"), NAMES),
    st.tuples(st.just("kv_increment"), NAMES, st.integers(-5, 5)),
    st.tuples(st.just("append"), NAMES, VALUES),
    st.tuples(st.just("append_many"), st.lists(st.tuples(NAMES, VALUES), max_size=3)),
    st.tuples(st.just("state_init"), NAMES, VALUES),
    st.tuples(st.just("state_set"), NAMES, VALUES),
    st.tuples(st.just("state_cas"), NAMES, st.integers(0, 4), VALUES),
    st.tuples(st.just("state_delete"), NAMES),
    st.tuples(st.just("state_transition"), NAMES, VALUES),
    st.tuples(st.just("record"), NAMES, st.none() | NAMES, st.sampled_from(["Thought", "Error"]), TAGS),
)


class Doing:
    """Does an operation on a view of a run and on its model, and compares what both say."""

    def __init__(self, view: Any, model: Model) -> None:
        self.view, self.model = view, model

    def do(self, operation: tuple[Any, ...]) -> None:
        """Whatever it is."""
        name, *arguments = operation
        getattr(self, name)(*arguments)

    def kv_put(self, key: str, value: Any) -> None:
        self.view.kv.put(key, value)
        self.model.kv[key] = value

    def kv_delete(self, key: str) -> None:
        assert self.view.kv.delete(key) is (key in self.model.kv)
        self.model.kv.pop(key, None)

    def kv_increment(self, key: str, by: int) -> None:
        current = self.model.kv.get(key, 0)
        if type(current) is not int:
            with pytest.raises(TypeError):
                self.view.kv.increment(key, by)
        elif not -(2**63) <= current + by <= 2**64 - 1:
            with pytest.raises(shoal.LimitExceededError):
                self.view.kv.increment(key, by)
        else:
            assert self.view.kv.increment(key, by) == current + by
            self.model.kv[key] = current + by

    def append(self, event_type: str, payload: Any) -> None:
        assert self.view.events.append(event_type, payload).sequence == len(self.model.events)
        self.model.events.append((event_type, payload))

    def append_many(self, events: list[tuple[str, Any]]) -> None:
        first = len(self.model.events)
        told = [appended.sequence for appended in self.view.events.append_many(events)]
        assert told == list(range(first, first + len(events)))
        self.model.events += events

    def _store(self, name: str, value: Any) -> int:
        version = self.model.last_versions.get(name, 0) + 1
        self.model.last_versions[name] = version
        self.model.cells[name] = (value, version)
        return version

    def state_init(self, name: str, value: Any) -> None:
        if name in self.model.cells:
            with pytest.raises(shoal.AlreadyExistsError):
                self.view.state.init(name, value)
        else:
            assert self.view.state.init(name, value) == self._store(name, value)

    def state_set(self, name: str, value: Any) -> None:
        assert self.view.state.set(name, value) == self._store(name, value)

    def state_cas(self, name: str, expected: int, value: Any) -> None:
        if name not in self.model.cells:
            with pytest.raises(shoal.NotFoundError):
                self.view.state.cas(name, expected, value)
        elif self.model.cells[name][1] != expected:
            with pytest.raises(shoal.CASConflictError):
                self.view.state.cas(name, expected, value)
        else:
            assert self.view.state.cas(name, expected, value) == self._store(name, value)

    def state_delete(self, name: str) -> None:
        assert self.view.state.delete(name) is (name in self.model.cells)
        self.model.cells.pop(name, None)

    def state_transition(self, name: str, value: Any) -> None:
        if name in self.model.cells:
            assert self.view.state.transition(name, lambda s: (value, s.version)) == self.model.cells[name][1]
            self._store(name, value)

    def record(self, identifier: str, parent: str | None, kind: str, tags: list[str]) -> None:
        trace_type = TraceType.Thought(identifier) if kind == "Thought" else TraceType.Error(identifier, "m", False)
        if identifier in self.model.traces:
            with pytest.raises(shoal.AlreadyExistsError):
                self.view.traces.record(trace_type, id=identifier, parent_id=parent, tags=tags)
        elif parent is not None and parent not in self.model.traces:
            with pytest.raises(shoal.NotFoundError):
                self.view.traces.record(trace_type, id=identifier, parent_id=parent, tags=tags)
        else:
            assert self.view.traces.record(trace_type, id=identifier, parent_id=parent, tags=tags) == identifier
            self.model.traces[identifier] = (parent, kind, tags)


class OfRun:
    """A facade's methods for one run: what ``txn.kv`` and its kin are in a transaction."""

    def __init__(self, facade: Any, run: str) -> None:
        self._facade, self._run = facade, run

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: getattr(self._facade, name)(self._run, *args, **options)


class Facades:
    """Every primitive of one run, each call by itself."""

    def __init__(self, db: shoal.Database, namespace: Namespace, run: str) -> None:
        self.kv = OfRun(shoal.KVStore(db, namespace=namespace), run)
        self.events = OfRun(shoal.EventLog(db, namespace=namespace), run)
        self.state = OfRun(shoal.StateCell(db, namespace=namespace), run)
        self.traces = OfRun(shoal.TraceStore(db, namespace=namespace), run)


def _agree(view: Any, model: Model) -> None:
    assert view.kv.list_with_values() == sorted(model.kv.items())
    found = view.events.read_range(0, 10**9)
    assert [(event.sequence, event.event_type, event.payload) for event in found] == [
        (i, *event) for i, event in enumerate(model.events)
    ]
    assert view.events.verify_chain().is_valid
    for event_type in {event_type for event_type, _ in model.events}:
        by_type = [event.sequence for event in view.events.read_by_type(event_type)]
        assert by_type == [i for i, (of, _) in enumerate(model.events) if of == event_type]
    assert view.state.list() == sorted(model.cells)
    for name, (value, version) in model.cells.items():
        cell = view.state.read(name)
        assert (cell.value, cell.version) == (value, version)
    assert set(view.traces.list()) == set(model.traces)
    for kind in ("Thought", "Error"):
        assert {t.id for t in view.traces.query_by_type(kind)} == {i for i, t in model.traces.items() if t[1] == kind}
    for tag in ("t", "t\0", "u"):
        assert {t.id for t in view.traces.query_by_tag(tag)} == {i for i, t in model.traces.items() if tag in t[2]}
    for parent in model.traces:
        children = {t.id for t in view.traces.get_children(parent)}
        assert children == {i for i, t in model.traces.items() if t[0] == parent}


class Composition(RuleBasedStateMachine):
    """Single calls, transactions that commit or not, forks, deletions; everything compared after each step."""

    db: shoal.Database
    machines = 0

    @initialize()
    def begin(self) -> None:
        """A fresh corner of the store: an app no other example uses."""
        Composition.machines += 1
        self.app = f"app-{Composition.machines}"
        self.models: dict[tuple[Namespace, str], Model] = {}
        self.registered: dict[Namespace, dict[str, tuple[RunStatus, str | None]]] = {}

    def _at(self, namespace: Namespace, run: str) -> tuple[Namespace, Model]:
        namespace = Namespace(namespace.tenant, self.app, namespace.agent)
        return namespace, self.models.setdefault((namespace, run), Model())

    @rule(namespace=NAMESPACES, run=RUNS, operation=OPERATIONS)
    def single_call(self, namespace: Namespace, run: str, operation: tuple[Any, ...]) -> None:
        """A facade's call, a commit of its own."""
        namespace, model = self._at(namespace, run)
        Doing(Facades(self.db, namespace, run), model).do(operation)

    @rule(
        namespace=NAMESPACES,
        steps=st.lists(st.tuples(RUNS, OPERATIONS), min_size=1, max_size=5),
        commits=st.booleans(),
    )
    def transaction(self, namespace: Namespace, steps: list[tuple[str, tuple[Any, ...]]], commits: bool) -> None:
        """Several on several runs: all or, with an exception, none; it reads its own writes."""
        namespace, _ = self._at(namespace, steps[0][0])
        touched = {run: copy.deepcopy(self._at(namespace, run)[1]) for run, _ in steps}

        class GaveUpError(Exception):
            pass

        try:
            with self.db.transaction(steps[0][0], namespace=namespace) as txn:
                for run, operation in steps:
                    Doing(txn.on(run), touched[run]).do(operation)
                for run, model in touched.items():
                    _agree(txn.on(run), model)
                if not commits:
                    raise GaveUpError
        except GaveUpError:
            return
        for run, model in touched.items():
            self.models[namespace, run] = model

    @rule(namespace=NAMESPACES, run=RUNS, parent=st.none() | RUNS)
    def create_run(self, namespace: Namespace, run: str, parent: str | None) -> None:
        """Only a new id, under a parent that is there."""
        namespace, _ = self._at(namespace, run)
        runs, index = self.registered.setdefault(namespace, {}), shoal.RunIndex(self.db, namespace=namespace)
        if run in runs:
            with pytest.raises(shoal.AlreadyExistsError):
                index.create_run(run_id=run, parent_run=parent)
        elif parent is not None and parent not in runs:
            with pytest.raises(shoal.NotFoundError):
                index.create_run(run_id=run, parent_run=parent)
        else:
            index.create_run(run_id=run, parent_run=parent)
            runs[run] = (RunStatus.Active, parent)

    @rule(namespace=NAMESPACES, run=RUNS, status=STATUSES)
    def update_status(self, namespace: Namespace, run: str, status: RunStatus) -> None:
        """The transition table, and nothing else."""
        namespace, _ = self._at(namespace, run)
        runs, index = self.registered.setdefault(namespace, {}), shoal.RunIndex(self.db, namespace=namespace)
        if run not in runs:
            with pytest.raises(shoal.NotFoundError):
                index.update_status(run, status)
        elif status not in ALLOWED[runs[run][0]]:
            with pytest.raises(shoal.InvalidStatusTransitionError):
                index.update_status(run, status)
        else:
            assert index.update_status(run, status).status is status
            runs[run] = (status, runs[run][1])

    @rule(namespace=NAMESPACES, run=RUNS, to=RUNS)
    def fork_run(self, namespace: Namespace, run: str, to: str) -> None:
        """A copy of everything, that goes its own way."""
        namespace, model = self._at(namespace, run)
        runs, index = self.registered.setdefault(namespace, {}), shoal.RunIndex(self.db, namespace=namespace)
        there = run in runs or self._holds_anything(model)
        if to in runs or self._holds_anything(self._at(namespace, to)[1]):
            with pytest.raises(shoal.AlreadyExistsError):
                index.fork_run(run, new_run_id=to)
        elif not there:
            with pytest.raises(shoal.NotFoundError):
                index.fork_run(run, new_run_id=to)
        else:
            index.fork_run(run, new_run_id=to)
            runs[to] = (RunStatus.Active, run)
            self.models[namespace, to] = copy.deepcopy(model)

    @rule(namespace=NAMESPACES, run=RUNS)
    def delete_run(self, namespace: Namespace, run: str) -> None:
        """Everything of it goes, versions of deleted cells included."""
        namespace, model = self._at(namespace, run)
        runs, index = self.registered.setdefault(namespace, {}), shoal.RunIndex(self.db, namespace=namespace)
        if run not in runs and not self._holds_anything(model):
            with pytest.raises(shoal.NotFoundError):
                index.delete_run(run)
        else:
            index.delete_run(run)
            runs.pop(run, None)
            del self.models[namespace, run]

    @staticmethod
    def _holds_anything(model: Model) -> bool:
        return bool(model.kv or model.events or model.last_versions or model.traces)

    @invariant()
    def store_and_models_agree(self) -> None:
        """Facades read what the models hold, in every run; the index of runs likewise."""
        for (namespace, run), model in self.models.items():
            _agree(Facades(self.db, namespace, run), model)
        for namespace, runs in self.registered.items():
            index = shoal.RunIndex(self.db, namespace=namespace)
            everything = index.query_runs(shoal.RunQuery(include_archived=True))
            found = {r.run_id: (r.status, r.parent_run) for r in everything}
            assert found == runs
            assert index.get_stats().total_runs == len(runs)


@pytest.fixture
def composition(memory_db: shoal.Database) -> type[Composition]:
    """The machine on the shared store."""
    Composition.db = memory_db
    return Composition


def _run(machine: type[Composition], examples: int, steps: int) -> None:
    limits = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(machine, settings=limits)


@pytest.mark.long
def test_primitives_compose_as_dicts_would(composition: type[Composition]) -> None:
    """Any sequence of calls and transactions leaves store and model alike."""
    _run(composition, 8, 12)


@pytest.mark.slow
def test_primitives_compose_as_dicts_would_for_long(composition: type[Composition]) -> None:
    """The same, many more and longer."""
    _run(composition, 400, 40)
