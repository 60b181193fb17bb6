"""TraceStore, what is found: queries, trees, transactions, a run dumped and restored (section 6 of the contract)."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shoal
from shoal import AlreadyExistsError, ConflictError, InvalidOperationError, NotFoundError, Trace, TraceTree, TraceType
from shoal.primitives.views.traces import dump, restore
from tests.support.primitives.traces import THOUGHT, ids_of

NUMBERS = itertools.count()


def _restore(db: shoal.Database, run: str, *traces: Trace) -> None:
    with db.transaction(run) as txn:
        for trace in traces:
            restore(txn.traces, trace)


def _at(timestamp: Any, trace_id: Any, **parts: Any) -> Trace:
    parts = {"parent_id": None, "trace_type": THOUGHT, "tags": [], "metadata": None} | parts
    return Trace(trace_id, timestamp=timestamp, **parts)


class TestQueries:
    def test_a_class_finds_its_own_a_name_whatever_bears_it(self, traces: shoal.TraceStore, run: str) -> None:
        """A Custom may be named like a kind: the name finds both, the classes each their own."""
        traces.record(run, THOUGHT, id="1")
        traces.record(run, TraceType.Custom("Thought", 1), id="2")
        traces.record(run, TraceType.Custom("mine", 2), id="3")
        assert ids_of(traces.query_by_type(run, "Thought")) == ["1", "2"]
        assert ids_of(traces.query_by_type(run, TraceType.Thought)) == ["1"]
        assert ids_of(traces.query_by_type(run, TraceType.Custom)) == ["2", "3"]
        assert traces.query_by_type(run, "Custom") == []

    def test_bounds_beyond_every_moment(self, memory_db: shoal.Database, traces: shoal.TraceStore, run: str) -> None:
        """Any integers bound a time; start at or after end is nothing."""
        _restore(memory_db, run, _at(0, "a"), _at(2**63 - 1, "b"))
        assert ids_of(traces.query_by_time(run, -(10**30), 10**30)) == ["a", "b"]
        assert ids_of(traces.query_by_time(run, 0, 2**63 - 1)) == ["a"]
        assert traces.query_by_time(run, 5, -5) == traces.query_by_time(run, 0, 0) == []
        assert ids_of(traces.query(run, end=1)) == ["a"]
        assert ids_of(traces.query(run, start=1)) == ["b"]

    def test_limit_takes_the_first(self, memory_db: shoal.Database, traces: shoal.TraceStore, run: str) -> None:
        """limit counts what matches; 0 is none, None all."""
        for i in range(6):
            _restore(memory_db, run, _at(i, f"{i}", tags=["even"] if i % 2 == 0 else ["odd"]))
        assert ids_of(traces.query(run, tag="odd", limit=2)) == ["1", "3"]
        assert ids_of(traces.query(run, type="Thought", tag="odd", start=2, limit=5)) == ["3", "5"]
        assert traces.query(run, limit=0) == []
        assert len(traces.query(run)) == 6

    def test_unknown_names_find_nothing(self, traces: shoal.TraceStore, run: str) -> None:
        """Queries are empty for what nobody used; a tree without a root is NotFoundError."""
        assert traces.query(run, parent_id="x") == traces.query(run, tag="x") == traces.get_children(run, "x") == []
        with pytest.raises(NotFoundError, match="trace 'x' does not exist"):
            traces.get_tree(run, "x")

    @pytest.mark.long
    @given(data=st.data())
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_every_query_is_what_a_plain_search_finds(self, memory_db: shoal.Database, data: Any) -> None:
        """Whatever the ids, tags and moments: ordered by time, then id, and all of what is asked for."""
        run = f"plain-search-{next(NUMBERS)}"
        names = st.sampled_from(["a", "aa", "a\0", "\0", "é", "__", "Thought"])
        moments = st.sampled_from([0, 1, 255, 256, 2**32, 2**63 - 1])
        known: list[Trace] = []
        for trace_id in data.draw(st.lists(st.text(st.sampled_from("a\0é_🦀"), min_size=1, max_size=3), unique=True)):
            parent_id = data.draw(st.sampled_from([None, *ids_of(known)]))
            kind = data.draw(st.sampled_from([THOUGHT, TraceType.Custom("a", 1), TraceType.Custom("Thought", 1)]))
            tags = data.draw(st.lists(names, max_size=3, unique=True))
            known.append(Trace(trace_id, parent_id, kind, data.draw(moments), tags, None))
        _restore(memory_db, run, *known)
        known.sort(key=lambda trace: (trace.timestamp, trace.id))
        traces = shoal.TraceStore(memory_db)
        assert traces.list(run) == ids_of(known)
        for _ in range(4):
            kind, tag = data.draw(st.none() | names | st.just(TraceType.Custom)), data.draw(st.none() | names)
            start, end = data.draw(st.none() | moments), data.draw(st.none() | moments)
            parent_id, limit = (
                data.draw(st.sampled_from([None, *ids_of(known)])),
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

    @pytest.mark.long
    def test_equality_and_repr_of_any_depth(self) -> None:
        """Trees far deeper than Python recurses compare and print."""
        assert self._deep(5000) == self._deep(5000)
        assert self._deep(5000) != self._deep(4999)
        assert repr(self._deep(5000)).endswith("children=[" + "])" * 5001)

    def test_shape_is_part_of_equality(self) -> None:
        """The same traces in another shape are another tree; a tree equals no trace."""
        a, b, c = (_at(i, name) for i, name in enumerate("abc"))
        chain = TraceTree(a, [TraceTree(b, [TraceTree(c, [])])])
        fan = TraceTree(a, [TraceTree(b, []), TraceTree(c, [])])
        assert chain != fan
        assert chain != a
        assert fan == TraceTree(a, [TraceTree(b, []), TraceTree(c, [])])
        assert pickle.loads(pickle.dumps(fan)) == fan

    def test_repr_reads_as_what_it_is(self) -> None:
        """repr is the expression that makes the tree."""
        leaves = [TraceTree(_at(i, f"{i}"), []) for i in range(3)]
        tree = TraceTree(_at(9, "r"), [TraceTree(_at(8, "m"), leaves[:2]), leaves[2]])
        assert eval(repr(tree)) == tree


# name -> a call that scans; what of (root, root's child with tag, other type) it must notice
SCANS: dict[str, tuple[Callable[[Any], object], Any]] = {
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
CHANGES: dict[str, Callable[[shoal.TraceStore, str], object]] = {
    "root": lambda traces, run: traces.record(run, THOUGHT),
    "child": lambda traces, run: traces.record_child(run, "base", THOUGHT, tags=["tag"]),
    "error": lambda traces, run: traces.record(run, TraceType.Error("E", "m", True)),
}


class TestTransactions:
    @pytest.mark.parametrize("scan", SCANS)
    def test_what_a_scan_would_have_seen_is_a_conflict_and_nothing_else(
        self, memory_db: shoal.Database, traces: shoal.TraceStore, kv: shoal.KVStore, run: str, scan: Any
    ) -> None:
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

    def test_beyond_the_limit_nothing_was_read(
        self, memory_db: shoal.Database, traces: shoal.TraceStore, run: str
    ) -> None:
        """A query that stopped at its limit conflicts with what comes before that only."""
        _restore(memory_db, run, _at(10, "a"), _at(20, "b"), _at(30, "c"))
        with memory_db.transaction(run) as txn:
            assert ids_of(txn.traces.query(type="Thought", limit=2)) == ["a", "b"]
            txn.kv.put("k", 1)
            _restore(memory_db, run, _at(25, "later"))
        with pytest.raises(ConflictError), memory_db.transaction(run) as txn:
            assert ids_of(txn.traces.query(type="Thought", limit=2)) == ["a", "b"]
            txn.kv.put("k", 1)
            _restore(memory_db, run, _at(15, "earlier"))

    def test_records_do_not_conflict_with_each_other(
        self, memory_db: shoal.Database, traces: shoal.TraceStore, run: str
    ) -> None:
        """Two transactions that record below one parent both commit; the same id conflicts, and the key says which."""
        traces.record(run, THOUGHT, id="base")
        with memory_db.transaction(run) as txn:
            txn.traces.record_child("base", THOUGHT, tags=["a"])
            traces.record_child(run, "base", THOUGHT, tags=["a"])
        assert len(traces.get_children(run, "base")) == 2
        with pytest.raises(ConflictError, match="traces same"), memory_db.transaction(run) as txn:
            txn.traces.record(THOUGHT, id="same")
            traces.record(run, THOUGHT, id="same")

    def test_an_id_used_twice_in_one_transaction(
        self, memory_db: shoal.Database, traces: shoal.TraceStore, run: str
    ) -> None:
        """The second is refused at once; the first still commits."""
        with memory_db.transaction(run) as txn:
            txn.traces.record(THOUGHT, id="t")
            with pytest.raises(AlreadyExistsError):
                txn.traces.record(THOUGHT, id="t")
        assert traces.list(run) == ["t"]

    def test_own_records_are_in_every_query(
        self, memory_db: shoal.Database, traces: shoal.TraceStore, run: str
    ) -> None:
        """Read your own writes: every index sees what was recorded before in the transaction, in its place."""
        _restore(memory_db, run, _at(1, "old", tags=["a"]), _at(2**50, "future", tags=["a"]))
        with memory_db.transaction(run) as txn:
            txn.traces.record_child("old", THOUGHT, id="new", tags=["a"])
            assert txn.traces.list() == ["old", "new", "future"]
            assert txn.traces.count() == 3
            assert ids_of(txn.traces.query_by_type("Thought")) == ["old", "new", "future"]
            assert ids_of(txn.traces.query_by_tag("a")) == ["old", "new", "future"]
            assert ids_of(txn.traces.get_children("old")) == ["new"]

    def test_a_snapshot_only_reads_and_stays(
        self, memory_db: shoal.Database, traces: shoal.TraceStore, run: str
    ) -> None:
        """A snapshot sees one moment and refuses to record."""
        traces.record(run, THOUGHT, id="t")
        with memory_db.snapshot(run) as view:
            traces.record_child(run, "t", THOUGHT)
            assert view.traces.count() == 1
            assert view.traces.get_tree("t").children == []
            with pytest.raises(InvalidOperationError):
                view.traces.record(THOUGHT)

    def test_a_run_of_its_own_by_on(self, memory_db: shoal.Database, traces: shoal.TraceStore, run: str) -> None:
        """txn.on records in another run, at the same commit."""
        with memory_db.transaction(run) as txn:
            txn.on(run + "-2").traces.record(THOUGHT, id="t")
        assert (traces.list(run), traces.list(run + "-2")) == ([], ["t"])


class TestDumpAndRestore:
    def test_a_run_comes_back_exactly(self, memory_db: shoal.Database, traces: shoal.TraceStore, run: str) -> None:
        """Ids, timestamps and all, parents first even where the clock had them later."""
        known = [
            _at(50, "p", tags=["b", "a"], metadata={"m": 1}),
            _at(40, "c", parent_id="p"),
            _at(30, "cc", parent_id="c", trace_type=TraceType.Decision("q", ["a"], "a")),
            _at(60, "other", trace_type=TraceType.Custom("x", b"y")),
        ]
        _restore(memory_db, run, *known)
        with memory_db.snapshot(run) as view:
            dumped = list(dump(view.traces))
        assert ids_of(dumped) == ["p", "c", "cc", "other"]
        copy = run + "-copy"
        _restore(memory_db, copy, *dumped)
        assert traces.query(copy) == traces.query(run)
        assert traces.get_tree(copy, "p") == traces.get_tree(run, "p")

    def test_restore_checks_as_record_does(self, memory_db: shoal.Database, traces: shoal.TraceStore, run: str) -> None:
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
