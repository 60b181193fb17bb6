"""RunIndex: section 7 of the contract beyond the plan's lists: nasty names, updates, queries."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

import shoal
from shoal import CreateRunOptions, RunIndex, RunMetadata, RunQuery, RunStatus
from shoal.primitives.run_types import matches
from shoal.primitives.views.runs import restore
from tests.support.present import present
from tests.support.primitives.run_indices import ids_of

WEIRD_TEXTS = [
    "\0",
    "a\0b",
    "__idx_",
    "a__b",
    "/",
    "é",
    "🦀",
    "x" * 128,
    "é" * 64,
    "\U0010ffff",
    "\x01\x05",
    " ",
    "r\n",
]


class TestCreate:
    def test_an_id_used_twice_is_refused(self, runs: RunIndex) -> None:
        """AlreadyExistsError that names it, and the run stays as it was."""
        run = runs.create_run(run_id="r", tags=["first"])
        with pytest.raises(shoal.AlreadyExistsError, match="'r'"):
            runs.create_run(run_id="r", tags=["second"])
        assert runs.get_run("r") == run
        assert runs.query_runs(RunQuery(tags=["second"])) == []

    def test_of_many_that_create_one_id_one_wins(self, runs: RunIndex) -> None:
        """Exactly one of eight threads creates the run; the others are told that it exists."""

        def create(number: int) -> bool:
            try:
                runs.create_run(run_id="r", metadata=number)
            except shoal.AlreadyExistsError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, range(8)))
        assert won.count(True) == 1
        assert present(runs.get_run("r")).metadata == won.index(True)

    def test_an_unknown_parent_is_refused(self, runs: RunIndex, raw_keys: Callable[[], list[bytes]]) -> None:
        """NotFoundError that names it, also if it is the run itself; nothing is registered."""
        for run_id in ("r", "nobody"):
            with pytest.raises(shoal.NotFoundError, match="nobody"):
                runs.create_run(run_id=run_id, parent_run="nobody")
        assert raw_keys() == []

    def test_made_ids_sort_by_when_they_were_made(self, runs: RunIndex) -> None:
        """UUIDv7: a later one is greater."""
        made = [runs.create_run().run_id for _ in range(20)]
        assert made == sorted(set(made))
        assert all(run_id[14] == "7" for run_id in made)

    @pytest.mark.parametrize("text", WEIRD_TEXTS, ids=ascii)
    def test_any_text_is_an_id_a_parent_and_a_tag(
        self, runs: RunIndex, raw_keys: Callable[[], list[bytes]], text: Any
    ) -> None:
        """Ids, parents and tags of any characters are found by every index, and deleted without a trace."""
        runs.create_run(run_id=text, tags=[text, "t"])
        child = runs.create_run(parent_run=text)
        assert ids_of(runs.query_runs(RunQuery(tags=[text]))) == [text]
        assert runs.get_child_runs(text) == [child]
        assert runs.complete_run(text).run_id == text
        runs.delete_run(text, cascade_children=True)
        assert raw_keys() == []

    def test_names_that_run_into_each_other_stay_apart(self, runs: RunIndex) -> None:
        """A tag or parent never finds the runs of one that begins with it."""
        names = ["a", "ab", "a\0", "a\0\0\0\0\0\0\0\0\0b", "b"]
        for name in names:
            runs.create_run(run_id=name, tags=[name])
        for name in names:
            runs.create_run(run_id=f"child of {name}", parent_run=name)
        for name in names:
            assert ids_of(runs.query_runs(RunQuery(tags=[name]))) == [name]
            assert ids_of(runs.get_child_runs(name)) == [f"child of {name}"]

    def test_namespaces_have_runs_of_their_own(
        self, memory_db: shoal.Database, runs: RunIndex, space: shoal.Namespace
    ) -> None:
        """The same id in two namespaces is two runs, in every call."""
        other = RunIndex(memory_db, namespace=shoal.Namespace(app=space.app, agent="other"))
        runs.create_run(run_id="r")
        other.create_run(run_id="r", tags=["t"])
        other.complete_run("r")
        assert present(runs.get_run("r")).status is RunStatus.Active
        assert runs.query_runs(RunQuery(tags=["t"])) == []
        other.delete_run("r")
        assert (runs.list_runs(), other.list_runs()) == (["r"], [])

    def test_what_is_returned_is_what_is_stored(self, runs: RunIndex) -> None:
        """create_run says what get_run will say, and keeps nothing of the caller's own."""
        metadata: dict[str, Any] = {"steps": (1, 2)}
        run = runs.create_run(metadata=metadata)
        metadata["steps"] = None
        assert run == runs.get_run(run.run_id)
        assert run.metadata == {"steps": [1, 2]}
        with pytest.raises(FrozenInstanceError):
            run.status = RunStatus.Failed  # type: ignore[misc]  # frozen


class TestUpdates:
    def test_tags_keep_their_order_and_come_once(self, runs: RunIndex) -> None:
        """Added behind, duplicates and those there already left where they are; removed ones are found no more."""
        runs.create_run(run_id="r", tags=["b", "a", "b"])
        assert present(runs.get_run("r")).tags == ["b", "a"]
        assert runs.add_tags("r", iter(["c", "a", "c"])).tags == ["b", "a", "c"]
        assert runs.remove_tags("r", ("a", "never")).tags == ["b", "c"]
        assert runs.query_runs(RunQuery(tags=["a"])) == []
        assert ids_of(runs.query_runs(RunQuery(tags=("c", "b")))) == ["r"]

    def test_update_metadata_replaces(self, runs: RunIndex) -> None:
        """Nothing of the old value is left; created_at stays and updated_at does not go back."""
        before = runs.create_run(run_id="r", metadata={"a": 1})
        after_it = runs.update_metadata("r", {"b": 2})
        assert after_it.metadata == {"b": 2}
        assert after_it.created_at == before.created_at <= after_it.updated_at
        assert runs.update_metadata("r", None).metadata is None

    def test_archiving_keeps_what_was(self, runs: RunIndex) -> None:
        """Error and completed_at of a failed run stay when it is archived."""
        runs.create_run(run_id="r")
        failed = runs.fail_run("r", "broke: \ud800")
        archived = runs.archive_run("r")
        assert (archived.error, archived.completed_at) == (failed.error, failed.completed_at)
        assert archived.error == "broke: \ud800"

    def test_changes_at_once_are_none_of_them_lost(self, runs: RunIndex) -> None:
        """Threads that tag one run all succeed, and every tag is there."""
        runs.create_run(run_id="r")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: runs.add_tags("r", [f"t{number}"]), range(32)))
        assert sorted(present(runs.get_run("r")).tags) == sorted(f"t{number}" for number in range(32))


class TestQuery:
    def test_every_filter_against_a_model(
        self, memory_db: shoal.Database, runs: RunIndex, space: shoal.Namespace
    ) -> None:
        """Random runs and queries: what comes is what a loop over all runs finds, in order, whatever index is used."""
        rng = random.Random(7)
        made: list[RunMetadata] = []
        with memory_db.transaction("r", namespace=space) as txn:
            for number in rng.sample(range(100), 40):
                created = rng.choice([1, 2, 2, 3, 2**40])
                run = RunMetadata(
                    run_id=f"r{number:02}",
                    parent_run=rng.choice([None, "p", "q"]),
                    status=rng.choice(list(RunStatus)),
                    created_at=created,
                    updated_at=created,
                    completed_at=None,
                    tags=rng.sample(["a", "b", "c"], rng.randrange(4)),
                    metadata=number,
                    error=None,
                )
                restore(txn.runs, run)
                made.append(run)
        made.sort(key=lambda run: (run.created_at, run.run_id))
        assert runs.list_runs() == ids_of(made)
        for _ in range(150):
            query = RunQuery(
                status=rng.choice([None, None, *RunStatus]),
                tags=rng.choice([None, [], ["a"], ["b", "c"], ["d"]]),
                created_after=rng.choice([None, None, -1, 2, 2**70]),
                created_before=rng.choice([None, None, -5, 3, 2**70]),
                parent_run=rng.choice([None, None, "p", "nobody"]),
                limit=rng.choice([None, None, 0, 1, 5]),
                include_archived=rng.random() < 0.5,
            )
            expected = [run for run in made if matches(query, run)]
            assert runs.query_runs(query) == expected[: query.limit]
        statuses = [run.status for run in made]
        assert [statuses.count(status) for status in RunStatus] == list(vars(runs.get_stats()).values())[1:]

    def test_a_limit_reads_no_further(self, memory_db: shoal.Database, runs: RunIndex, space: shoal.Namespace) -> None:
        """In a transaction only what was read is validated: a run behind the limit is no conflict, one before is."""
        first = runs.create_run()
        with memory_db.transaction("x", namespace=space) as txn:
            assert txn.runs.query_runs(RunQuery(limit=1)) == [first]
            txn.kv.put("k", 1)
            runs.create_run()
        with pytest.raises(shoal.ConflictError), memory_db.transaction("x", namespace=space) as txn:
            assert txn.runs.query_runs(RunQuery(limit=1)) == [first]
            txn.kv.put("k", 2)
            runs.add_tags(first.run_id, ["t"])


def test_types_pickle(runs: RunIndex) -> None:
    """What goes to another process comes back equal."""
    run = runs.create_run(tags=["t"], metadata={"a": 1})
    for thing in (run, RunQuery(tags=["t"], limit=3), CreateRunOptions(tags=["t"]), runs.get_stats()):
        assert pickle.loads(pickle.dumps(thing)) == thing
