"""Acceptance of what ``RunIndex`` does with the data of a run: deletion, archives, forks.

Each test is a line of docs/acceptance.md.
"""

from __future__ import annotations

import pytest

import shoal
from shoal import RunQuery, RunStatus, TraceType
from tests.support.present import present
from tests.support.primitives.run_indices import ALLOWED, Stores, ids_of, run_of, stores_of_space  # noqa: F401 (a fixture)

# Story 195: delete and archive


@pytest.fixture
def deleted(of: Stores) -> Stores:
    """A store where run ``r``, with something in everything, has been deleted and ``other`` has not."""
    for run_id in ("r", "other"):
        of.runs.create_run(run_id=run_id, tags=["t"])
        of.fill(run_id)
    of.runs.delete_run("r")
    return of


def test_30_delete_run_removes_run_metadata(deleted: Stores) -> None:
    """After ``delete_run`` the run is not registered any more; other runs are."""
    assert deleted.runs.get_run("r") is None
    assert deleted.runs.get_run("other") is not None


def test_30_delete_run_removes_all_kv_data(deleted: Stores) -> None:
    """After ``delete_run`` no key of the run is left."""
    assert deleted.kv.list("r") == []
    assert deleted.kv.list("other") == ["key"]


def test_30_delete_run_removes_all_events(deleted: Stores) -> None:
    """After ``delete_run`` the run's log is empty, and starts at sequence 0 again."""
    assert deleted.events.is_empty("r")
    assert deleted.events.read_by_type("r", "event") == []
    assert deleted.events.append("r", "event", 1).sequence == 0
    assert deleted.events.len("other") == 1


def test_30_delete_run_removes_all_states(deleted: Stores) -> None:
    """After ``delete_run`` no cell is left, nor the version that a deleted cell had."""
    assert deleted.state.list("r") == []
    assert deleted.state.init("r", "cell", 1) == 1
    assert deleted.state.list("other") == ["cell"]


def test_30_delete_run_removes_all_traces(deleted: Stores) -> None:
    """After ``delete_run`` no trace and no trace index is left."""
    assert deleted.traces.list("r") == []
    assert deleted.traces.query_by_tag("r", "t") == []
    assert deleted.traces.count("other") == 1


def test_30_delete_run_removes_all_indices(deleted: Stores) -> None:
    """After ``delete_run`` no index finds the run, and nothing of it is left among the stored keys."""
    assert ids_of(deleted.runs.query_runs(RunQuery(tags=["t"]))) == ["other"]
    assert ids_of(deleted.runs.query_runs(RunQuery(status=RunStatus.Active))) == ["other"]
    assert deleted.runs.list_runs() == ["other"]
    deleted.runs.delete_run("other")
    assert deleted.raw_keys() == []


def test_30_archive_run_sets_archived_status(runs: shoal.RunIndex) -> None:
    """``archive_run`` sets Archived, and does not complete the run."""
    runs.create_run(run_id="r")
    run = runs.archive_run("r")
    assert (run.status, run.completed_at) == (RunStatus.Archived, None)


def test_30_archived_run_data_still_accessible(of: Stores) -> None:
    """All data of an archived run can still be read."""
    of.runs.create_run(run_id="r")
    of.fill("r")
    of.runs.archive_run("r")
    assert of.kv.get("r", "key") == "value"
    assert present(of.events.read("r", 0)).payload == {"n": 1}
    assert present(of.state.read("r", "cell")).value == 1
    assert present(of.traces.get("r", "trace")).trace_type == TraceType.Thought("why")


# Story 196: integration


def test_31_full_run_lifecycle(of: Stores) -> None:
    """A run is created, filled, paused, resumed, completed and archived; its data is readable throughout."""
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
    assert present(of.state.read("r", "cell")).version == 1
    assert of.traces.list("r") == ["trace"]


def test_31_cascading_delete_removes_all_data(of: Stores) -> None:
    """A cascading delete removes a run, its descendants and all their data; nothing is left among the stored keys."""
    of.runs.create_run(run_id="root", tags=["t"])
    of.fill("root")
    of.runs.fork_run("root", new_run_id="fork")
    of.runs.create_run(run_id="below", parent_run="fork", tags=["t"])
    of.fill("below")
    of.runs.delete_run("root", cascade_children=True)
    assert of.runs.list_runs() == []
    assert of.raw_keys() == []


def test_31_run_forking_creates_independent_runs(of: Stores) -> None:
    """A fork has its parent's data; afterwards neither sees what the other writes."""
    of.runs.create_run(run_id="parent")
    of.fill("parent")
    child = of.runs.fork_run("parent", new_run_id="child")
    assert (child.parent_run, child.status) == ("parent", RunStatus.Active)
    of.kv.put("parent", "key", "later")
    of.events.append("parent", "event", 2)
    of.state.set("child", "cell", 9)
    assert of.kv.get("child", "key") == "value"
    assert (of.events.len("child"), of.events.len("parent")) == (1, 2)
    assert (present(of.state.read("child", "cell")).version, present(of.state.read("parent", "cell")).version) == (2, 1)
    assert of.traces.get("child", "trace") == of.traces.get("parent", "trace")
    assert of.runs.get_child_runs("parent") == [child]


def test_31_status_transitions_enforced_across_all_operations(runs: shoal.RunIndex) -> None:
    """Every method that changes a status keeps to the table of allowed changes."""
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
            run_of(runs, run_id, before)
            if status in ALLOWED[before]:
                assert method(run_id).status is status
            else:
                with pytest.raises(shoal.InvalidStatusTransitionError):
                    method(run_id)
                assert present(runs.get_run(run_id)).status is before
