"""Retention policies: how they are set, and what a pass removes by them, at a time of the test's own."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

import shoal
from shoal import RetentionPolicy, TraceType
from shoal.shm import codec
from tests.support.upkeep import LEAST_SLICE, append_at, archive_at, do_pass, record_at

NOW = 1_900_000_000_000  # 2030: the policies here keep all until then, whatever the store's own coordinator does
AGE_S = 4_000.0
OLD, YOUNG = NOW - 4_000_000, NOW - 3_999_999


def test_set_and_get(any_db: shoal.Database, run: str, space: shoal.Namespace) -> None:
    """Of a namespace, of a run (which has its namespace's without one), taken away, in a transaction."""
    runs = shoal.RunIndex(any_db, namespace=space)
    assert (runs.get_retention(), runs.get_retention(run)) == (None, None)
    of_all = RetentionPolicy(events=10**6, event_age=timedelta(days=1e4), trace_age=1e9 - 1, archived_age=1e8)
    runs.set_retention(of_all)
    assert (runs.get_retention(), runs.get_retention(run_id=run)) == (of_all, of_all)
    runs.set_retention(RetentionPolicy(), run_id=run)
    assert (runs.get_retention(), runs.get_retention(run)) == (of_all, RetentionPolicy())
    assert shoal.RunIndex(any_db).get_retention() is None
    with any_db.transaction(run, namespace=space) as txn:
        txn.runs.set_retention(RetentionPolicy(task_age=5), run)
        assert txn.runs.get_retention(run) == RetentionPolicy(task_age=5)
    runs.set_retention(None, run)
    assert runs.get_retention(run) == of_all
    runs.set_retention(None)
    assert runs.get_retention(run) is None


def test_a_policy_goes_with_its_run(any_db: shoal.Database, run: str, space: shoal.Namespace) -> None:
    """Deleted with it; a fork has none; a pass forgets the place where it was."""
    runs, kv = shoal.RunIndex(any_db, namespace=space), shoal.KVStore(any_db, namespace=space)
    kv.put(run, "k", 1)
    runs.set_retention(RetentionPolicy(events=10**6), run)
    fork = runs.fork_run(run).run_id
    assert runs.get_retention(fork) is None
    runs.delete_run(run)
    assert runs.get_retention(run) is None
    do_pass(any_db, NOW, 1000)
    index = b"\0\3" + space._run_prefix(run)
    assert any_db._store.auto_commit.find(index) is None


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"events": -1}, ValueError, "events is -1"),
        ({"events": 1 << 63}, ValueError, r"events is 9223372036854775808; give 0 to 2\*\*63 - 1"),
        ({"events": 1 << 70}, ValueError, "events is"),
        ({"events": 1.0}, TypeError, "events has type float"),
        ({"events": True}, TypeError, "events has type bool"),
        ({"event_age": -0.1}, ValueError, "event_age is -0.1"),
        ({"trace_age": "1"}, TypeError, "trace_age has type str"),
        ({"archived_age": timedelta(-1)}, ValueError, "archived_age is"),
        ({"task_age": math.nan}, ValueError, "task_age is nan"),
    ],
)
def test_bad_policies(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    """Refused where they are made, with value and remedy."""
    with pytest.raises(error, match=text):
        RetentionPolicy(**arguments)


def test_bad_arguments(any_db: shoal.Database, run: str, space: shoal.Namespace) -> None:
    """Refused before anything is written."""
    runs = shoal.RunIndex(any_db, namespace=space)
    with pytest.raises(TypeError, match="policy has type dict"):
        runs.set_retention({"events": 1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="run_id is empty"):
        runs.set_retention(RetentionPolicy(), "")
    with pytest.raises(TypeError, match="run_id"):
        runs.get_retention(5)  # type: ignore[arg-type]
    assert runs.get_retention() is None
    assert RetentionPolicy(event_age=math.inf).event_age is None


def test_events_by_count_and_age(any_db: shoal.Database, run: str, space: shoal.Namespace) -> None:
    """Either bound is enough; an age counts to the millisecond; 0 keeps nothing, and the log goes on."""
    log, runs = shoal.EventLog(any_db, namespace=space), shoal.RunIndex(any_db, namespace=space)
    append_at(any_db, space, run, OLD, *"aaaaa")
    append_at(any_db, space, run, YOUNG, *"bbb")
    append_at(any_db, space, run, YOUNG, *"c")
    runs.set_retention(RetentionPolicy(event_age=AGE_S))
    do_pass(any_db, NOW, LEAST_SLICE)
    assert log.first_sequence(run) == 5
    do_pass(any_db, NOW + 1, LEAST_SLICE)
    assert (log.first_sequence(run), log.len(run), log.verify_chain(run).is_valid) == (9, 9, True)
    append_at(any_db, space, run, NOW, *"dddddd")
    runs.set_retention(RetentionPolicy(events=2), run)
    do_pass(any_db, NOW, LEAST_SLICE)
    assert [event.sequence for event in log.iter(run)] == [13, 14]
    runs.set_retention(RetentionPolicy(events=0), run)
    do_pass(any_db, NOW, LEAST_SLICE)
    assert (list(log.iter(run)), log.append(run, "e", 1).sequence) == ([], 15)
    assert log.verify_chain(run).is_valid


def test_a_parent_stays_as_long_as_its_children(any_db: shoal.Database, run: str, space: shoal.Namespace) -> None:
    """What is kept can be found with all above it; when the last child goes, so do the parents that stayed for it."""
    traces, runs = shoal.TraceStore(any_db, namespace=space), shoal.RunIndex(any_db, namespace=space)
    for number in range(30):  # a chain, all old but the last
        record_at(
            any_db,
            space,
            run,
            OLD if number < 29 else YOUNG,
            f"chain {number:02}",
            f"chain {number - 1:02}" if number else None,
        )
    record_at(any_db, space, run, OLD, "root")
    for number in range(30):
        record_at(any_db, space, run, OLD - number % 2, f"leaf {number:02}", "root")
    record_at(any_db, space, run, YOUNG, "young", "root")
    runs.set_retention(RetentionPolicy(trace_age=AGE_S))
    do_pass(any_db, NOW, LEAST_SLICE)
    assert sorted(traces.list(run)) == [*(f"chain {number:02}" for number in range(30)), "root", "young"]
    assert len(list(traces.get_tree(run, "chain 00").walk())) == 30
    assert [trace.id for trace in traces.get_children(run, "root")] == ["young"]
    assert do_pass(any_db, NOW + 1, LEAST_SLICE) > 5
    assert (traces.list(run), traces.query_by_tag(run, "a"), traces.query_by_type(run, TraceType.Custom)) == (
        [],
        [],
        [],
    )
    prefix = space._run_prefix(run) + b"\4"
    assert list(any_db._store.auto_commit.scan(prefix, prefix + b"\xff")) == []


def test_archived_runs(any_db: shoal.Database, run: str, space: shoal.Namespace) -> None:
    """Those archived long enough ago go with all they hold, small or large, and with their own policy; others stay."""
    runs, kv = shoal.RunIndex(any_db, namespace=space), shoal.KVStore(any_db, namespace=space)
    for name, keys, when in (
        ("small", 3, OLD),
        ("large", 100, OLD),
        ("empty", 0, OLD),
        ("young", 3, YOUNG),
        ("own", 2, OLD),
    ):
        archive_at(any_db, space, name, when)
        for number in range(keys):
            kv.put(name, str(number), number)
    kv.put("unregistered", "k", 1)
    runs.create_run(run_id="active")
    runs.set_retention(RetentionPolicy(), "own")
    runs.set_retention(RetentionPolicy(archived_age=AGE_S))
    do_pass(any_db, NOW, LEAST_SLICE)
    assert sorted(runs.list_runs()) == ["active", "own", "young"]
    assert runs.get_stats().archived_runs == 2
    assert [kv.list(name) for name in ("small", "large", "unregistered")] == [[], [], ["k"]]
    assert runs.query_runs(shoal.RunQuery(tags=["t"], include_archived=True)) != []
    runs.set_retention(RetentionPolicy(archived_age=AGE_S), "own")
    do_pass(any_db, NOW + 1, LEAST_SLICE)
    assert (runs.list_runs(), kv.list("own"), kv.list("young")) == (["active"], [], [])
    assert runs.get_retention("own") == runs.get_retention()
    with pytest.raises(shoal.NotFoundError):
        runs.delete_run("small")


def test_damage_is_left_and_the_rest_goes_on(any_db: shoal.Database, run: str, space: shoal.Namespace) -> None:
    """A log whose record is damaged is left as it is; its traces, and the runs behind it, are treated as ever."""
    log, runs = shoal.EventLog(any_db, namespace=space), shoal.RunIndex(any_db, namespace=space)
    for name in ("a", "b"):
        append_at(any_db, space, name, OLD, *"eeee")
        record_at(any_db, space, name, OLD, "t")
    engine = any_db._store.auto_commit
    engine.put(log._views["a"]._prefix + b"\0", b"damaged")
    traces = space._run_prefix("c") + b"\4"
    engine.put(traces + b"\4" + bytes(8) + b"t", b"")  # an index entry, and a record with a time that fits into no key
    engine.put(traces + b"\0t", codec.pack([None, "Thought", codec.encode({}), -1, [], None]))
    engine.put(b"\0\3" + space._prefix[:-1], b"")  # an entry that no primitive writes
    runs.set_retention(RetentionPolicy(events=1, trace_age=AGE_S))
    do_pass(any_db, NOW, LEAST_SLICE)
    assert log.read("a", 0) is not None
    assert log.first_sequence("b") == 3
    assert [shoal.TraceStore(any_db, namespace=space).count(name) for name in ("a", "b")] == [0, 0]
    engine.delete(b"\0\3" + space._prefix[:-1])
    runs.set_retention(None)
