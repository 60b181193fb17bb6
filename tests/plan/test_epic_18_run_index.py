"""Epic 18: the index of runs — lifecycle, transitions, queries, deletion, and how it goes with the other primitives."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace

import pytest

import shoal
from shoal import RunQuery, RunStatus, TraceType
from shoal.primitives.key_space import after
from shoal.primitives.run_types import decode_run, encode_run

_numbers = itertools.count()

ALLOWED = {
    RunStatus.Active: set(RunStatus) - {RunStatus.Active},
    RunStatus.Paused: {RunStatus.Active, RunStatus.Cancelled, RunStatus.Archived},
    RunStatus.Completed: {RunStatus.Archived},
    RunStatus.Failed: {RunStatus.Archived},
    RunStatus.Cancelled: {RunStatus.Archived},
    RunStatus.Archived: set(),
}


class Stores:
    """One facade of each kind, on a namespace of its own."""

    def __init__(self, db: shoal.Database) -> None:
        self.db, self.namespace = db, shoal.Namespace(app=f"epic-18-{next(_numbers)}")
        self.kv, self.events = shoal.KVStore(db, namespace=self.namespace), shoal.EventLog(db, namespace=self.namespace)
        self.state, self.traces = (
            shoal.StateCell(db, namespace=self.namespace),
            shoal.TraceStore(db, namespace=self.namespace),
        )
        self.runs = shoal.RunIndex(db, namespace=self.namespace)

    def raw_keys(self) -> list[bytes]:
        """Every key of the namespace as the engine has it."""
        prefix = self.namespace.prefix()
        return [key for key, _ in self.db.engine.scan(prefix, after(prefix))]

    def fill(self, run_id: str) -> None:
        """Something in every primitive."""
        self.kv.put(run_id, "key", "value")
        self.events.append(run_id, "event", {"n": 1})
        self.state.init(run_id, "cell", 1)
        self.traces.record(run_id, TraceType.Thought("why"), id="trace", tags=["t"])


@pytest.fixture
def of(memory_db: shoal.Database) -> Stores:
    """Facades of the shared store on a namespace no other test uses."""
    return Stores(memory_db)


@pytest.fixture
def runs(of: Stores) -> shoal.RunIndex:
    """An empty index of runs."""
    return of.runs


def _run_of(runs: shoal.RunIndex, run_id: str, status: RunStatus) -> shoal.RunMetadata:
    """A run brought to ``status``."""
    run = runs.create_run(run_id=run_id)
    return run if status is RunStatus.Active else runs.update_status(run_id, status)


def _ids(found: list[shoal.RunMetadata]) -> list[str]:
    return [run.run_id for run in found]


# Story 191: core and structures


def test_191_run_status_variants_serialize_and_deserialize() -> None:
    """Every status is the same object after a pickle and after its trip through a record."""
    run = shoal.RunMetadata("r", None, RunStatus.Active, 1, 2, None, [], None, None)
    for status in RunStatus:
        assert pickle.loads(pickle.dumps(status)) is status
        assert decode_run("r", encode_run(replace(run, status=status))).status is status
    assert [status.name for status in RunStatus] == ["Active", "Completed", "Failed", "Cancelled", "Paused", "Archived"]


def test_191_run_metadata_serializes_and_deserializes() -> None:
    """All fields are what they were after a pickle and after the trip through a record."""
    run = shoal.RunMetadata(
        "r", "p", RunStatus.Failed, 1, 2, 3, ["a", "\0b"], {"deep": [1, {"x": b"y"}]}, "broke \ud800"
    )
    assert pickle.loads(pickle.dumps(run)) == run
    assert decode_run("r", encode_run(run)) == run


def test_191_run_index_new_creates_instance(memory_db: shoal.Database) -> None:
    """A facade takes a database, and a namespace if one likes."""
    assert shoal.RunIndex(memory_db).namespace == shoal.Namespace()
    space = shoal.Namespace(tenant="acme")
    assert shoal.RunIndex(memory_db, namespace=space).namespace == space


# Story 192: create and get


def test_192_create_run_creates_active_run(runs: shoal.RunIndex) -> None:
    """A new run is Active, with a made id, no parent, no tags, and both times the same."""
    run = runs.create_run()
    assert run.status is RunStatus.Active
    assert len(run.run_id) == 36
    assert (run.parent_run, run.tags, run.metadata, run.error, run.completed_at) == (None, [], None, None, None)
    assert run.created_at == run.updated_at > 1_600_000_000_000


def test_192_create_run_with_options_uses_custom_run_id(runs: shoal.RunIndex) -> None:
    """The id given is the id used, with the tags and metadata given."""
    run = runs.create_run_with_options(shoal.CreateRunOptions(run_id="mine", tags=("b", "a"), metadata={"m": 1}))
    assert (run.run_id, run.tags, run.metadata) == ("mine", ["b", "a"], {"m": 1})


def test_192_create_run_with_options_links_to_parent(runs: shoal.RunIndex) -> None:
    """The child names its parent and the parent lists its child."""
    runs.create_run(run_id="parent")
    child = runs.create_run_with_options(shoal.CreateRunOptions(parent_run="parent"))
    assert child.parent_run == "parent"
    assert runs.get_child_runs("parent") == [child]


def test_192_get_run_returns_metadata(runs: shoal.RunIndex) -> None:
    """get_run says exactly what create_run returned."""
    run = runs.create_run(tags=["t"], metadata={"steps": (1, 2)})
    assert runs.get_run(run.run_id) == run


def test_192_get_run_returns_none_if_not_found(runs: shoal.RunIndex) -> None:
    """A run nobody registered is None."""
    assert runs.get_run("nobody") is None


# Story 193: status and transitions


@pytest.mark.parametrize(("before", "status"), [(b, s) for b in RunStatus for s in RunStatus if s in ALLOWED[b]])
def test_193_valid_transitions_succeed(runs: shoal.RunIndex, before: RunStatus, status: RunStatus) -> None:
    """Each allowed transition gives the new status, stored, and found by the index of that status alone."""
    _run_of(runs, "r", before)
    run = runs.update_status("r", status)
    assert run.status is status
    assert runs.get_run("r") == run
    for other in RunStatus:
        assert _ids(runs.query_runs(RunQuery(status=other))) == (["r"] if other is status else [])


@pytest.mark.parametrize(("before", "status"), [(b, s) for b in RunStatus for s in RunStatus if s not in ALLOWED[b]])
def test_193_invalid_transitions_fail_with_error(runs: shoal.RunIndex, before: RunStatus, status: RunStatus) -> None:
    """Each other transition is an error that names both statuses, and changes nothing."""
    run = _run_of(runs, "r", before)
    with pytest.raises(shoal.InvalidStatusTransitionError, match=f"{before.name}.*{status.name}") as caught:
        runs.update_status("r", status)
    assert (caught.value.from_status, caught.value.to_status) == (before, status)
    assert runs.get_run("r") == run


def test_193_complete_run_sets_completed_status(runs: shoal.RunIndex) -> None:
    """Completed, with the moment of it."""
    runs.create_run(run_id="r")
    run = runs.complete_run("r")
    assert run.status is RunStatus.Completed
    assert run.completed_at == run.updated_at >= run.created_at
    assert run.error is None


def test_193_fail_run_sets_failed_status_with_error_message(runs: shoal.RunIndex) -> None:
    """Failed, with what went wrong and when."""
    runs.create_run(run_id="r")
    run = runs.fail_run("r", "no such tool")
    assert (run.status, run.error) == (RunStatus.Failed, "no such tool")
    assert run.completed_at == run.updated_at
    assert runs.get_run("r") == run


def test_193_no_resurrection_completed_to_active_fails(runs: shoal.RunIndex) -> None:
    """What has ended does not become Active again."""
    runs.create_run(run_id="r")
    runs.complete_run("r")
    with pytest.raises(shoal.InvalidStatusTransitionError):
        runs.resume_run("r")


def test_193_archived_is_terminal(runs: shoal.RunIndex) -> None:
    """No status follows Archived, not even itself."""
    _run_of(runs, "r", RunStatus.Archived)
    for status in RunStatus:
        with pytest.raises(shoal.InvalidStatusTransitionError):
            runs.update_status("r", status)


# Story 194: queries


def test_194_query_runs_filters_by_status(runs: shoal.RunIndex) -> None:
    """Only the runs of that status, in the order they were made."""
    for number, status in enumerate([RunStatus.Active, RunStatus.Completed, RunStatus.Active, RunStatus.Paused]):
        _run_of(runs, f"r{number}", status)
    assert _ids(runs.query_runs(RunQuery(status=RunStatus.Active))) == ["r0", "r2"]
    assert _ids(runs.query_runs(RunQuery(status=RunStatus.Failed))) == []


def test_194_query_runs_filters_by_tag(runs: shoal.RunIndex) -> None:
    """Only the runs that have the tag; of several tags, all of them."""
    runs.create_run(run_id="ab", tags=["a", "b"])
    runs.create_run(run_id="b", tags=["b"])
    runs.create_run(run_id="none")
    assert _ids(runs.query_runs(RunQuery(tags=["b"]))) == ["ab", "b"]
    assert _ids(runs.query_runs(RunQuery(tags=["b", "a"]))) == ["ab"]
    assert _ids(runs.query_runs(RunQuery(tags=["a", "c"]))) == []


def test_194_query_runs_filters_by_time_range(of: Stores) -> None:
    """``created_after`` is inclusive, ``created_before`` exclusive."""
    for moment in (1000, 2000, 3000):
        run = shoal.RunMetadata(f"r{moment}", None, RunStatus.Active, moment, moment, None, ["t"], None, None)
        of.db.transact("r", lambda txn, run=run: txn.runs.restore_run(run), namespace=of.namespace)
    for more in ({}, {"tags": ["t"]}, {"status": RunStatus.Active}):
        assert _ids(of.runs.query_runs(RunQuery(created_after=2000, **more))) == ["r2000", "r3000"]
        assert _ids(of.runs.query_runs(RunQuery(created_before=2000, **more))) == ["r1000"]
        assert _ids(of.runs.query_runs(RunQuery(created_after=1001, created_before=3000, **more))) == ["r2000"]


def test_194_query_runs_excludes_archived_by_default(runs: shoal.RunIndex) -> None:
    """An archived run is found with include_archived, or if its status is asked for."""
    _run_of(runs, "active", RunStatus.Active)
    _run_of(runs, "archived", RunStatus.Archived)
    assert _ids(runs.query_runs(RunQuery())) == ["active"]
    assert _ids(runs.query_runs(RunQuery(include_archived=True))) == ["active", "archived"]
    assert _ids(runs.query_runs(RunQuery(status=RunStatus.Archived))) == ["archived"]


def test_194_list_runs_returns_all_ids(runs: shoal.RunIndex) -> None:
    """Every registered id, archived ones too, in the order they were made."""
    assert runs.list_runs() == []
    made = [runs.create_run().run_id for _ in range(5)]
    runs.archive_run(made[2])
    assert runs.list_runs() == made


def test_194_get_child_runs_returns_forked_runs(of: Stores) -> None:
    """Forks and created children, not grandchildren."""
    of.runs.create_run(run_id="parent")
    fork = of.runs.fork_run("parent")
    child = of.runs.create_run(parent_run="parent")
    of.runs.fork_run(fork.run_id)
    assert _ids(of.runs.get_child_runs("parent")) == [fork.run_id, child.run_id]


def test_194_get_stats_returns_correct_counts(runs: shoal.RunIndex) -> None:
    """Each status counted, archived ones in the total, too."""
    assert runs.get_stats() == shoal.RunStats(0, 0, 0, 0, 0, 0, 0)
    for count, status in enumerate(RunStatus, 1):
        for number in range(count):
            _run_of(runs, f"{status.name}-{number}", status)
    assert runs.get_stats() == shoal.RunStats(
        total_runs=21,
        active_runs=1,
        completed_runs=2,
        failed_runs=3,
        cancelled_runs=4,
        paused_runs=5,
        archived_runs=6,
    )


# Story 195: delete and archive


@pytest.fixture
def deleted(of: Stores) -> Stores:
    """A store where run ``r``, with something in everything, has been deleted and ``other`` has not."""
    for run_id in ("r", "other"):
        of.runs.create_run(run_id=run_id, tags=["t"])
        of.fill(run_id)
    of.runs.delete_run("r")
    return of


def test_195_delete_run_removes_run_metadata(deleted: Stores) -> None:
    """The run is not registered any more; the other one is."""
    assert deleted.runs.get_run("r") is None
    assert deleted.runs.get_run("other") is not None


def test_195_delete_run_removes_all_kv_data(deleted: Stores) -> None:
    """No key is left of it."""
    assert deleted.kv.list("r") == []
    assert deleted.kv.list("other") == ["key"]


def test_195_delete_run_removes_all_events(deleted: Stores) -> None:
    """Its log is empty, and starts at 0 again."""
    assert deleted.events.is_empty("r")
    assert deleted.events.read_by_type("r", "event") == []
    assert deleted.events.append("r", "event", 1).sequence == 0
    assert deleted.events.len("other") == 1


def test_195_delete_run_removes_all_states(deleted: Stores) -> None:
    """No cell is left, nor the memory of its versions."""
    assert deleted.state.list("r") == []
    assert deleted.state.init("r", "cell", 1) == 1
    assert deleted.state.list("other") == ["cell"]


def test_195_delete_run_removes_all_traces(deleted: Stores) -> None:
    """No trace is left, and no index of one."""
    assert deleted.traces.list("r") == []
    assert deleted.traces.query_by_tag("r", "t") == []
    assert deleted.traces.count("other") == 1


def test_195_delete_run_removes_all_indices(deleted: Stores) -> None:
    """No index finds the run; nothing of it is left among the keys as they are stored."""
    assert _ids(deleted.runs.query_runs(RunQuery(tags=["t"]))) == ["other"]
    assert _ids(deleted.runs.query_runs(RunQuery(status=RunStatus.Active))) == ["other"]
    assert deleted.runs.list_runs() == ["other"]
    deleted.runs.delete_run("other")
    assert deleted.raw_keys() == []


def test_195_archive_run_sets_archived_status(runs: shoal.RunIndex) -> None:
    """Archived, and not completed by that."""
    runs.create_run(run_id="r")
    run = runs.archive_run("r")
    assert (run.status, run.completed_at) == (RunStatus.Archived, None)


def test_195_archived_run_data_still_accessible(of: Stores) -> None:
    """All of an archived run can still be read."""
    of.runs.create_run(run_id="r")
    of.fill("r")
    of.runs.archive_run("r")
    assert of.kv.get("r", "key") == "value"
    assert of.events.read("r", 0).payload == {"n": 1}
    assert of.state.read("r", "cell").value == 1
    assert of.traces.get("r", "trace").trace_type == TraceType.Thought("why")


# Story 196: integration


def test_196_full_run_lifecycle(of: Stores) -> None:
    """Created, filled, paused, resumed, completed, archived: every step as told, the data readable throughout."""
    of.runs.create_run(run_id="r")
    of.fill("r")
    assert of.runs.pause_run("r").status is RunStatus.Paused
    assert of.runs.resume_run("r").status is RunStatus.Active
    completed = of.runs.complete_run("r")
    assert of.kv.get("r", "key") == "value"
    archived = of.runs.archive_run("r")
    assert (archived.status, archived.completed_at) == (RunStatus.Archived, completed.completed_at)
    assert of.kv.get("r", "key") == "value"
    assert of.events.verify_chain("r").is_valid
    assert of.state.read("r", "cell").version == 1
    assert of.traces.list("r") == ["trace"]


def test_196_cascading_delete_removes_all_data(of: Stores) -> None:
    """A run, its children and theirs are gone with everything in them; nothing is left among the stored keys."""
    of.runs.create_run(run_id="root", tags=["t"])
    of.fill("root")
    of.runs.fork_run("root", new_run_id="fork")
    of.runs.create_run(run_id="below", parent_run="fork", tags=["t"])
    of.fill("below")
    of.runs.delete_run("root", cascade_children=True)
    assert of.runs.list_runs() == []
    assert of.raw_keys() == []


def test_196_run_forking_creates_independent_runs(of: Stores) -> None:
    """A fork has what its parent had; after that neither sees what the other writes."""
    of.runs.create_run(run_id="parent")
    of.fill("parent")
    child = of.runs.fork_run("parent", new_run_id="child")
    assert (child.parent_run, child.status) == ("parent", RunStatus.Active)
    of.kv.put("parent", "key", "later")
    of.events.append("parent", "event", 2)
    of.state.set("child", "cell", 9)
    assert of.kv.get("child", "key") == "value"
    assert (of.events.len("child"), of.events.len("parent")) == (1, 2)
    assert (of.state.read("child", "cell").version, of.state.read("parent", "cell").version) == (2, 1)
    assert of.traces.get("child", "trace") == of.traces.get("parent", "trace")
    assert of.runs.get_child_runs("parent") == [child]


def test_196_status_transitions_enforced_across_all_operations(runs: shoal.RunIndex) -> None:
    """Every status method keeps to the table."""
    methods = {
        RunStatus.Completed: runs.complete_run,
        RunStatus.Failed: lambda run_id: runs.fail_run(run_id, "error"),
        RunStatus.Paused: runs.pause_run,
        RunStatus.Active: runs.resume_run,
        RunStatus.Cancelled: runs.cancel_run,
        RunStatus.Archived: runs.archive_run,
    }
    for before in RunStatus:
        for status, method in methods.items():
            run_id = f"{before.name}-{status.name}"
            _run_of(runs, run_id, before)
            if status in ALLOWED[before]:
                assert method(run_id).status is status
            else:
                with pytest.raises(shoal.InvalidStatusTransitionError):
                    method(run_id)
                assert runs.get_run(run_id).status is before
