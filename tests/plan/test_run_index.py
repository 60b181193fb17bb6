"""Acceptance of ``RunIndex``: metadata, status and queries. Each test is a line of docs/acceptance.md."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

import shoal
from shoal import RunQuery, RunStatus
from shoal.primitives.run_types import decode_run, encode_run
from shoal.primitives.views.runs import restore
from tests.support.primitives.run_indices import ALLOWED, Stores, ids_of, run_of, stores_of_space  # noqa: F401 (a fixture)

# Story 191: core and structures


def test_26_run_status_variants_serialize_and_deserialize() -> None:
    """Every run status is the same object after a pickle and after it was stored."""
    run = shoal.RunMetadata("r", None, RunStatus.Active, 1, 2, None, [], None, None)
    for status in RunStatus:
        assert pickle.loads(pickle.dumps(status)) is status
        assert decode_run("r", encode_run(replace(run, status=status))).status is status
    assert [status.name for status in RunStatus] == ["Active", "Completed", "Failed", "Cancelled", "Paused", "Archived"]


def test_26_run_metadata_serializes_and_deserializes() -> None:
    """Every field of a run's metadata is the same after a pickle and after it was stored."""
    run = shoal.RunMetadata(
        "r", "p", RunStatus.Failed, 1, 2, 3, ["a", "\0b"], {"deep": [1, {"x": b"y"}]}, "broke \ud800"
    )
    assert pickle.loads(pickle.dumps(run)) == run
    assert decode_run("r", encode_run(run)) == run


def test_26_run_index_new_creates_instance(memory_db: shoal.Database) -> None:
    """``RunIndex`` takes a database and, if wanted, a namespace."""
    assert shoal.RunIndex(memory_db).namespace == shoal.Namespace()
    space = shoal.Namespace(tenant="acme")
    assert shoal.RunIndex(memory_db, namespace=space).namespace == space


# Story 192: create and get


def test_27_create_run_creates_active_run(runs: shoal.RunIndex) -> None:
    """``create_run`` makes an Active run with a new id, no parent, no tags, and both times equal."""
    run = runs.create_run()
    assert run.status is RunStatus.Active
    assert len(run.run_id) == 36
    assert (run.parent_run, run.tags, run.metadata, run.error, run.completed_at) == (None, [], None, None, None)
    assert run.created_at == run.updated_at > 1_600_000_000_000


def test_27_create_run_with_options_uses_custom_run_id(runs: shoal.RunIndex) -> None:
    """``create_run`` uses the id, tags and metadata that were given."""
    run = runs.create_run_with_options(shoal.CreateRunOptions(run_id="mine", tags=("b", "a"), metadata={"m": 1}))
    assert (run.run_id, run.tags, run.metadata) == ("mine", ["b", "a"], {"m": 1})


def test_27_create_run_with_options_links_to_parent(runs: shoal.RunIndex) -> None:
    """A child run names its parent, and the parent lists its child."""
    runs.create_run(run_id="parent")
    child = runs.create_run_with_options(shoal.CreateRunOptions(parent_run="parent"))
    assert child.parent_run == "parent"
    assert runs.get_child_runs("parent") == [child]


def test_27_get_run_returns_metadata(runs: shoal.RunIndex) -> None:
    """``get_run`` returns exactly what ``create_run`` returned."""
    run = runs.create_run(tags=["t"], metadata={"steps": (1, 2)})
    assert runs.get_run(run.run_id) == run


def test_27_get_run_returns_none_if_not_found(runs: shoal.RunIndex) -> None:
    """``get_run`` of a run that was never registered is None."""
    assert runs.get_run("nobody") is None


# Story 193: status and transitions


@pytest.mark.parametrize(("before", "status"), [(b, s) for b in RunStatus for s in RunStatus if s in ALLOWED[b]])
def test_28_valid_transitions_succeed(runs: shoal.RunIndex, before: RunStatus, status: RunStatus) -> None:
    """Each allowed status change is stored and found by the index of the new status alone."""
    run_of(runs, "r", before)
    run = runs.update_status("r", status)
    assert run.status is status
    assert runs.get_run("r") == run
    for other in RunStatus:
        assert ids_of(runs.query_runs(RunQuery(status=other))) == (["r"] if other is status else [])


@pytest.mark.parametrize(("before", "status"), [(b, s) for b in RunStatus for s in RunStatus if s not in ALLOWED[b]])
def test_28_invalid_transitions_fail_with_error(runs: shoal.RunIndex, before: RunStatus, status: RunStatus) -> None:
    """Each other status change raises an error that names both statuses, and changes nothing."""
    run = run_of(runs, "r", before)
    with pytest.raises(shoal.InvalidStatusTransitionError, match=f"{before.name}.*{status.name}") as caught:
        runs.update_status("r", status)
    assert (caught.value.from_status, caught.value.to_status) == (before, status)
    assert runs.get_run("r") == run


def test_28_complete_run_sets_completed_status(runs: shoal.RunIndex) -> None:
    """``complete_run`` sets Completed, and the time of it."""
    runs.create_run(run_id="r")
    run = runs.complete_run("r")
    assert run.status is RunStatus.Completed
    assert run.completed_at == run.updated_at >= run.created_at
    assert run.error is None


def test_28_fail_run_sets_failed_status_with_error_message(runs: shoal.RunIndex) -> None:
    """``fail_run`` sets Failed, with the error's text and the time of it."""
    runs.create_run(run_id="r")
    run = runs.fail_run("r", "no such tool")
    assert (run.status, run.error) == (RunStatus.Failed, "no such tool")
    assert run.completed_at == run.updated_at
    assert runs.get_run("r") == run


def test_28_no_resurrection_completed_to_active_fails(runs: shoal.RunIndex) -> None:
    """A run that has ended does not become Active again."""
    runs.create_run(run_id="r")
    runs.complete_run("r")
    with pytest.raises(shoal.InvalidStatusTransitionError):
        runs.resume_run("r")


def test_28_archived_is_terminal(runs: shoal.RunIndex) -> None:
    """No status follows Archived, not even Archived."""
    run_of(runs, "r", RunStatus.Archived)
    for status in RunStatus:
        with pytest.raises(shoal.InvalidStatusTransitionError):
            runs.update_status("r", status)


# Story 194: queries


def test_29_query_runs_filters_by_status(runs: shoal.RunIndex) -> None:
    """A query by status returns only the runs of that status, in the order they were made."""
    for number, status in enumerate([RunStatus.Active, RunStatus.Completed, RunStatus.Active, RunStatus.Paused]):
        run_of(runs, f"r{number}", status)
    assert ids_of(runs.query_runs(RunQuery(status=RunStatus.Active))) == ["r0", "r2"]
    assert ids_of(runs.query_runs(RunQuery(status=RunStatus.Failed))) == []


def test_29_query_runs_filters_by_tag(runs: shoal.RunIndex) -> None:
    """A query by tags returns only the runs that have all of them."""
    runs.create_run(run_id="ab", tags=["a", "b"])
    runs.create_run(run_id="b", tags=["b"])
    runs.create_run(run_id="none")
    assert ids_of(runs.query_runs(RunQuery(tags=["b"]))) == ["ab", "b"]
    assert ids_of(runs.query_runs(RunQuery(tags=["b", "a"]))) == ["ab"]
    assert ids_of(runs.query_runs(RunQuery(tags=["a", "c"]))) == []


def test_29_query_runs_filters_by_time_range(of: Stores) -> None:
    """In a query by time, ``created_after`` is inclusive and ``created_before`` exclusive."""
    for moment in (1000, 2000, 3000):
        run = shoal.RunMetadata(f"r{moment}", None, RunStatus.Active, moment, moment, None, ["t"], None, None)
        with of.db.transaction("r", namespace=of.namespace) as txn:
            restore(txn.runs, run)
    for more in ({}, {"tags": ["t"]}, {"status": RunStatus.Active}):
        assert ids_of(of.runs.query_runs(RunQuery(created_after=2000, **more))) == ["r2000", "r3000"]
        assert ids_of(of.runs.query_runs(RunQuery(created_before=2000, **more))) == ["r1000"]
        assert ids_of(of.runs.query_runs(RunQuery(created_after=1001, created_before=3000, **more))) == ["r2000"]


def test_29_query_runs_excludes_archived_by_default(runs: shoal.RunIndex) -> None:
    """A query finds an archived run only with ``include_archived``, or if Archived is asked for."""
    run_of(runs, "active", RunStatus.Active)
    run_of(runs, "archived", RunStatus.Archived)
    assert ids_of(runs.query_runs(RunQuery())) == ["active"]
    assert ids_of(runs.query_runs(RunQuery(include_archived=True))) == ["active", "archived"]
    assert ids_of(runs.query_runs(RunQuery(status=RunStatus.Archived))) == ["archived"]


def test_29_list_runs_returns_all_ids(runs: shoal.RunIndex) -> None:
    """``list_runs`` returns every registered id, archived runs too, in the order they were made."""
    assert runs.list_runs() == []
    made = [runs.create_run().run_id for _ in range(5)]
    runs.archive_run(made[2])
    assert runs.list_runs() == made


def test_29_get_child_runs_returns_forked_runs(of: Stores) -> None:
    """``get_child_runs`` returns forks and created children, not grandchildren."""
    of.runs.create_run(run_id="parent")
    fork = of.runs.fork_run("parent")
    child = of.runs.create_run(parent_run="parent")
    of.runs.fork_run(fork.run_id)
    assert ids_of(of.runs.get_child_runs("parent")) == [fork.run_id, child.run_id]


def test_29_get_stats_returns_correct_counts(runs: shoal.RunIndex) -> None:
    """``get_stats`` counts each status, and archived runs in the total."""
    assert runs.get_stats() == shoal.RunStats(0, 0, 0, 0, 0, 0, 0)
    for count, status in enumerate(RunStatus, 1):
        for number in range(count):
            run_of(runs, f"{status.name}-{number}", status)
    assert runs.get_stats() == shoal.RunStats(
        total_runs=21,
        active_runs=1,
        completed_runs=2,
        failed_runs=3,
        cancelled_runs=4,
        paused_runs=5,
        archived_runs=6,
    )
