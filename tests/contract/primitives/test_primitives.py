"""Each primitive over every engine: its calls by themselves."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

import shoal
from shoal import RunQuery, RunStatus, Trace, TraceType
from tests.contract.primitives.conftest import Stores
from tests.support.present import present

THOUGHT = TraceType.Thought("so")


def in_threads(count: int, work: Callable[[int], object]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


class TestKVStore:
    def test_keys_and_values(self, of: Stores) -> None:
        """Put, get, list, delete; names of any characters do not collide, and runs are apart."""
        names = ["a", "a\0", "a/b", "ab", "b", "é", "\U0001f600"]
        for name in names:
            of.kv.put("r", name, {"of": name})
        of.kv.put("other", "a", "theirs")
        assert of.kv.list_with_values("r") == [(name, {"of": name}) for name in sorted(names)]
        assert of.kv.list("r", "a") == ["a", "a\0", "a/b", "ab"]
        assert (of.kv.delete("r", "a"), of.kv.delete("r", "a"), of.kv.exists("r", "a")) == (True, False, False)
        assert (of.kv.get("r", "a", "none"), of.kv.get("other", "a")) == ("none", "theirs")

    def test_expiry(self, of: Stores) -> None:
        """A ttl is counted down, kept by increment, ended by a put without one; then the key is absent everywhere."""
        of.kv.put("r", "n", 1, ttl=timedelta(hours=1))
        of.kv.increment("r", "n")
        assert 0 < present(of.kv.ttl("r", "n")) <= 3600
        of.kv.put("r", "n", 1)
        assert of.kv.ttl("r", "n") is None
        of.kv.put_with_ttl("r", "short", 1, 0.05)
        deadline = time.monotonic() + 20
        while of.kv.exists("r", "short"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (of.kv.get("r", "short"), of.kv.list("r")) == (None, ["n"])

    def test_increments_of_threads_add_up(self, of: Stores) -> None:
        """increment never conflicts."""
        in_threads(4, lambda _: [of.kv.increment("r", "n", 2) for _ in range(40)])
        assert of.kv.get("r", "n") == 320
        of.kv.put("r", "text", "x")
        with pytest.raises(TypeError, match="increment found a value of type str"):
            of.kv.increment("r", "text")
        with pytest.raises(shoal.LimitExceededError):
            of.kv.increment("r", "n", 2**64 - 1)
        assert of.kv.get("r", "n") == 320


class TestEventLog:
    def test_a_chain(self, of: Stores) -> None:
        """Sequences without gaps, each event after the one before, found by number, type and range."""
        assert of.events.is_empty("r")
        first = of.events.append("r", "a", {"z": 1, "a": [1, 2.0]})
        many = of.events.append_many("r", [("b", number) for number in range(300)])
        assert [first.sequence, many[0].sequence, many[-1].sequence, of.events.len("r")] == [0, 1, 300, 301]
        events = list(of.events.iter("r"))
        assert [event.sequence for event in events] == list(range(301))
        assert events[0].prev_hash == shoal.GENESIS_HASH
        assert all(one.hash == two.prev_hash for one, two in itertools.pairwise(events))
        assert of.events.read("r", 7) == events[7]
        assert of.events.read("r", 301) is None
        assert of.events.read_range("r", 5, 9) == events[5:9]
        assert of.events.read_by_type("r", "b") == events[1:]
        assert of.events.head("r") == events[-1]
        assert shoal.EventLog.verify(events)

    def test_anchors(self, of: Stores) -> None:
        """A log verifies against an anchor of its past, and not against one of another log."""
        of.events.append("r", "a", 1)
        anchor = of.events.anchor("r")
        of.events.append("r", "a", 2)
        assert of.events.verify_chain("r", anchor)
        of.events.append("other", "a", 3)
        assert not of.events.verify_chain("other", anchor)

    def test_appends_of_threads(self, of: Stores) -> None:
        """Nobody conflicts, no sequence is left out or given twice."""
        in_threads(4, lambda me: [of.events.append("r", f"of {me}", number) for number in range(25)])
        assert of.events.len("r") == 100
        assert [event.payload for event in of.events.read_by_type("r", "of 2")] == list(range(25))
        assert of.events.verify_chain("r")

    def test_follow(self, of: Stores) -> None:
        """It yields what is there, then what comes, and ends when nothing does."""
        of.events.append("r", "e", 0)
        timer = threading.Timer(0.1, lambda: of.events.append_many("r", [("e", 1), ("e", 2)]))
        timer.start()
        following = of.events.follow("r", timeout=30)
        assert [next(following).payload for _ in range(3)] == [0, 1, 2]
        timer.join()
        assert [event.payload for event in of.events.follow("r", start=2, timeout=0.01)] == [2]

    def test_append_only(self, of: Stores) -> None:
        """Neither update nor delete, by the facade or in a transaction."""
        with of.transaction() as txn:
            call: Callable[[], object]
            for call in (lambda: of.events.update("r", 0), lambda: of.events.delete("r", 0), txn.events.update):
                with pytest.raises(shoal.InvalidOperationError, match="append-only"):
                    call()


class TestStateCell:
    def test_versions(self, of: Stores) -> None:
        """They rise with every change, also over delete and init; cas changes exactly the version it names."""
        assert [of.state.init("r", "c", 0), of.state.cas("r", "c", 1, "one"), of.state.set("r", "c", "two")] == [
            1,
            2,
            3,
        ]
        with pytest.raises(shoal.CASConflictError) as caught:
            of.state.cas("r", "c", 2, "late")
        assert (caught.value.key, caught.value.expected, caught.value.actual) == ("c", 2, 3)
        with pytest.raises(shoal.AlreadyExistsError):
            of.state.init("r", "c", 0)
        assert (of.state.delete("r", "c"), of.state.delete("r", "c"), of.state.read("r", "c")) == (True, False, None)
        with pytest.raises(shoal.NotFoundError):
            of.state.cas("r", "c", 3, "x")
        assert of.state.list("r") == []
        assert of.state.init("r", "c", "again") == 4
        state = present(of.state.read("r", "c"))
        assert (state.value, state.version, of.state.list("r")) == ("again", 4, ["c"])

    def test_transitions_of_threads(self, of: Stores) -> None:
        """None is lost, whoever is first."""
        of.state.init("r", "n", 0)
        step = lambda state: (state.value + 1, state.value)  # noqa: E731
        in_threads(4, lambda _: [of.state.transition("r", "n", step) for _ in range(20)])
        state = present(of.state.read("r", "n"))
        assert (state.value, state.version) == (80, 81)

    def test_wait(self, of: Stores) -> None:
        """It ends with the first newer state, with None after its time, and with an error if the run goes."""
        of.state.init("r", "c", 0)
        assert present(of.state.wait("r", "c", 0, timeout=0)).version == 1
        assert of.state.wait("r", "c", 1, timeout=0.02) is None
        timer = threading.Timer(0.1, of.state.set, ("r", "c", "new"))
        timer.start()
        assert present(of.state.wait("r", "c", 1, timeout=30)).value == "new"
        timer = threading.Timer(0.1, of.runs.delete_run, ("r",))
        timer.start()
        with pytest.raises(shoal.NotFoundError, match="its run was deleted"):
            of.state.wait("r", "c", 2, timeout=30)
        timer.join()


class TestTraceStore:
    def test_trees_and_queries(self, of: Stores) -> None:
        """Every index finds what was recorded, in order of time and id."""
        root = of.traces.record("r", TraceType.Decision("which?", ["a", "b"], "a"), tags=["plan", "t"])
        call = of.traces.record_child("r", root, TraceType.ToolCall("read", {"path": "a"}), tags=["t"])
        leaf = of.traces.record_child("r", call, TraceType.Custom("mine", [1]), metadata={"m": 1})
        assert [(depth, trace.id) for depth, trace in of.traces.get_tree("r", root).walk()] == [
            (0, root),
            (1, call),
            (2, leaf),
        ]
        ids: Callable[[list[Trace]], set[str]] = lambda traces: {trace.id for trace in traces}  # noqa: E731
        assert ids(of.traces.query_by_tag("r", "t")) == {root, call}
        assert (
            ids(of.traces.query_by_type("r", "mine")) == ids(of.traces.query_by_type("r", TraceType.Custom)) == {leaf}
        )
        assert ids(of.traces.query("r", tag="t", parent_id=root)) == {call}
        assert ids(of.traces.query_by_time("r", 0, 2**60)) == {root, call, leaf} == set(of.traces.list("r"))
        assert (of.traces.count("r"), present(of.traces.get("r", leaf)).metadata) == (3, {"m": 1})

    def test_an_id_is_used_once_and_a_parent_is_there(self, of: Stores) -> None:
        """Else nothing is recorded, in no index."""
        of.traces.record("r", THOUGHT, id="a")
        with pytest.raises(shoal.AlreadyExistsError):
            of.traces.record("r", THOUGHT, id="a", tags=["t"])
        with pytest.raises(shoal.NotFoundError):
            of.traces.record_child("r", "nobody", THOUGHT, tags=["t"])
        assert (of.traces.list("r"), of.traces.query_by_tag("r", "t")) == (["a"], [])


class TestRunIndex:
    def test_lifecycle(self, of: Stores) -> None:
        """Only the transitions there are; queries and statistics follow."""
        of.runs.create_run(run_id="a", tags=["t"], metadata={"m": 1})
        of.runs.create_run(run_id="b", parent_run="a", tags=["t", "u"])
        assert of.runs.pause_run("a").status is RunStatus.Paused
        with pytest.raises(shoal.InvalidStatusTransitionError):
            of.runs.complete_run("a")
        failed = of.runs.fail_run("b", "broken")
        assert (failed.error, failed.completed_at == failed.updated_at) == ("broken", True)
        ids: Callable[[RunQuery], list[str]] = lambda query: [run.run_id for run in of.runs.query_runs(query)]  # noqa: E731
        assert [ids(RunQuery(tags=["t"])), ids(RunQuery(status=RunStatus.Failed)), ids(RunQuery(limit=1))] == [
            ["a", "b"],
            ["b"],
            ["a"],
        ]
        assert of.runs.add_tags("a", ["v", "t"]).tags == ["t", "v"]
        assert of.runs.remove_tags("a", ["t"]).tags == ["v"]
        assert ids(RunQuery(tags=["t"])) == ["b"]
        of.runs.archive_run("a")
        assert (ids(RunQuery()), of.runs.list_runs()) == (["b"], ["a", "b"])
        assert [run.run_id for run in of.runs.get_child_runs("a")] == ["b"]
        stats = of.runs.get_stats()
        assert (stats.total_runs, stats.failed_runs, stats.archived_runs, stats.active_runs) == (2, 1, 1, 0)
        with pytest.raises(shoal.AlreadyExistsError):
            of.runs.create_run(run_id="a")
        with pytest.raises(shoal.NotFoundError):
            of.runs.create_run(parent_run="nobody")

    def test_fork_and_delete(self, of: Stores) -> None:
        """A fork has all that the run holds, versions and hashes too; deleting takes everything, children if asked."""
        of.runs.create_run(run_id="r")
        of.kv.put("r", "k", 1, ttl=3600)
        of.events.append_many("r", [("e", 1), ("e", 2)])
        of.state.init("r", "c", 1)
        of.state.set("r", "c", 2)
        of.traces.record("r", THOUGHT, id="t")
        assert of.runs.fork_run("r", new_run_id="f").parent_run == "r"
        assert list(of.events.iter("f")) == list(of.events.iter("r"))
        assert (of.state.read("f", "c"), of.traces.get("f", "t")) == (of.state.read("r", "c"), of.traces.get("r", "t"))
        assert present(of.kv.ttl("f", "k")) > 0
        with pytest.raises(shoal.AlreadyExistsError):
            of.runs.fork_run("r", new_run_id="f")
        of.runs.delete_run("r", cascade_children=True)
        for run in ("r", "f"):
            assert of.runs.get_run(run) is None
            assert (of.kv.list(run), of.events.len(run), of.state.list(run), of.traces.count(run)) == ([], 0, [], 0)
        with pytest.raises(shoal.NotFoundError):
            of.runs.delete_run("r")
        assert of.state.init("r", "c", 1) == 1
