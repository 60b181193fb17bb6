"""RunIndex: section 7 of the contract beyond the plan's lists: bad arguments, nasty names, transactions, forks."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import itertools
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import CreateRunOptions, KVStore, RunIndex, RunMetadata, RunQuery, RunStatus
from shoal.primitives.key_space import after
from shoal.shm.commit_set import error_from, error_parts

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
BAD_IDS = [(None, TypeError), (1, TypeError), (b"r", TypeError), ("", ValueError), ("\ud800", ValueError)]
BAD_IDS += [("x" * 129, shoal.LimitExceededError), (["r"], TypeError)]

_numbers = itertools.count()


@pytest.fixture
def space() -> shoal.Namespace:
    """A namespace no other test uses."""
    return shoal.Namespace(app=f"runs-{next(_numbers)}")


@pytest.fixture
def runs(memory_db: shoal.Database, space: shoal.Namespace) -> RunIndex:
    """An empty index of runs."""
    return RunIndex(memory_db, namespace=space)


@pytest.fixture
def kv(memory_db: shoal.Database, space: shoal.Namespace) -> KVStore:
    """Keys of the same namespace."""
    return KVStore(memory_db, namespace=space)


@pytest.fixture
def raw_keys(memory_db: shoal.Database, space: shoal.Namespace) -> Callable[[], list[bytes]]:
    """Every key of the namespace as the engine has it."""
    prefix = space.prefix()
    return lambda: [key for key, _ in memory_db.engine.scan(prefix, after(prefix))]


def _ids(found: list[RunMetadata]) -> list[str]:
    return [run.run_id for run in found]


class TestCreate:
    def test_an_id_used_twice_is_refused(self, runs):
        """AlreadyExistsError that names it, and the run stays as it was."""
        run = runs.create_run(run_id="r", tags=["first"])
        with pytest.raises(shoal.AlreadyExistsError, match="'r'"):
            runs.create_run(run_id="r", tags=["second"])
        assert runs.get_run("r") == run
        assert runs.query_runs(RunQuery(tags=["second"])) == []

    def test_of_many_that_create_one_id_one_wins(self, runs):
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
        assert runs.get_run("r").metadata == won.index(True)

    def test_an_unknown_parent_is_refused(self, runs, raw_keys):
        """NotFoundError that names it, also if it is the run itself; nothing is registered."""
        for run_id in ("r", "nobody"):
            with pytest.raises(shoal.NotFoundError, match="nobody"):
                runs.create_run(run_id=run_id, parent_run="nobody")
        assert raw_keys() == []

    def test_made_ids_sort_by_when_they_were_made(self, runs):
        """UUIDv7: a later one is greater."""
        made = [runs.create_run().run_id for _ in range(20)]
        assert made == sorted(set(made))
        assert all(run_id[14] == "7" for run_id in made)

    @pytest.mark.parametrize("text", WEIRD_TEXTS, ids=ascii)
    def test_any_text_is_an_id_a_parent_and_a_tag(self, runs, raw_keys, text):
        """Ids, parents and tags of any characters are found by every index, and deleted without a trace."""
        runs.create_run(run_id=text, tags=[text, "t"])
        child = runs.create_run(parent_run=text)
        assert _ids(runs.query_runs(RunQuery(tags=[text]))) == [text]
        assert runs.get_child_runs(text) == [child]
        assert runs.complete_run(text).run_id == text
        runs.delete_run(text, cascade_children=True)
        assert raw_keys() == []

    def test_names_that_run_into_each_other_stay_apart(self, runs):
        """A tag or parent never finds the runs of one that begins with it."""
        names = ["a", "ab", "a\0", "a\0\0\0\0\0\0\0\0\0b", "b"]
        for name in names:
            runs.create_run(run_id=name, tags=[name])
        for name in names:
            runs.create_run(run_id=f"child of {name}", parent_run=name)
        for name in names:
            assert _ids(runs.query_runs(RunQuery(tags=[name]))) == [name]
            assert _ids(runs.get_child_runs(name)) == [f"child of {name}"]

    def test_namespaces_have_runs_of_their_own(self, memory_db, runs, space):
        """The same id in two namespaces is two runs, in every call."""
        other = RunIndex(memory_db, namespace=shoal.Namespace(app=space.app, agent="other"))
        runs.create_run(run_id="r")
        other.create_run(run_id="r", tags=["t"])
        other.complete_run("r")
        assert runs.get_run("r").status is RunStatus.Active
        assert runs.query_runs(RunQuery(tags=["t"])) == []
        other.delete_run("r")
        assert (runs.list_runs(), other.list_runs()) == (["r"], [])

    def test_what_is_returned_is_what_is_stored(self, runs):
        """create_run says what get_run will say, and keeps nothing of the caller's own."""
        metadata = {"steps": (1, 2)}
        run = runs.create_run(metadata=metadata)
        metadata["steps"] = None
        assert run == runs.get_run(run.run_id)
        assert run.metadata == {"steps": [1, 2]}
        with pytest.raises(FrozenInstanceError):
            run.status = RunStatus.Failed


class TestBadArguments:
    @pytest.mark.parametrize(("run_id", "error"), BAD_IDS, ids=lambda value: ascii(value)[:20])
    def test_bad_run_ids(self, runs, raw_keys, run_id, error):
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

    @pytest.mark.parametrize("tags", ["tag", b"tag", None, 1, [1], [None], [b"t"], [["t"]]], ids=repr)
    def test_tags_of_a_wrong_type(self, runs, tags):
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
    def test_tags_that_are_no_names(self, runs, tag, error):
        """A tag is 1 to 1,024 bytes of UTF-8; nothing of a list with a bad one is kept."""
        runs.create_run(run_id="r")
        with pytest.raises(error):
            runs.add_tags("r", ["good", tag])
        assert runs.get_run("r").tags == []

    def test_values_that_cannot_be_stored(self, runs):
        """Metadata that is no value, or too large, is refused by create and update; the run stays as it was."""
        run = runs.create_run(run_id="r", metadata={"a": 1})
        for bad, error in [({"f": print}, TypeError), ({1: 2}, TypeError), (b"x" * (16 << 20 | 1), ValueError)]:
            error = shoal.LimitExceededError if error is ValueError else error
            with pytest.raises(error):
                runs.update_metadata("r", bad)
            with pytest.raises(error):
                runs.create_run(metadata=bad)
        assert runs.query_runs() == [run]

    def test_a_record_too_large_is_refused(self, runs):
        """Metadata and tags that each would do, and together do not, are LimitExceededError; the store goes on."""
        run = runs.create_run(run_id="r", metadata=b"x" * (16 << 20))
        with pytest.raises(shoal.LimitExceededError):
            runs.add_tags("r", [f"{number:04}" + "x" * 1000 for number in range(70)])
        assert runs.get_run("r") == run

    @pytest.mark.parametrize("status", [None, "Completed", 1, "nonsense"])
    def test_a_status_is_a_run_status(self, runs, status):
        """Text is not taken for one."""
        runs.create_run(run_id="r")
        with pytest.raises(TypeError, match="RunStatus"):
            runs.update_status("r", status)
        if status is not None:
            with pytest.raises(TypeError, match="RunStatus"):
                RunQuery(status=status)

    def test_other_arguments(self, runs):
        """Errors that are no text, queries and options that are none, times and limits that are no int."""
        runs.create_run(run_id="r")
        for call in (
            lambda: runs.fail_run("r", ValueError("x")),
            lambda: runs.fail_run("r", None),
            lambda: runs.query_runs(None),
            lambda: runs.query_runs({"status": RunStatus.Active}),
            lambda: runs.create_run_with_options({"run_id": "x"}),
            lambda: runs.delete_run("r", cascade_children=1),
            lambda: RunQuery(limit=True),
            lambda: RunQuery(limit="1"),
            lambda: RunQuery(created_after=1.5),
            lambda: RunQuery(created_before="now"),
            lambda: RunQuery(include_archived=1),
        ):
            with pytest.raises(TypeError):
                call()
        with pytest.raises(ValueError, match="limit is -1"):
            RunQuery(limit=-1)
        assert _ids(runs.query_runs(RunQuery(status=RunStatus.Active))) == ["r"]

    def test_what_a_facade_is_made_of(self, memory_db):
        """A database and a Namespace, and it says what it got instead."""
        with pytest.raises(TypeError, match="type str"):
            RunIndex("fleet.db")
        with pytest.raises(TypeError, match="type str"):
            RunIndex(memory_db, namespace="acme")

    def test_a_run_that_is_not_registered(self, runs, kv):
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


class TestUpdates:
    def test_tags_keep_their_order_and_come_once(self, runs):
        """Added behind, duplicates and those there already left where they are; removed ones are found no more."""
        runs.create_run(run_id="r", tags=["b", "a", "b"])
        assert runs.get_run("r").tags == ["b", "a"]
        assert runs.add_tags("r", iter(["c", "a", "c"])).tags == ["b", "a", "c"]
        assert runs.remove_tags("r", ("a", "never")).tags == ["b", "c"]
        assert runs.query_runs(RunQuery(tags=["a"])) == []
        assert _ids(runs.query_runs(RunQuery(tags=("c", "b")))) == ["r"]

    def test_update_metadata_replaces(self, runs):
        """Nothing of the old value is left; created_at stays and updated_at does not go back."""
        before = runs.create_run(run_id="r", metadata={"a": 1})
        after_it = runs.update_metadata("r", {"b": 2})
        assert after_it.metadata == {"b": 2}
        assert after_it.created_at == before.created_at <= after_it.updated_at
        assert runs.update_metadata("r", None).metadata is None

    def test_archiving_keeps_what_was(self, runs):
        """Error and completed_at of a failed run stay when it is archived."""
        runs.create_run(run_id="r")
        failed = runs.fail_run("r", "broke: \ud800")
        archived = runs.archive_run("r")
        assert (archived.error, archived.completed_at) == (failed.error, failed.completed_at)
        assert archived.error == "broke: \ud800"

    def test_changes_at_once_are_none_of_them_lost(self, runs):
        """Threads that tag one run all succeed, and every tag is there."""
        runs.create_run(run_id="r")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: runs.add_tags("r", [f"t{number}"]), range(32)))
        assert sorted(runs.get_run("r").tags) == sorted(f"t{number}" for number in range(32))


class TestQuery:
    def test_every_filter_against_a_model(self, memory_db, runs, space):
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
                txn.runs.restore_run(run)
                made.append(run)
        made.sort(key=lambda run: (run.created_at, run.run_id))
        assert runs.list_runs() == _ids(made)
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
            expected = [run for run in made if query.matches(run)]
            assert runs.query_runs(query) == expected[: query.limit]
        statuses = [run.status for run in made]
        assert [statuses.count(status) for status in RunStatus] == list(vars(runs.get_stats()).values())[1:]

    def test_a_limit_reads_no_further(self, memory_db, runs, space):
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


class TestTransactions:
    def test_own_changes_are_seen_and_an_exception_takes_them_back(self, memory_db, runs, space, raw_keys):
        """Created, tagged, queried and deleted inside one transaction; none of it is left if it fails."""
        with pytest.raises(ZeroDivisionError), memory_db.transaction("r", namespace=space) as txn:
            txn.runs.create_run(run_id="r", tags=["a"])
            txn.runs.add_tags("r", ["b"])
            txn.runs.complete_run("r")
            assert _ids(txn.runs.query_runs(RunQuery(status=RunStatus.Completed, tags=["b"]))) == ["r"]
            assert txn.runs.get_stats().completed_runs == 1
            txn.kv.put("k", 1)
            txn.runs.fork_run("r", new_run_id="fork")
            assert txn.on("fork").kv.get("k") == 1
            txn.runs.delete_run("r")
            assert (txn.kv.list(), txn.runs.list_runs()) == ([], ["fork"])
            raise ZeroDivisionError
        assert raw_keys() == []

    def test_with_other_primitives_all_or_nothing(self, memory_db, runs, kv, space):
        """A run registered with its first key; deleted and written again, only what was written after is there."""
        kv.put("r", "old", 1)
        with memory_db.transaction("r", namespace=space) as txn:
            txn.runs.create_run(run_id="r")
            txn.runs.delete_run("r")
            txn.kv.put("new", 2)
        assert (runs.list_runs(), kv.list_with_values("r")) == ([], [("new", 2)])

    def test_a_snapshot_only_reads(self, memory_db, runs, space):
        """Every change through a snapshot is InvalidOperationError; reads show its moment."""
        runs.create_run(run_id="r")
        with memory_db.snapshot("r", namespace=space) as view:
            runs.complete_run("r")
            assert view.runs.get_run("r").status is RunStatus.Active
            for call in (
                view.runs.create_run,
                lambda: view.runs.complete_run("r"),
                lambda: view.runs.delete_run("r"),
                lambda: view.runs.fork_run("r"),
            ):
                with pytest.raises(shoal.InvalidOperationError):
                    call()

    def test_a_fork_in_a_transaction_is_validated(self, memory_db, runs, kv, space):
        """Something added to the source since is a conflict there, and no fork is made."""
        kv.put("r", "k", 1)
        with pytest.raises(shoal.ConflictError), memory_db.transaction("r", namespace=space) as txn:
            txn.runs.fork_run("r", new_run_id="fork")
            kv.put("r", "another", 2)
        assert runs.list_runs() == []


class TestFork:
    def test_ttl_versions_and_hashes_are_kept(self, memory_db, runs, kv, space):
        """What the copy says of its keys, cells and events is what the source says."""
        events, cells = shoal.EventLog(memory_db, namespace=space), shoal.StateCell(memory_db, namespace=space)
        kv.put("r", "brief", 1, ttl=1000)
        kv.put("r", "long", 2)
        for number in range(3):
            events.append("r", "e", number)
            cells.set("r", "cell", number)
        anchor = events.anchor("r")
        runs.fork_run("r", new_run_id="fork")
        assert 990 < kv.ttl("fork", "brief") <= 1000
        assert kv.ttl("fork", "long") is None
        assert cells.read("fork", "cell") == cells.read("r", "cell")
        assert list(events.iter("fork")) == list(events.iter("r"))
        assert events.verify_chain("fork", anchor=anchor).is_valid
        assert events.append("fork", "e", 3).sequence == 3

    def test_a_run_that_was_never_registered(self, runs, kv):
        """It can be forked; its id is the child's parent all the same."""
        kv.put("r", "k", 1)
        child = runs.fork_run("r")
        assert kv.get(child.run_id, "k") == 1
        assert runs.get_child_runs("r") == [child]
        assert runs.get_run("r") is None

    def test_a_registered_run_that_holds_nothing(self, runs):
        """Its fork is registered and holds nothing; tags and metadata are the parent's own."""
        runs.create_run(run_id="r", tags=["t"], metadata=1)
        child = runs.fork_run("r", new_run_id="fork")
        assert (child.tags, child.metadata, child.status) == ([], None, RunStatus.Active)

    def test_refused(self, runs, kv, raw_keys):
        """An unknown source is NotFoundError; a new id that is registered or holds something AlreadyExistsError."""
        with pytest.raises(shoal.NotFoundError, match="'nobody'"):
            runs.fork_run("nobody")
        kv.put("r", "k", 1)
        kv.put("full", "k", 2)
        runs.create_run(run_id="taken")
        before = raw_keys()
        for new_run_id in ("full", "taken", "r"):
            with pytest.raises(shoal.AlreadyExistsError, match=new_run_id):
                runs.fork_run("r", new_run_id=new_run_id)
        assert raw_keys() == before

    def test_one_moment_however_busy_the_run_is(self, memory_db, runs, kv, space):
        """Keys that always change together agree in every fork, and the writers' commits never fail it."""
        stop = threading.Event()

        def write() -> None:
            for number in itertools.count():
                if stop.is_set():
                    return
                with memory_db.transaction("r", namespace=space) as txn:
                    for key in range(300):
                        txn.kv.put(f"{key:03}", number)

        with memory_db.transaction("r", namespace=space) as txn:
            for key in range(300):
                txn.kv.put(f"{key:03}", -1)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            forks = [runs.fork_run("r").run_id for _ in range(5)]
        finally:
            stop.set()
            writer.join()
        for fork in forks:
            values = [value for _, value in kv.list_with_values(fork)]
            assert len(values) == 300
            assert len(set(values)) == 1

    def test_more_than_one_commit_holds_is_refused(self, runs, kv, monkeypatch):
        """LimitExceededError that names the limit, before anything is sent."""
        kv.put("r", "small", 1)
        kv.put("r", "large", b"x" * 2000)
        monkeypatch.setattr("shoal.primitives.run_contents.MAX_COMMIT_BYTES", 1000)
        with pytest.raises(shoal.LimitExceededError, match=r"the limit is 1,000"):
            runs.fork_run("r", new_run_id="fork")
        assert (kv.list("fork"), runs.list_runs()) == ([], [])


class TestDelete:
    def test_registered_or_not(self, runs, kv, raw_keys):
        """A run nobody registered is deleted just so; one with nothing of it is NotFoundError, also the second time."""
        kv.put("r", "k", 1)
        runs.delete_run("r")
        assert raw_keys() == []
        for run_id in ("r", "never"):
            with pytest.raises(shoal.NotFoundError, match=run_id):
                runs.delete_run(run_id)

    def test_neighbours_stay(self, runs, kv):
        """Runs whose ids begin with the deleted one's, or sort next to it, keep everything."""
        names = ["r", "r\0", "r\xff", "rr", "q", "s", "r\U0010ffff"]
        for name in names:
            kv.put(name, "k", name)
            runs.create_run(run_id=name)
        runs.delete_run("r")
        assert runs.list_runs() == names[1:]
        for name in names[1:]:
            assert kv.get(name, "k") == name

    def test_children_stay_unless_asked_for(self, runs, kv):
        """Without cascade_children they are there, and still name their parent."""
        runs.create_run(run_id="parent")
        child = runs.create_run(parent_run="parent")
        kv.put(child.run_id, "k", 1)
        runs.delete_run("parent")
        assert runs.get_child_runs("parent") == [child]
        assert kv.get(child.run_id, "k") == 1

    def test_cascade_goes_as_deep_as_descent_does(self, memory_db, runs, space, raw_keys):
        """Hundreds of generations, and a run of many keys among them, go in one commit."""
        with memory_db.transaction("r", namespace=space) as txn:
            txn.runs.create_run(run_id="0")
            for number in range(1, 300):
                txn.runs.create_run(run_id=str(number), parent_run=str(number - 1))
                txn.on(str(number)).kv.put("k", number)
            for number in range(400):
                txn.on("150").kv.put(f"many/{number}", number)
            txn.runs.create_run(run_id="apart")
        version = memory_db.info().commit_version
        with memory_db.snapshot("r", namespace=space) as before:
            runs.delete_run("0", cascade_children=True)
            assert len(before.runs.list_runs()) == 301
            assert len(before.on("150").kv.list()) == 401
        assert runs.list_runs() == ["apart"]
        runs.delete_run("apart")
        assert raw_keys() == []
        assert memory_db.info().commit_version > version

    def test_cascade_where_descent_runs_in_a_circle(self, runs, raw_keys):
        """A run deleted and made again below its own child: the cascade still ends, and takes both."""
        runs.create_run(run_id="a")
        runs.create_run(run_id="b", parent_run="a")
        runs.delete_run("a")
        runs.create_run(run_id="a", parent_run="b")
        runs.delete_run("b", cascade_children=True)
        assert raw_keys() == []

    def test_writers_do_not_stand_in_its_way(self, memory_db, runs, kv, space):
        """Of a run's keys a deletion in a transaction reads the first at most: others may be written meanwhile."""
        for run_id in ("registered", "not"):
            for key in ("a", "b"):
                kv.put(run_id, key, 1)
        runs.create_run(run_id="registered")
        for run_id in ("registered", "not"):
            with memory_db.transaction(run_id, namespace=space) as txn:
                txn.runs.delete_run(run_id)
                kv.put(run_id, "b", 2)
                kv.put(run_id, "c", 3)
            assert kv.list(run_id) == []

    def test_an_id_can_be_used_again(self, runs, kv):
        """After a deletion the id is new: nothing of the old run shows."""
        runs.create_run(run_id="r", tags=["old"], metadata=1)
        kv.put("r", "k", 1)
        runs.fail_run("r", "x")
        runs.delete_run("r")
        run = runs.create_run(run_id="r")
        assert (run.status, run.tags, run.error, kv.list("r")) == (RunStatus.Active, [], None, [])
        assert runs.get_stats().total_runs == 1

    def test_a_full_store_has_room_again(self, store: Path):
        """When nothing more goes in, a run can still be deleted, and then there is room."""
        with shoal.open(store, durability="memory", max_bytes=8 << 20, linger=0.2) as db:
            kv, runs = KVStore(db), RunIndex(db)
            kv.put("keep", "k", 1)
            with pytest.raises(shoal.StoreFullError):
                for number in itertools.count():
                    kv.put("big", str(number), b"x" * 20_000)
            runs.delete_run("big")
            for number in range(100):
                kv.put("new", str(number), b"y" * 20_000)
            assert (kv.list("big"), kv.get("keep", "k")) == ([], 1)
            assert db.check() == []


class TestForExport:
    def test_a_run_restored_is_the_run(self, memory_db, runs, space, raw_keys):
        """What query_runs gives elsewhere is registered exactly, times and error included, before its parent is."""
        runs.create_run(run_id="parent")
        runs.create_run(run_id="r", parent_run="parent", tags=["b", "a"], metadata={"m": b"x"})
        runs.fail_run("r", "broke")
        exported, keys = runs.query_runs(RunQuery(include_archived=True)), raw_keys()
        for run in exported:
            runs.delete_run(run.run_id)
        for run in reversed(exported):
            memory_db.transact("r", lambda txn, run=run: txn.runs.restore_run(run), namespace=space)
        assert runs.query_runs(RunQuery(include_archived=True)) == exported
        assert raw_keys() == keys
        with pytest.raises(shoal.AlreadyExistsError), memory_db.transaction("r", namespace=space) as txn:
            txn.runs.restore_run(exported[0])

    @pytest.mark.parametrize(
        "field",
        [{"created_at": -1}, {"updated_at": 2**63}, {"completed_at": "x"}, {"status": "Active"}, {"tags": "t"}],
        ids=repr,
    )
    def test_bad_fields_are_refused(self, memory_db, runs, space, field):
        """A run with a field no run can have is TypeError or ValueError, and nothing of it is registered."""
        fields = vars(runs.create_run(run_id="r")) | {"run_id": "bad"} | field
        with pytest.raises((TypeError, ValueError)), memory_db.transaction("r", namespace=space) as txn:
            txn.runs.restore_run(RunMetadata(**fields))
        assert runs.list_runs() == ["r"]


@pytest.fixture
def refused() -> Iterator[shoal.InvalidStatusTransitionError]:
    """A refused transition."""
    return shoal.InvalidStatusTransitionError(RunStatus.Completed, RunStatus.Active)


def test_the_error_survives_a_pickle_and_a_pipe(refused):
    """Statuses and message are the same at the other end."""
    name, arguments = error_parts(refused)
    for copy in (pickle.loads(pickle.dumps(refused)), error_from(name, [str(part) for part in arguments])):
        assert type(copy) is shoal.InvalidStatusTransitionError
        assert (copy.from_status, copy.to_status) == (RunStatus.Completed, RunStatus.Active)
        assert str(copy) == str(refused)


def test_types_pickle(runs):
    """What goes to another process comes back equal."""
    run = runs.create_run(tags=["t"], metadata={"a": 1})
    for thing in (run, RunQuery(tags=["t"], limit=3), CreateRunOptions(tags=["t"]), runs.get_stats()):
        assert pickle.loads(pickle.dumps(thing)) == thing
