"""RunIndex in transactions, forks, deletions and for export: section 7 of the contract, down to the stored keys."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import KVStore, RunIndex, RunMetadata, RunQuery, RunStatus
from shoal.primitives.views.runs import restore
from tests.support.present import present
from tests.support.primitives.run_indices import ids_of, kv_of_space  # noqa: F401 (a fixture)


class TestTransactions:
    def test_own_changes_are_seen_and_an_exception_takes_them_back(
        self, memory_db: shoal.Database, runs: RunIndex, space: shoal.Namespace, raw_keys: Callable[[], list[bytes]]
    ) -> None:
        """Created, tagged, queried and deleted inside one transaction; none of it is left if it fails."""
        with pytest.raises(ZeroDivisionError), memory_db.transaction("r", namespace=space) as txn:
            txn.runs.create_run(run_id="r", tags=["a"])
            txn.runs.add_tags("r", ["b"])
            txn.runs.complete_run("r")
            assert ids_of(txn.runs.query_runs(RunQuery(status=RunStatus.Completed, tags=["b"]))) == ["r"]
            assert txn.runs.get_stats().completed_runs == 1
            txn.kv.put("k", 1)
            txn.runs.fork_run("r", new_run_id="fork")
            assert txn.on("fork").kv.get("k") == 1
            txn.runs.delete_run("r")
            assert (txn.kv.list(), txn.runs.list_runs()) == ([], ["fork"])
            raise ZeroDivisionError
        assert raw_keys() == []

    def test_with_other_primitives_all_or_nothing(
        self, memory_db: shoal.Database, runs: RunIndex, kv: shoal.KVStore, space: shoal.Namespace
    ) -> None:
        """A run registered with its first key; deleted and written again, only what was written after is there."""
        kv.put("r", "old", 1)
        with memory_db.transaction("r", namespace=space) as txn:
            txn.runs.create_run(run_id="r")
            txn.runs.delete_run("r")
            txn.kv.put("new", 2)
        assert (runs.list_runs(), kv.list_with_values("r")) == ([], [("new", 2)])

    def test_a_snapshot_only_reads(self, memory_db: shoal.Database, runs: RunIndex, space: shoal.Namespace) -> None:
        """Every change through a snapshot is InvalidOperationError; reads show its moment."""
        runs.create_run(run_id="r")
        with memory_db.snapshot("r", namespace=space) as view:
            runs.complete_run("r")
            assert present(view.runs.get_run("r")).status is RunStatus.Active
            for call in (
                view.runs.create_run,
                lambda: view.runs.complete_run("r"),
                lambda: view.runs.delete_run("r"),
                lambda: view.runs.fork_run("r"),
            ):
                with pytest.raises(shoal.InvalidOperationError):
                    call()

    def test_a_fork_in_a_transaction_is_validated(
        self, memory_db: shoal.Database, runs: RunIndex, kv: shoal.KVStore, space: shoal.Namespace
    ) -> None:
        """Something added to the source since is a conflict there, and no fork is made."""
        kv.put("r", "k", 1)
        with pytest.raises(shoal.ConflictError), memory_db.transaction("r", namespace=space) as txn:
            txn.runs.fork_run("r", new_run_id="fork")
            kv.put("r", "another", 2)
        assert runs.list_runs() == []


class TestFork:
    def test_ttl_versions_and_hashes_are_kept(
        self, memory_db: shoal.Database, runs: RunIndex, kv: shoal.KVStore, space: shoal.Namespace
    ) -> None:
        """What the copy says of its keys, cells and events is what the source says."""
        events, cells = shoal.EventLog(memory_db, namespace=space), shoal.StateCell(memory_db, namespace=space)
        kv.put("r", "brief", 1, ttl=1000)
        kv.put("r", "long", 2)
        for number in range(3):
            events.append("r", "e", number)
            cells.set("r", "cell", number)
        anchor = events.anchor("r")
        runs.fork_run("r", new_run_id="fork")
        assert 990 < present(kv.ttl("fork", "brief")) <= 1000
        assert kv.ttl("fork", "long") is None
        assert cells.read("fork", "cell") == cells.read("r", "cell")
        assert list(events.iter("fork")) == list(events.iter("r"))
        assert events.verify_chain("fork", anchor=anchor).is_valid
        assert events.append("fork", "e", 3).sequence == 3

    def test_a_run_that_was_never_registered(self, runs: RunIndex, kv: shoal.KVStore) -> None:
        """It can be forked; its id is the child's parent all the same."""
        kv.put("r", "k", 1)
        child = runs.fork_run("r")
        assert kv.get(child.run_id, "k") == 1
        assert runs.get_child_runs("r") == [child]
        assert runs.get_run("r") is None

    def test_a_registered_run_that_holds_nothing(self, runs: RunIndex) -> None:
        """Its fork is registered and holds nothing; tags and metadata are the parent's own."""
        runs.create_run(run_id="r", tags=["t"], metadata=1)
        child = runs.fork_run("r", new_run_id="fork")
        assert (child.tags, child.metadata, child.status) == ([], None, RunStatus.Active)

    def test_refused(self, runs: RunIndex, kv: shoal.KVStore, raw_keys: Callable[[], list[bytes]]) -> None:
        """An unknown source is NotFoundError; a new id that is registered or holds something AlreadyExistsError."""
        for new_run_id in (None, "fork", "nobody"):
            with pytest.raises(shoal.NotFoundError, match="'nobody'"):
                runs.fork_run("nobody", new_run_id=new_run_id)
        kv.put("r", "k", 1)
        kv.put("full", "k", 2)
        runs.create_run(run_id="taken")
        before = raw_keys()
        for new_run_id in ("full", "taken", "r"):
            with pytest.raises(shoal.AlreadyExistsError, match=new_run_id):
                runs.fork_run("r", new_run_id=new_run_id)
        assert raw_keys() == before

    def test_one_moment_however_busy_the_run_is(
        self, memory_db: shoal.Database, runs: RunIndex, kv: shoal.KVStore, space: shoal.Namespace
    ) -> None:
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

    def test_more_than_one_commit_holds_is_refused(
        self, runs: RunIndex, kv: shoal.KVStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """LimitExceededError that names the limit, before anything is sent."""
        kv.put("r", "small", 1)
        kv.put("r", "large", b"x" * 2000)
        monkeypatch.setattr("shoal.primitives.run_contents.MAX_COMMIT_BYTES", 1000)
        with pytest.raises(shoal.LimitExceededError, match=r"the limit is 1,000"):
            runs.fork_run("r", new_run_id="fork")
        assert (kv.list("fork"), runs.list_runs()) == ([], [])


class TestDelete:
    def test_registered_or_not(self, runs: RunIndex, kv: shoal.KVStore, raw_keys: Callable[[], list[bytes]]) -> None:
        """A run nobody registered is deleted just so; one with nothing of it is NotFoundError, also the second time."""
        kv.put("r", "k", 1)
        runs.delete_run("r")
        assert raw_keys() == []
        for run_id in ("r", "never"):
            with pytest.raises(shoal.NotFoundError, match=run_id):
                runs.delete_run(run_id)

    def test_neighbours_stay(self, runs: RunIndex, kv: shoal.KVStore) -> None:
        """Runs whose ids begin with the deleted one's, or sort next to it, keep everything."""
        names = ["r", "r\0", "r\xff", "rr", "q", "s", "r\U0010ffff"]
        for name in names:
            kv.put(name, "k", name)
            runs.create_run(run_id=name)
        runs.delete_run("r")
        assert sorted(runs.list_runs()) == sorted(names[1:])
        for name in names[1:]:
            assert kv.get(name, "k") == name

    def test_children_stay_unless_asked_for(self, runs: RunIndex, kv: shoal.KVStore) -> None:
        """Without cascade_children they are there, and still name their parent."""
        runs.create_run(run_id="parent")
        child = runs.create_run(parent_run="parent")
        kv.put(child.run_id, "k", 1)
        runs.delete_run("parent")
        assert runs.get_child_runs("parent") == [child]
        assert kv.get(child.run_id, "k") == 1

    def test_cascade_goes_as_deep_as_descent_does(
        self, memory_db: shoal.Database, runs: RunIndex, space: shoal.Namespace, raw_keys: Callable[[], list[bytes]]
    ) -> None:
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

    def test_cascade_where_descent_runs_in_a_circle(self, runs: RunIndex, raw_keys: Callable[[], list[bytes]]) -> None:
        """A run deleted and made again below its own child: the cascade still ends, and takes both."""
        runs.create_run(run_id="a")
        runs.create_run(run_id="b", parent_run="a")
        runs.delete_run("a")
        runs.create_run(run_id="a", parent_run="b")
        runs.delete_run("b", cascade_children=True)
        assert raw_keys() == []

    @pytest.mark.long
    def test_cascade_over_more_keys_than_a_commit_holds(
        self, memory_db: shoal.Database, runs: RunIndex, space: shoal.Namespace, raw_keys: Callable[[], list[bytes]]
    ) -> None:
        """Hundreds of children whose keys alone are more than 64 MiB go in one commit, as one large run does."""
        runs.create_run(run_id="parent")
        runs.create_run(run_id="child", parent_run="parent")
        with memory_db.transaction("child", namespace=space) as txn:
            for number in range(250):
                txn.kv.put(f"{number:01000}", None)
        for _ in range(280):
            runs.fork_run("child")
        runs.delete_run("parent", cascade_children=True)
        assert raw_keys() == []

    @pytest.mark.parametrize("is_there", [True, False], ids=["a queue", "no queue"])
    def test_cascade_beside_what_the_commit_decides(
        self, memory_db: shoal.Database, runs: RunIndex, space: shoal.Namespace, is_there: bool
    ) -> None:
        """A task that was put into a child before goes with it, one that is put after stays; a fence of it holds."""
        queue = shoal.TaskQueue(memory_db, namespace=space)

        def make() -> None:
            runs.create_run(run_id="parent")
            runs.create_run(run_id="child", parent_run="parent")
            if is_there:
                queue.put("child", "q", "old")

        make()
        lease = memory_db.lease("child", "l", namespace=space)
        with memory_db.transaction("parent", fence=lease, namespace=space) as txn:
            task_id = txn.on("child").queue.put("q", "before", key="k")
            txn.runs.delete_run("parent", cascade_children=True)
        assert (runs.list_runs(), queue.list("child", "q"), memory_db.leases("child", namespace=space)) == ([], [], [])
        assert queue.put("child", "q", "again", key="k") != task_id
        runs.delete_run("child")
        make()
        with memory_db.transaction("parent", namespace=space) as txn:
            txn.runs.delete_run("parent", cascade_children=True)
            txn.on("child").queue.put("q", "after")
        assert [task.payload for task in queue.list("child", "q")] == ["after"]

    def test_writers_do_not_stand_in_its_way(
        self, memory_db: shoal.Database, runs: RunIndex, kv: shoal.KVStore, space: shoal.Namespace
    ) -> None:
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

    def test_an_id_can_be_used_again(self, runs: RunIndex, kv: shoal.KVStore) -> None:
        """After a deletion the id is new: nothing of the old run shows."""
        runs.create_run(run_id="r", tags=["old"], metadata=1)
        kv.put("r", "k", 1)
        runs.fail_run("r", "x")
        runs.delete_run("r")
        run = runs.create_run(run_id="r")
        assert (run.status, run.tags, run.error, kv.list("r")) == (RunStatus.Active, [], None, [])
        assert runs.get_stats().total_runs == 1

    def test_a_full_store_has_room_again(self, store: Path) -> None:
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
    def test_a_run_restored_is_the_run(
        self, memory_db: shoal.Database, runs: RunIndex, space: shoal.Namespace, raw_keys: Callable[[], list[bytes]]
    ) -> None:
        """What query_runs gives elsewhere is registered exactly, times and error included, before its parent is."""
        runs.create_run(run_id="parent")
        runs.create_run(run_id="r", parent_run="parent", tags=["b", "a"], metadata={"m": b"x"})
        runs.fail_run("r", "broke")
        exported, keys = runs.query_runs(RunQuery(include_archived=True)), raw_keys()
        for run in exported:
            runs.delete_run(run.run_id)
        for run in reversed(exported):
            with memory_db.transaction("r", namespace=space) as txn:
                restore(txn.runs, run)
        assert runs.query_runs(RunQuery(include_archived=True)) == exported
        assert raw_keys() == keys
        with pytest.raises(shoal.AlreadyExistsError), memory_db.transaction("r", namespace=space) as txn:
            restore(txn.runs, exported[0])

    @pytest.mark.parametrize(
        ("field", "error"),
        [
            ({"created_at": -1}, ValueError),
            ({"updated_at": 2**63}, ValueError),
            ({"completed_at": "x"}, TypeError),
            ({"status": "Active"}, TypeError),
            ({"tags": "t"}, TypeError),
        ],
        ids=repr,
    )
    def test_bad_fields_are_refused(
        self, memory_db: shoal.Database, runs: RunIndex, space: shoal.Namespace, field: Any, error: type[Exception]
    ) -> None:
        """A run with a field no run can have is TypeError or ValueError, and nothing of it is registered."""
        fields = vars(runs.create_run(run_id="r")) | {"run_id": "bad"} | field
        with pytest.raises(error), memory_db.transaction("r", namespace=space) as txn:
            restore(txn.runs, RunMetadata(**fields))
        assert runs.list_runs() == ["r"]
