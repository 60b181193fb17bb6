"""TraceStore: section 6 of the contract, beyond the plan's lists."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import itertools
import pickle
import threading
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shoal
from shoal import (
    AlreadyExistsError,
    ConflictError,
    InvalidOperationError,
    LimitExceededError,
    NotFoundError,
    Trace,
    TraceOptions,
    TraceTree,
    TraceType,
)

THOUGHT = TraceType.Thought("hm")
NASTY = ["\0", "a\0b", "__idx_", "a__b", "__", "type", "/", "\n", "é", "🦀", "\uffff", "k" * 1024, "é" * 512]
NUMBERS = itertools.count()


@pytest.fixture
def traces(memory_db: shoal.Database) -> shoal.TraceStore:
    return shoal.TraceStore(memory_db)


def _ids(found: list[Trace]) -> list[str]:
    return [trace.id for trace in found]


def _restore(db: shoal.Database, run: str, *traces: Trace) -> None:
    with db.transaction(run) as txn:
        for trace in traces:
            txn.traces.restore(trace)


def _at(timestamp: int, trace_id: str, **parts) -> Trace:
    parts = {"parent_id": None, "trace_type": THOUGHT, "tags": [], "metadata": None} | parts
    return Trace(trace_id, timestamp=timestamp, **parts)


class TestRecord:
    def test_defaults_are_a_root_without_tags_or_metadata(self, traces, run):
        """What is not given is None, and no tags."""
        trace = traces.get(run, traces.record(run, THOUGHT))
        assert (trace.parent_id, trace.tags, trace.metadata) == (None, [], None)

    def test_tags_keep_their_order_each_once(self, traces, run):
        """Duplicates collapse; tuples, lists, sets and generators will do."""
        traces.record(run, THOUGHT, id="t", tags=("b", "a", "b", "c", "a"))
        assert traces.get(run, "t").tags == ["b", "a", "c"]
        assert _ids(traces.query_by_tag(run, "b")) == ["t"]
        traces.record(run, THOUGHT, id="g", tags=(tag for tag in "xy"))
        assert traces.get(run, "g").tags == ["x", "y"]

    def test_values_read_back_as_values_do(self, traces, run):
        """Tuples read back as lists, datetimes as the same moment; lone surrogates in what a trace says are kept."""
        moment = datetime(2026, 11, 22, tzinfo=UTC)
        kind = TraceType.ToolCall("read", {"path": "\udcff", "when": (moment, b"x")}, (1, 2), 0.5)
        traces.record(run, kind, id="t", metadata=("m", {"when": moment}))
        trace = traces.get(run, "t")
        assert trace.trace_type == TraceType.ToolCall("read", {"path": "\udcff", "when": [moment, b"x"]}, [1, 2], 0.5)
        assert trace.metadata == ["m", {"when": moment}]

    def test_options_of_a_decision_may_be_a_tuple(self, traces, run):
        """A tuple of options is the list of them, before and after."""
        decision = TraceType.Decision("which?", ("a", "b"), "a")
        assert decision == TraceType.Decision("which?", ["a", "b"], "a")
        assert traces.get(run, traces.record(run, decision)).trace_type == decision

    def test_falsy_metadata_is_not_none(self, traces, run):
        """Empty values are values."""
        for value in ({}, [], 0, False, ""):
            read = traces.get(run, traces.record(run, THOUGHT, metadata=value)).metadata
            assert (read, type(read)) == (value, type(value))

    def test_an_id_used_twice_is_refused(self, traces, run):
        """AlreadyExistsError, and the first trace stays as it is, its indices too."""
        traces.record(run, THOUGHT, id="t", tags=["old"])
        with pytest.raises(AlreadyExistsError, match="trace 't' exists already"):
            traces.record(run, TraceType.Error("E", "m", True), id="t", tags=["new"])
        assert traces.get(run, "t").trace_type == THOUGHT
        assert traces.query_by_tag(run, "new") == traces.query_by_type(run, "Error") == []
        assert traces.count(run) == 1

    def test_a_trace_is_not_its_own_parent(self, traces, run):
        """At the moment it is recorded it does not exist, so there are no cycles."""
        with pytest.raises(NotFoundError):
            traces.record(run, THOUGHT, id="t", parent_id="t")
        assert traces.list(run) == []

    def test_a_parent_in_another_run_or_namespace_is_none(self, memory_db, traces, run):
        """Traces of a run are its own."""
        traces.record(run, THOUGHT, id="t", tags=["a"])
        other = shoal.TraceStore(memory_db, namespace=shoal.Namespace(tenant="other"))
        for store, where in ((traces, run + "x"), (other, run)):
            assert store.get(where, "t") is None
            assert store.query_by_tag(where, "a") == store.list(where) == []
            with pytest.raises(NotFoundError):
                store.record_child(where, "t", THOUGHT)

    def test_one_of_many_gets_the_id(self, traces, run):
        """Threads that record one id at once: one succeeds, the others are told; records never conflict."""
        outcomes = []

        def record():
            try:
                outcomes.append(traces.record(run, THOUGHT, id="t"))
            except AlreadyExistsError:
                outcomes.append(None)

        threads = [threading.Thread(target=record) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes, key=str) == [None] * 5 + ["t"]

    def test_a_clock_set_back_changes_the_order_only(self, memory_db, traces, run, monkeypatch):
        """A child may be older than its parent; it is found all the same."""
        for moment, parent_id, trace_id in ((100, None, "p"), (50, "p", "c"), (100, "p", "a")):
            monkeypatch.setattr("shoal.primitives.trace_store.now_ms", lambda moment=moment: moment)
            traces.record(run, THOUGHT, id=trace_id, parent_id=parent_id)
        assert traces.list(run) == ["c", "a", "p"]
        assert _ids(traces.get_children(run, "p")) == ["c", "a"]


class TestText:
    def test_nasty_ids_tags_and_names_stay_apart(self, traces, run):
        """Any text is an id, tag, parent or type name, and finds what bears it and nothing else."""
        for i, text in enumerate(NASTY):
            traces.record(run, TraceType.Custom(text, None), id=text, tags=[text])
            traces.record_child(run, text, THOUGHT, id=f"c{i}")
        assert traces.count(run) == 2 * len(NASTY)
        for i, text in enumerate(NASTY):
            assert traces.get(run, text).tags == [text]
            assert _ids(traces.query_by_tag(run, text)) == [text]
            assert _ids(traces.query_by_type(run, text)) == [text]
            assert _ids(traces.get_children(run, text)) == [f"c{i}"]
            assert [trace.id for _, trace in traces.get_tree(run, text).walk()] == [text, f"c{i}"]

    @pytest.mark.parametrize(
        ("bad", "error"), [("", ValueError), ("\ud800", ValueError), ("k" * 1025, LimitExceededError), (7, TypeError)]
    )
    def test_bad_text_is_refused_everywhere(self, traces, run, bad, error):
        """Empty, not UTF-8, too long, not a str: refused with a message that names it, nothing recorded."""
        calls = {
            "id": lambda: traces.record(run, THOUGHT, id=bad),
            "parent_id": lambda: traces.record(run, THOUGHT, parent_id=bad),
            "a tag": lambda: traces.record(run, THOUGHT, tags=["good", bad]),
            "trace_type": lambda: traces.record(run, TraceType.Custom(bad, None)),
            "tag": lambda: traces.query_by_tag(run, bad),
            "type": lambda: traces.query_by_type(run, bad),
            "trace_id": lambda: traces.get(run, bad),
        }
        calls |= {
            "parent_id ": lambda: traces.get_children(run, bad),
            "parent_id  ": lambda: traces.record_child(run, bad, THOUGHT),
            "trace_id ": lambda: traces.get_tree(run, bad),
            "tag ": lambda: traces.query(run, tag=bad),
            "type ": lambda: traces.query(run, type=bad),
            "parent_id   ": lambda: traces.query(run, parent_id=bad),
        }
        for named, call in calls.items():
            with pytest.raises(error, match=named.strip()):
                call()
        assert traces.count(run) == 0


class TestBadArguments:
    def test_kinds_check_their_fields(self):
        """Each field that is of a wrong type or value is refused when the kind is made."""
        for call, error in [
            (lambda: TraceType.ToolCall(None, {}), TypeError),
            (lambda: TraceType.ToolCall("t", {}, None, "3"), TypeError),
            (lambda: TraceType.ToolCall("t", {}, None, True), TypeError),
            (lambda: TraceType.ToolCall("t", {}, None, -1), ValueError),
            (lambda: TraceType.ToolCall("t", {}, None, float("nan")), ValueError),
            (lambda: TraceType.Decision("q", "ab", "a"), TypeError),
            (lambda: TraceType.Decision("q", None, "a"), TypeError),
            (lambda: TraceType.Decision("q", [1], "a"), TypeError),
            (lambda: TraceType.Decision("q", [], None), TypeError),
            (lambda: TraceType.Decision("q", [], "a", 1), TypeError),
            (lambda: TraceType.Query("t", b"q", 1), TypeError),
            (lambda: TraceType.Query("t", "q", 1.0), TypeError),
            (lambda: TraceType.Query("t", "q", -1), ValueError),
            (lambda: TraceType.Thought(b"x"), TypeError),
            (lambda: TraceType.Thought("x", "high"), TypeError),
            (lambda: TraceType.Error("E", "m", 1), TypeError),
            (lambda: TraceType.Error("E", None, True), TypeError),
            (lambda: TraceType.Custom("", 1), ValueError),
            (lambda: TraceType.Custom(None, 1), TypeError),
            (lambda: TraceType(), TypeError),
        ]:
            with pytest.raises(error):
                call()

    @pytest.mark.parametrize("tags", ["tag", b"tag", None, 7, {"a": 1}, [None], [["a"]]], ids=repr)
    def test_tags_are_several_texts(self, traces, run, tags):
        """One str is not a list of tags; neither is anything that holds no texts."""
        with pytest.raises(TypeError, match="tag"):
            traces.record(run, THOUGHT, tags=tags)
        assert traces.count(run) == 0

    @pytest.mark.parametrize("trace_type", [None, "Thought", TraceType.Thought, {"content": "x"}, 7], ids=repr)
    def test_only_a_kind_is_recorded(self, traces, run, trace_type):
        """What is no trace type is refused with the names of those there are."""
        with pytest.raises(TypeError, match=r"make one of TraceType\.ToolCall, "):
            traces.record(run, trace_type)

    def test_other_bad_arguments(self, traces, run):
        """Nones where something must be given, moments and limits that are no integers."""
        for call, error in [
            (lambda: traces.record_child(run, None, THOUGHT), TypeError),
            (lambda: traces.record_with_options(run, THOUGHT, None), TypeError),
            (lambda: traces.record_with_options(run, THOUGHT, {"id": "x"}), TypeError),
            (lambda: traces.get(run, None), TypeError),
            (lambda: traces.query_by_type(run, None), TypeError),
            (lambda: traces.query_by_type(run, THOUGHT), TypeError),
            (lambda: traces.query_by_type(run, TraceType), TypeError),
            (lambda: traces.query_by_type(run, int), TypeError),
            (lambda: traces.query_by_tag(run, None), TypeError),
            (lambda: traces.query_by_time(run, None, 1), TypeError),
            (lambda: traces.query_by_time(run, 0, 1.5), TypeError),
            (lambda: traces.query_by_time(run, True, 1), TypeError),
            (lambda: traces.query(run, limit=-1), ValueError),
            (lambda: traces.query(run, limit=True), TypeError),
            (lambda: traces.query(run, limit="1"), TypeError),
            (lambda: traces.get_children(run, None), TypeError),
            (lambda: traces.record("", THOUGHT), ValueError),
            (lambda: traces.count(7), TypeError),
        ]:
            with pytest.raises(error):
                call()
        assert traces.count(run) == 0

    def test_what_cannot_be_stored_is_named_by_its_path(self, traces, run):
        """The message says where in the trace the offending value is."""
        with pytest.raises(TypeError, match=r"value at \$\.arguments\.fns\[1\] has type builtin"):
            traces.record(run, TraceType.ToolCall("t", {"fns": [1, print]}))
        with pytest.raises(TypeError, match=r"value at \$\.m"):
            traces.record(run, THOUGHT, metadata={"m": object()})
        with pytest.raises(TypeError, match=r"value at \$\.results_count is"):
            traces.record(run, TraceType.Query("t", "q", 2**64))
        assert traces.count(run) == 0

    def test_a_list_changed_after_it_was_checked_is_checked_again(self, traces, run):
        """What would not read back is not recorded."""
        decision = TraceType.Decision("q", ["a"], "a")
        decision.options.append(7)
        with pytest.raises(TypeError, match="an option has type int"):
            traces.record(run, decision)

    def test_too_large_is_refused_before_it_is_sent(self, traces, run):
        """A field, metadata, or all of it together beyond 16 MiB."""
        half = b"x" * (9 << 20)
        for call in (
            lambda: traces.record(run, TraceType.Custom("c", half + half)),
            lambda: traces.record(run, THOUGHT, metadata=half + half),
            lambda: traces.record(run, TraceType.Custom("c", half), metadata=half),
        ):
            with pytest.raises(LimitExceededError, match="the limit is 16,777,216"):
                call()
        assert traces.count(run) == 0


class TestQueries:
    def test_a_class_finds_its_own_a_name_whatever_bears_it(self, traces, run):
        """A Custom may be named like a kind: the name finds both, the classes each their own."""
        traces.record(run, THOUGHT, id="1")
        traces.record(run, TraceType.Custom("Thought", 1), id="2")
        traces.record(run, TraceType.Custom("mine", 2), id="3")
        assert _ids(traces.query_by_type(run, "Thought")) == ["1", "2"]
        assert _ids(traces.query_by_type(run, TraceType.Thought)) == ["1"]
        assert _ids(traces.query_by_type(run, TraceType.Custom)) == ["2", "3"]
        assert traces.query_by_type(run, "Custom") == []

    def test_bounds_beyond_every_moment(self, memory_db, traces, run):
        """Any integers bound a time; start at or after end is nothing."""
        _restore(memory_db, run, _at(0, "a"), _at(2**63 - 1, "b"))
        assert _ids(traces.query_by_time(run, -(10**30), 10**30)) == ["a", "b"]
        assert _ids(traces.query_by_time(run, 0, 2**63 - 1)) == ["a"]
        assert traces.query_by_time(run, 5, -5) == traces.query_by_time(run, 0, 0) == []
        assert _ids(traces.query(run, end=1)) == ["a"]
        assert _ids(traces.query(run, start=1)) == ["b"]

    def test_limit_takes_the_first(self, memory_db, traces, run):
        """limit counts what matches; 0 is none, None all."""
        for i in range(6):
            _restore(memory_db, run, _at(i, f"{i}", tags=["even"] if i % 2 == 0 else ["odd"]))
        assert _ids(traces.query(run, tag="odd", limit=2)) == ["1", "3"]
        assert _ids(traces.query(run, type="Thought", tag="odd", start=2, limit=5)) == ["3", "5"]
        assert traces.query(run, limit=0) == []
        assert len(traces.query(run)) == 6

    def test_unknown_names_find_nothing(self, traces, run):
        """Queries are empty for what nobody used; a tree without a root is NotFoundError."""
        assert traces.query(run, parent_id="x") == traces.query(run, tag="x") == traces.get_children(run, "x") == []
        with pytest.raises(NotFoundError, match="trace 'x' does not exist"):
            traces.get_tree(run, "x")

    @given(data=st.data())
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_every_query_is_what_a_plain_search_finds(self, memory_db, data):
        """Whatever the ids, tags and moments: ordered by time, then id, and all of what is asked for."""
        run = f"plain-search-{next(NUMBERS)}"
        names = st.sampled_from(["a", "aa", "a\0", "\0", "é", "__", "Thought"])
        moments = st.sampled_from([0, 1, 255, 256, 2**32, 2**63 - 1])
        known: list[Trace] = []
        for trace_id in data.draw(st.lists(st.text(st.sampled_from("a\0é_🦀"), min_size=1, max_size=3), unique=True)):
            parent_id = data.draw(st.sampled_from([None, *_ids(known)]))
            kind = data.draw(st.sampled_from([THOUGHT, TraceType.Custom("a", 1), TraceType.Custom("Thought", 1)]))
            tags = data.draw(st.lists(names, max_size=3, unique=True))
            known.append(Trace(trace_id, parent_id, kind, data.draw(moments), tags, None))
        _restore(memory_db, run, *known)
        known.sort(key=lambda trace: (trace.timestamp, trace.id))
        traces = shoal.TraceStore(memory_db)
        assert traces.list(run) == _ids(known)
        for _ in range(4):
            kind, tag = data.draw(st.none() | names | st.just(TraceType.Custom)), data.draw(st.none() | names)
            start, end = data.draw(st.none() | moments), data.draw(st.none() | moments)
            parent_id, limit = (
                data.draw(st.sampled_from([None, *_ids(known)])),
                data.draw(st.none() | st.integers(0, 3)),
            )
            expected = [
                trace
                for trace in known
                if (kind is None or kind in (trace.trace_type.type_name(), type(trace.trace_type)))
                and (tag is None or tag in trace.tags)
                and (start is None or trace.timestamp >= start)
                and (end is None or trace.timestamp < end)
                and (parent_id is None or trace.parent_id == parent_id)
            ][:limit]
            asked = {"type": kind, "tag": tag, "start": start, "end": end, "parent_id": parent_id, "limit": limit}
            assert traces.query(run, **asked) == expected
            with memory_db.transaction(run) as txn:
                assert txn.traces.query(**asked) == expected


class TestTrees:
    def _deep(self, depth: int) -> TraceTree:
        tree = TraceTree(_at(depth, "leaf"), [])
        for i in range(depth):
            tree = TraceTree(_at(i, f"{i}"), [tree])
        return tree

    def test_equality_and_repr_of_any_depth(self):
        """Trees far deeper than Python recurses compare and print."""
        assert self._deep(5000) == self._deep(5000)
        assert self._deep(5000) != self._deep(4999)
        assert repr(self._deep(5000)).endswith("children=[" + "])" * 5001)

    def test_shape_is_part_of_equality(self):
        """The same traces in another shape are another tree; a tree equals no trace."""
        a, b, c = (_at(i, name) for i, name in enumerate("abc"))
        chain = TraceTree(a, [TraceTree(b, [TraceTree(c, [])])])
        fan = TraceTree(a, [TraceTree(b, []), TraceTree(c, [])])
        assert chain != fan
        assert chain != a
        assert fan == TraceTree(a, [TraceTree(b, []), TraceTree(c, [])])
        assert pickle.loads(pickle.dumps(fan)) == fan

    def test_repr_reads_as_what_it_is(self):
        """repr is the expression that makes the tree."""
        leaves = [TraceTree(_at(i, f"{i}"), []) for i in range(3)]
        tree = TraceTree(_at(9, "r"), [TraceTree(_at(8, "m"), leaves[:2]), leaves[2]])
        assert eval(repr(tree)) == tree


# name -> a call that scans; what of (root, root's child with tag, other type) it must notice
SCANS = {
    "list": (lambda t: t.list(), {"root", "child", "error"}),
    "count": (lambda t: t.count(), {"root", "child", "error"}),
    "query_by_type": (lambda t: t.query_by_type("Thought"), {"root", "child"}),
    "query_by_tag": (lambda t: t.query_by_tag("tag"), {"child"}),
    "query_by_time": (lambda t: t.query_by_time(0, 2**62), {"root", "child", "error"}),
    "query_by_time of long ago": (lambda t: t.query_by_time(0, 1000), set()),
    "query": (lambda t: t.query(type="Error"), {"error"}),
    "query with a class": (lambda t: t.query(type=TraceType.Error), {"error"}),
    "query of long ago": (lambda t: t.query(type="Thought", end=1000), set()),
    "get_children": (lambda t: t.get_children("base"), {"child"}),
    "get_tree": (lambda t: t.get_tree("base"), {"child"}),
    "get": (lambda t: t.get("absent"), set()),
    "query for nothing": (lambda t: t.query(limit=0), set()),
}
CHANGES = {
    "root": lambda traces, run: traces.record(run, THOUGHT),
    "child": lambda traces, run: traces.record_child(run, "base", THOUGHT, tags=["tag"]),
    "error": lambda traces, run: traces.record(run, TraceType.Error("E", "m", True)),
}


class TestTransactions:
    @pytest.mark.parametrize("scan", SCANS)
    def test_what_a_scan_would_have_seen_is_a_conflict_and_nothing_else(self, memory_db, traces, kv, run, scan):
        """A trace recorded meanwhile that matches conflicts at commit; one that does not match does not."""
        call, noticed = SCANS[scan]
        traces.record(run, THOUGHT, id="base")
        for name, change in CHANGES.items():
            try:
                with memory_db.transaction(run) as txn:
                    call(txn.traces)
                    txn.kv.put("k", name)
                    change(traces, run)
            except ConflictError:
                assert name in noticed, name
            else:
                assert name not in noticed, name

    def test_beyond_the_limit_nothing_was_read(self, memory_db, traces, run):
        """A query that stopped at its limit conflicts with what comes before that only."""
        _restore(memory_db, run, _at(10, "a"), _at(20, "b"), _at(30, "c"))
        with memory_db.transaction(run) as txn:
            assert _ids(txn.traces.query(type="Thought", limit=2)) == ["a", "b"]
            txn.kv.put("k", 1)
            _restore(memory_db, run, _at(25, "later"))
        with pytest.raises(ConflictError), memory_db.transaction(run) as txn:
            assert _ids(txn.traces.query(type="Thought", limit=2)) == ["a", "b"]
            txn.kv.put("k", 1)
            _restore(memory_db, run, _at(15, "earlier"))

    def test_records_do_not_conflict_with_each_other(self, memory_db, traces, run):
        """Two transactions that record below one parent both commit; the same id conflicts, and the key says which."""
        traces.record(run, THOUGHT, id="base")
        with memory_db.transaction(run) as txn:
            txn.traces.record_child("base", THOUGHT, tags=["a"])
            traces.record_child(run, "base", THOUGHT, tags=["a"])
        assert len(traces.get_children(run, "base")) == 2
        with pytest.raises(ConflictError, match="traces same"), memory_db.transaction(run) as txn:
            txn.traces.record(THOUGHT, id="same")
            traces.record(run, THOUGHT, id="same")

    def test_an_id_used_twice_in_one_transaction(self, memory_db, traces, run):
        """The second is refused at once; the first still commits."""
        with memory_db.transaction(run) as txn:
            txn.traces.record(THOUGHT, id="t")
            with pytest.raises(AlreadyExistsError):
                txn.traces.record(THOUGHT, id="t")
        assert traces.list(run) == ["t"]

    def test_own_records_are_in_every_query(self, memory_db, traces, run):
        """Read your own writes: every index sees what was recorded before in the transaction, in its place."""
        _restore(memory_db, run, _at(1, "old", tags=["a"]), _at(2**50, "future", tags=["a"]))
        with memory_db.transaction(run) as txn:
            txn.traces.record_child("old", THOUGHT, id="new", tags=["a"])
            assert txn.traces.list() == ["old", "new", "future"]
            assert txn.traces.count() == 3
            assert _ids(txn.traces.query_by_type("Thought")) == ["old", "new", "future"]
            assert _ids(txn.traces.query_by_tag("a")) == ["old", "new", "future"]
            assert _ids(txn.traces.get_children("old")) == ["new"]

    def test_a_snapshot_only_reads_and_stays(self, memory_db, traces, run):
        """A snapshot sees one moment and refuses to record."""
        traces.record(run, THOUGHT, id="t")
        with memory_db.snapshot(run) as view:
            traces.record_child(run, "t", THOUGHT)
            assert view.traces.count() == 1
            assert view.traces.get_tree("t").children == []
            with pytest.raises(InvalidOperationError):
                view.traces.record(THOUGHT)

    def test_a_run_of_its_own_by_on(self, memory_db, traces, run):
        """txn.on records in another run, at the same commit."""
        with memory_db.transaction(run) as txn:
            txn.on(run + "-2").traces.record(THOUGHT, id="t")
        assert (traces.list(run), traces.list(run + "-2")) == ([], ["t"])


class TestDumpAndRestore:
    def test_a_run_comes_back_exactly(self, memory_db, traces, run):
        """Ids, timestamps and all, parents first even where the clock had them later."""
        known = [
            _at(50, "p", tags=["b", "a"], metadata={"m": 1}),
            _at(40, "c", parent_id="p"),
            _at(30, "cc", parent_id="c", trace_type=TraceType.Decision("q", ["a"], "a")),
            _at(60, "other", trace_type=TraceType.Custom("x", b"y")),
        ]
        _restore(memory_db, run, *known)
        with memory_db.snapshot(run) as view:
            dumped = list(view.traces.dump())
        assert _ids(dumped) == ["p", "c", "cc", "other"]
        copy = run + "-copy"
        _restore(memory_db, copy, *dumped)
        assert traces.query(copy) == traces.query(run)
        assert traces.get_tree(copy, "p") == traces.get_tree(run, "p")

    def test_restore_checks_as_record_does(self, memory_db, traces, run):
        """Ids are new, parents there, everything of the right type."""
        _restore(memory_db, run, _at(1, "t"))
        for trace, error in [
            (_at(1, "t"), AlreadyExistsError),
            (_at(1, "u", parent_id="nobody"), NotFoundError),
            (_at(-1, "u"), ValueError),
            (_at(2**63, "u"), ValueError),
            (_at(1.5, "u"), TypeError),
            (_at(1, None), TypeError),
            (_at(1, "u", tags="tag"), TypeError),
            (_at(1, "u", trace_type=None), TypeError),
        ]:
            with pytest.raises(error):
                _restore(memory_db, run, trace)
        assert traces.list(run) == ["t"]


def test_options_take_what_record_takes(traces, run):
    """Every option has record's default; the same options may be used again, whatever the tags came from."""
    trace = traces.get(run, traces.record_with_options(run, THOUGHT, TraceOptions()))
    assert (trace.parent_id, trace.tags, trace.metadata) == (None, [], None)
    options = TraceOptions(tags=(tag for tag in "ab"))
    for _ in range(2):
        assert traces.get(run, traces.record_with_options(run, THOUGHT, options)).tags == ["a", "b"]
    with pytest.raises(TypeError, match="tags has type str"):
        TraceOptions(tags="ab")
