"""RunIndex: bad arguments are refused before anything is changed, and an error is the same in any process."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

import shoal
from shoal import RunIndex, RunQuery, RunStatus
from shoal.shm.wire.wire_errors import error_from, error_parts
from tests.support.present import present
from tests.support.primitives.run_indices import ids_of, kv_of_space  # noqa: F401 (a fixture)

BAD_IDS: list[tuple[Any, type[Exception]]] = [
    (None, TypeError),
    (1, TypeError),
    (b"r", TypeError),
    ("", ValueError),
    ("\ud800", ValueError),
]
BAD_IDS += [("x" * 129, shoal.LimitExceededError), (["r"], TypeError)]


class TestBadArguments:
    @pytest.mark.parametrize(("run_id", "error"), BAD_IDS, ids=lambda value: ascii(value)[:20])
    def test_bad_run_ids(
        self, runs: RunIndex, raw_keys: Callable[[], list[bytes]], run_id: Any, error: type[Exception]
    ) -> None:
        """Every call refuses them before anything is sent."""
        runs.create_run(run_id="r")
        before = raw_keys()
        calls: list[Callable[[], Any]] = [
            lambda: runs.get_run(run_id),
            lambda: runs.update_status(run_id, RunStatus.Failed),
            lambda: runs.complete_run(run_id),
            lambda: runs.fail_run(run_id, "error"),
            lambda: runs.add_tags(run_id, ["t"]),
            lambda: runs.update_metadata(run_id, 1),
            lambda: runs.get_child_runs(run_id),
            lambda: runs.delete_run(run_id),
            lambda: runs.fork_run(run_id),
        ]
        if run_id is not None:
            calls += [
                lambda: runs.create_run(run_id=run_id),
                lambda: runs.create_run(parent_run=run_id),
                lambda: runs.fork_run("r", new_run_id=run_id),
                lambda: RunQuery(parent_run=run_id),
            ]
        for call in calls:
            with pytest.raises(error):
                call()
        assert raw_keys() == before

    @pytest.mark.parametrize(("run_id", "error"), BAD_IDS[1:], ids=lambda value: ascii(value)[:20])
    def test_a_bad_run_to_fork(self, memory_db: shoal.Database, run_id: Any, error: type[Exception]) -> None:
        """The message names the argument that the caller gave, by a facade and in a transaction."""
        with pytest.raises(error, match=r"\brun_id\b"):
            RunIndex(memory_db).fork_run(run_id)
        with memory_db.transaction("r") as txn, pytest.raises(error, match=r"\brun_id\b"):
            txn.runs.fork_run(run_id)

    @pytest.mark.parametrize("tags", ["tag", b"tag", None, 1, [1], [None], [b"t"], [["t"]]], ids=repr)
    def test_tags_of_a_wrong_type(self, runs: RunIndex, tags: Any) -> None:
        """A lone str is not a list of tags; what is in a list must be str."""
        run = runs.create_run(run_id="r")
        with pytest.raises(TypeError, match="tag"):
            runs.create_run(tags=tags)
        for call in (runs.add_tags, runs.remove_tags):
            with pytest.raises(TypeError, match="tag"):
                call("r", tags)
        if tags is not None:
            with pytest.raises(TypeError, match="tag"):
                RunQuery(tags=tags)
        assert runs.query_runs() == [run]

    @pytest.mark.parametrize(
        ("tag", "error"), [("", ValueError), ("\ud800", ValueError), ("x" * 1025, shoal.LimitExceededError)]
    )
    def test_tags_that_are_no_names(self, runs: RunIndex, tag: str, error: type[Exception]) -> None:
        """A tag is 1 to 1,024 bytes of UTF-8; nothing of a list with a bad one is kept."""
        runs.create_run(run_id="r")
        with pytest.raises(error):
            runs.add_tags("r", ["good", tag])
        assert present(runs.get_run("r")).tags == []

    def test_values_that_cannot_be_stored(self, runs: RunIndex) -> None:
        """Metadata that is no value, or too large, is refused by create and update; the run stays as it was."""
        run = runs.create_run(run_id="r", metadata={"a": 1})
        values: list[tuple[Any, type[Exception]]] = [
            ({"f": print}, TypeError),
            ({1: 2}, TypeError),
            (b"x" * (16 << 20 | 1), shoal.LimitExceededError),
        ]
        for bad, error in values:
            with pytest.raises(error):
                runs.update_metadata("r", bad)
            with pytest.raises(error):
                runs.create_run(metadata=bad)
        assert runs.query_runs() == [run]

    def test_a_record_too_large_is_refused(self, runs: RunIndex) -> None:
        """Metadata and tags that each would do, and together do not, are LimitExceededError; the store goes on."""
        run = runs.create_run(run_id="r", metadata=b"x" * (16 << 20))
        with pytest.raises(shoal.LimitExceededError):
            runs.add_tags("r", [f"{number:04}" + "x" * 1000 for number in range(70)])
        assert runs.get_run("r") == run

    @pytest.mark.parametrize("status", [None, "Completed", 1, "nonsense"])
    def test_a_status_is_a_run_status(self, runs: RunIndex, status: Any) -> None:
        """Text is not taken for one."""
        runs.create_run(run_id="r")
        with pytest.raises(TypeError, match="RunStatus"):
            runs.update_status("r", status)
        if status is not None:
            with pytest.raises(TypeError, match="RunStatus"):
                RunQuery(status=status)

    def test_other_arguments(self, runs: RunIndex) -> None:
        """Errors that are no text, queries and options that are none, times and limits that are no int."""
        runs.create_run(run_id="r")
        query: Any = RunQuery
        index: Any = runs
        call: Callable[[], object]
        for call in (
            lambda: index.fail_run("r", ValueError("x")),
            lambda: index.fail_run("r", None),
            lambda: index.query_runs(None),
            lambda: index.query_runs({"status": RunStatus.Active}),
            lambda: index.create_run_with_options({"run_id": "x"}),
            lambda: index.delete_run("r", cascade_children=1),
            lambda: query(limit=True),
            lambda: query(limit="1"),
            lambda: query(created_after=1.5),
            lambda: query(created_before="now"),
            lambda: query(include_archived=1),
        ):
            with pytest.raises(TypeError):
                call()
        with pytest.raises(ValueError, match="limit is -1"):
            RunQuery(limit=-1)
        assert ids_of(runs.query_runs(RunQuery(status=RunStatus.Active))) == ["r"]

    def test_what_a_facade_is_made_of(self, memory_db: shoal.Database) -> None:
        """A database and a Namespace, and it says what it got instead."""
        with pytest.raises(TypeError, match="type str"):
            RunIndex("fleet.db")
        with pytest.raises(TypeError, match="type str"):
            RunIndex(memory_db, namespace="acme")  # type: ignore[arg-type]  # it is refused

    def test_a_run_that_is_not_registered(self, runs: RunIndex, kv: shoal.KVStore) -> None:
        """Whatever changes a run is NotFoundError then, even if the run holds something."""
        kv.put("r", "k", 1)
        for call in (
            runs.complete_run,
            runs.pause_run,
            runs.resume_run,
            runs.cancel_run,
            runs.archive_run,
            lambda run_id: runs.fail_run(run_id, "x"),
            lambda run_id: runs.update_status(run_id, RunStatus.Failed),
            lambda run_id: runs.add_tags(run_id, ["t"]),
            lambda run_id: runs.remove_tags(run_id, ["t"]),
            lambda run_id: runs.update_metadata(run_id, 1),
        ):
            with pytest.raises(shoal.NotFoundError, match="'r'"):
                call("r")
        assert runs.list_runs() == []


def test_the_error_survives_a_pickle_and_a_pipe() -> None:
    """Statuses and message are the same at the other end."""
    refused = shoal.InvalidStatusTransitionError(RunStatus.Completed, RunStatus.Active)
    before: RunStatus = refused.from_status  # which type checkers accept
    assert before is RunStatus.Completed
    name, arguments = error_parts(refused)
    for copy in (pickle.loads(pickle.dumps(refused)), error_from(name, [str(part) for part in arguments])):
        assert type(copy) is shoal.InvalidStatusTransitionError
        assert (copy.from_status, copy.to_status) == (RunStatus.Completed, RunStatus.Active)
        assert str(copy) == str(refused)
