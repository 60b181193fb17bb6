"""``runs.diff``: what two runs differ in, and ``shoal diff``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import shoal
from shoal import Difference, EventLog, KVStore, Namespace, RunIndex, StateCell, TraceStore, TraceType
from shoal.cli.main import main
from tests.support.slow import slow


def filled(db: shoal.Database, run_id: str = "a") -> None:
    KVStore(db).put(run_id, "k", {"x": 1, "y": [1]})
    EventLog(db).append_many(run_id, [("one", 1), ("two", 2), ("three", 3)])
    StateCell(db).set(run_id, "c", "v")
    TraceStore(db).record(run_id, TraceType.Decision("q", ["x", "y"], "x"), id="t", tags=["tag"], metadata={"m": 1})


@pytest.mark.long
def test_a_fork_differs_in_nothing(db: shoal.Database) -> None:
    """A run is equal to its fork, and to itself."""
    filled(db)
    RunIndex(db).fork_run("a", new_run_id="b")
    assert RunIndex(db).diff("a", "b") == ([], [], [], [])
    assert RunIndex(db).diff("a", "a") == ([], [], [], [])


@pytest.mark.long
def test_every_kind_of_difference(db: shoal.Database) -> None:
    """Changed, only in one, only in the other; in the order of names; events from where the logs part."""
    filled(db)
    runs, kv, cells, events, traces = RunIndex(db), KVStore(db), StateCell(db), EventLog(db), TraceStore(db)
    runs.fork_run("a", new_run_id="b")
    kv.put("b", "k", {"x": 1, "y": [2]})
    kv.put("a", "only a", None)
    kv.put("b", "é", b"x")
    cells.set("b", "c", "w")
    cells.delete("a", "gone")
    cells.init("b", "new", 1)
    events.append("a", "four", "of a")
    events.append_many("b", [("four", "of b"), ("five", None)])
    traces.record("b", TraceType.Thought("hm"), id="s")
    diff = runs.diff("a", "b")
    assert diff.kv == [
        Difference("k", {"x": 1, "y": [1]}, {"x": 1, "y": [2]}),
        Difference("only a", None, None),
        Difference("é", None, b"x"),
    ]
    assert diff.state == [
        Difference("c", cells.read("a", "c"), cells.read("b", "c")),
        Difference("new", None, cells.read("b", "new")),
    ]
    assert diff.events == [
        Difference(3, events.read("a", 3), events.read("b", 3)),
        Difference(4, None, events.read("b", 4)),
    ]
    assert diff.traces == [Difference("s", None, traces.get("b", "s"))]
    back = runs.diff("b", "a")
    assert [[(name, b, a) for name, a, b in part] for part in back] == [list(map(tuple, part)) for part in diff]


@pytest.mark.long
def test_values_are_compared_with_their_types_and_not_by_order_or_time(db: shoal.Database) -> None:
    """1, True and 1.0 differ; the order of dict keys and the times of cells and traces do not count."""
    kv, cells, traces = KVStore(db), StateCell(db), TraceStore(db)
    for i, run in enumerate("ab"):
        kv.put(run, "order", {"x": 1, "y": 2} if i else {"y": 2, "x": 1})
        kv.put(run, "type", [1, True][i])
        kv.put(run, "float", [1, 1.0][i])
        cells.init(run, "c", [1])
        traces.record(run, TraceType.Thought("hm"), id="t")
    diff = RunIndex(db).diff("a", "b")
    assert [each.name for each in diff.kv] == ["float", "type"]
    assert (diff.state, diff.traces) == ([], [])


@pytest.mark.parametrize("same", [0, 1, *slow(2, 63), 200])
def test_events_part_where_they_part(db: shoal.Database, same: int) -> None:
    """Also if one log is the beginning of the other, or both begin apart."""
    events, runs = EventLog(db), RunIndex(db)
    KVStore(db).put("a", "k", 1)
    if same:
        events.append_many("a", [("same", i) for i in range(same)])
    runs.fork_run("a", new_run_id="b")
    assert runs.diff("a", "b").events == []
    events.append("a", "more", 1)
    assert runs.diff("a", "b").events == [Difference(same, events.read("a", same), None)]
    events.append("b", "other", 1)
    assert [each.name for each in runs.diff("a", "b").events] == [same]


def test_what_was_trimmed_is_no_difference(db: shoal.Database) -> None:
    """Of forks, the one that was trimmed begins later; events are compared by their sequences, not by their places."""
    events, runs = EventLog(db), RunIndex(db)
    events.append_many("a", [("same", i) for i in range(6)])
    for before in (2, 5, 6):
        trimmed = runs.fork_run("a").run_id
        events.trim(trimmed, before)
        assert runs.diff("a", trimmed).events == runs.diff(trimmed, "a").events == []
    runs.fork_run("a", new_run_id="b")
    events.append("b", "of b", 1)
    events.append("a", "of a", 1)
    events.trim("b", 3)
    assert runs.diff("a", "b").events == [Difference(6, events.read("a", 6), events.read("b", 6))]
    events.trim("b", 6)
    events.trim("a", 4)
    assert [each.name for each in runs.diff("a", "b").events] == [6]


def test_logs_that_part_in_what_was_trimmed(db: shoal.Database) -> None:
    """Nobody knows where: each event that is left differs, and stands at its own sequence."""
    events, runs = EventLog(db), RunIndex(db)
    for run in "ab":
        events.append_many(run, [(run, i) for i in range(4)])
    events.trim("b", 2)
    assert runs.diff("a", "b").events == [Difference(i, events.read("a", i), events.read("b", i)) for i in range(4)]
    assert events.trim("b", 4) == 2
    assert [(each.a is None, each.b is None) for each in runs.diff("a", "b").events] == [(False, True)] * 4
    events.append_many("c", [("c", 0)])
    assert [each.name for each in runs.diff("c", "b").events] == [0]
    events.append("b", "b", 4)
    assert [(name, a and a.sequence, b and b.sequence) for name, a, b in runs.diff("c", "b").events] == [
        (0, 0, None),
        (4, None, 4),
    ]


def test_unknown_runs_and_other_namespaces(db: shoal.Database) -> None:
    """A run of which the namespace has nothing is ``NotFoundError``; one that is registered and empty is compared."""
    filled(db)
    runs = RunIndex(db)
    with pytest.raises(shoal.NotFoundError, match="'b'"):
        runs.diff("a", "b")
    runs.create_run(run_id="b")
    assert [each.a is None for each in runs.diff("b", "a").kv] == [True]
    with pytest.raises(shoal.NotFoundError):
        RunIndex(db, namespace=Namespace(agent="other")).diff("a", "b")
    with pytest.raises(TypeError):
        runs.diff("a", 1)  # type: ignore[arg-type]
    with db.transaction("a") as txn:
        txn.kv.delete("k")
        assert txn.runs.diff("a", "b").kv == []


@pytest.mark.long
def test_the_command(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``shoal diff`` prints each difference on a line, control characters escaped, or as JSON; 1 for an unknown run."""
    with shoal.open(store) as db:
        filled(db)
        RunIndex(db).fork_run("a", new_run_id="b")
        KVStore(db).put("b", "k", "new\x1b")
        EventLog(db).append("b", "four", 4)
        StateCell(db).set("b", "c", "w")
        TraceStore(db).record("b", TraceType.Thought("hm"), id="s")
    assert main(["diff", str(store), "a", "b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == r'kv      k: {"x":1,"y":[1]} -> "new\u001b"'
    assert lines[1:3] == ['state   c: "v" (version 1) -> "w" (version 2)', "events  3: - -> four 4"]
    assert lines[3].startswith("traces  s: - -> ")
    assert main(["diff", str(store), "a", "b", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["kind"], row["name"]) for row in rows] == [("kv", "k"), ("state", "c"), ("events", 3), ("traces", "s")]
    assert main(["diff", str(store), "a", "nobody"]) == 1
    assert "nobody" in capsys.readouterr().err
