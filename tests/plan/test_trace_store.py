"""Acceptance of ``TraceStore``. Each test is a line of docs/acceptance.md."""

# ruff: noqa: PT012 (what raises is the end of the with block, whatever stands in it)

from __future__ import annotations

import pickle
import time
from typing import Any

import pytest

import shoal
from shoal import NotFoundError, TraceOptions, TraceType
from shoal.primitives.keys import Namespace, after
from shoal.primitives.rules.tags import Tag
from tests.support.present import present

KINDS = [
    TraceType.ToolCall("search", {"q": ["a", 1]}, {"hits": 3}, 12),
    TraceType.Decision("which?", ["left", "right"], "left", "shorter"),
    TraceType.Query("vector", "nearest", 7),
    TraceType.Thought("hm", 0.5),
    TraceType.Error("OSError", "disk full", True),
    TraceType.Custom("benchmark", {"ops": 1.5}),
]


def _index(db: shoal.Database, run: str, kind: int, name: str = "") -> list[bytes]:
    """The keys of one index of a run, for one name."""
    raw = name.encode()
    prefix = (
        Namespace()._run_prefix(run) + bytes((Tag.TRACE, kind)) + (len(raw).to_bytes(2, "big") + raw if raw else b"")
    )
    return [key for key, _ in db._store.auto_commit.scan(prefix, after(prefix))]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_20_trace_type_variants_serialize_and_deserialize(traces: shoal.TraceStore, run: str, kind: Any) -> None:
    """Each kind of trace reads back equal to what was recorded, and survives a pickle."""
    read = present(traces.get(run, traces.record(run, kind))).trace_type
    assert read == kind
    assert type(read) is type(kind)
    assert isinstance(read, TraceType)
    assert pickle.loads(pickle.dumps(kind)) == kind


def test_20_trace_struct_serializes_and_deserializes(traces: shoal.TraceStore, run: str) -> None:
    """Every field of a trace reads back, and a trace survives a pickle."""
    traces.record(run, KINDS[3], id="parent")
    traces.record(run, KINDS[0], id="t", parent_id="parent", tags=["b", "a"], metadata={"m": [None]})
    trace = present(traces.get(run, "t"))
    assert trace == shoal.Trace("t", "parent", KINDS[0], trace.timestamp, ["b", "a"], {"m": [None]})
    assert pickle.loads(pickle.dumps(trace)) == trace


def test_20_type_name_returns_correct_names() -> None:
    """A trace type's name is its kind; of a ``Custom`` type it is the name it was given."""
    assert [kind.type_name() for kind in KINDS] == ["ToolCall", "Decision", "Query", "Thought", "Error", "benchmark"]


def test_21_record_creates_trace_with_generated_id(traces: shoal.TraceStore, run: str) -> None:
    """``record`` returns a new id that is used once, and the trace is there."""
    first, second = traces.record(run, KINDS[3]), traces.record(run, KINDS[3])
    assert first != second
    assert present(traces.get(run, first)).id == first
    assert present(traces.get(run, first)).parent_id is None


def test_21_record_child_links_to_parent(traces: shoal.TraceStore, run: str) -> None:
    """A child names its parent, and the parent finds its child."""
    parent = traces.record(run, KINDS[3])
    child = traces.record_child(run, parent, KINDS[0])
    assert present(traces.get(run, child)).parent_id == parent
    assert [trace.id for trace in traces.get_children(run, parent)] == [child]


def test_21_record_child_fails_if_parent_does_not_exist(traces: shoal.TraceStore, run: str) -> None:
    """``record_child`` of a missing parent raises ``NotFoundError`` with the parent's id and records nothing."""
    with pytest.raises(NotFoundError, match="'nobody' does not exist"):
        traces.record_child(run, "nobody", KINDS[0])
    assert traces.count(run) == 0


def test_21_record_with_options_uses_custom_id(traces: shoal.TraceStore, run: str) -> None:
    """``record`` uses the id and all other options that were given."""
    traces.record(run, KINDS[3], id="root")
    options = TraceOptions(id="mine", parent_id="root", tags=["x"], metadata=[1])
    assert traces.record_with_options(run, KINDS[4], options) == "mine"
    trace = present(traces.get(run, "mine"))
    assert (trace.parent_id, trace.trace_type, trace.tags, trace.metadata) == ("root", KINDS[4], ["x"], [1])


def test_21_trace_has_correct_timestamp(traces: shoal.TraceStore, run: str) -> None:
    """A trace's timestamp is the wall clock in whole milliseconds when it was recorded."""
    before = time.time_ns() // 1_000_000
    timestamp = present(traces.get(run, traces.record(run, KINDS[3]))).timestamp
    assert type(timestamp) is int
    assert before <= timestamp <= time.time_ns() // 1_000_000


def test_22_type_index_created(memory_db: shoal.Database, traces: shoal.TraceStore, run: str) -> None:
    """A trace has one entry in the index of its type."""
    traces.record(run, KINDS[3], id="t")
    assert [key[-1:] for key in _index(memory_db, run, 1, "Thought")] == [b"t"]
    assert len(_index(memory_db, run, 1)) == 1


def test_22_tag_indices_created_for_multiple_tags(
    memory_db: shoal.Database, traces: shoal.TraceStore, run: str
) -> None:
    """A trace has one entry for each of its tags, however often a tag was given."""
    traces.record(run, KINDS[3], id="t", tags=["a", "b", "a"])
    assert [key[-1:] for name in "ab" for key in _index(memory_db, run, 2, name)] == [b"t", b"t"]
    assert len(_index(memory_db, run, 2)) == 2


def test_22_parent_index_created(memory_db: shoal.Database, traces: shoal.TraceStore, run: str) -> None:
    """A child has an entry in its parent's index; a root has none."""
    traces.record(run, KINDS[3], id="p")
    traces.record_child(run, "p", KINDS[3], id="c")
    assert [key[-1:] for key in _index(memory_db, run, 3, "p")] == [b"c"]
    assert len(_index(memory_db, run, 3)) == 1


def test_22_time_index_created(memory_db: shoal.Database, traces: shoal.TraceStore, run: str) -> None:
    """A trace has one entry in the index by time, with the timestamp before the id."""
    traces.record(run, KINDS[3], id="t")
    (key,) = _index(memory_db, run, 4)
    assert key.endswith(present(traces.get(run, "t")).timestamp.to_bytes(8, "big") + b"t")


def test_22_all_indices_atomic_with_trace_write(memory_db: shoal.Database, traces: shoal.TraceStore, run: str) -> None:
    """A trace and its index entries have one commit version; a refused trace leaves none of them."""
    traces.record(run, KINDS[3], id="t")
    traces.record(run, KINDS[3], id="c", parent_id="t", tags=["a"])
    prefix = Namespace()._run_prefix(run) + bytes((Tag.TRACE,))
    versions = [
        found.version for key, found in memory_db._store.auto_commit.scan(prefix, after(prefix)) if key.endswith(b"c")
    ]
    assert len(versions) == 5
    assert len(set(versions)) == 1
    with pytest.raises(NotFoundError):
        traces.record(run, KINDS[3], id="d", parent_id="nobody", tags=["a"])
    assert not [key for key, _ in memory_db._store.auto_commit.scan(prefix, after(prefix)) if key.endswith(b"d")]


def test_23_get_returns_trace_by_id(traces: shoal.TraceStore, run: str) -> None:
    """``get`` returns the trace with that id, or None."""
    traces.record(run, KINDS[3], id="a")
    traces.record(run, KINDS[4], id="b")
    assert present(traces.get(run, "b")).trace_type == KINDS[4]
    assert traces.get(run, "c") is None


def test_23_query_by_type_returns_matching_traces(traces: shoal.TraceStore, run: str) -> None:
    """``query_by_type`` returns exactly the traces of the type, in order; a ``Custom`` type goes by its own name."""
    for i, kind in enumerate(KINDS + KINDS):
        traces.record(run, kind, id=f"{i:02}")
    assert [trace.id for trace in traces.query_by_type(run, "Thought")] == ["03", "09"]
    assert [trace.id for trace in traces.query_by_type(run, "benchmark")] == ["05", "11"]
    assert traces.query_by_type(run, "Nothing") == []


def test_23_query_by_tag_returns_matching_traces(traces: shoal.TraceStore, run: str) -> None:
    """``query_by_tag`` returns the traces that have the tag, and no other."""
    traces.record(run, KINDS[3], id="1", tags=["a"])
    traces.record(run, KINDS[3], id="2", tags=["b", "a"])
    traces.record(run, KINDS[3], id="3", tags=["aa"])
    assert [trace.id for trace in traces.query_by_tag(run, "a")] == ["1", "2"]
    assert traces.query_by_tag(run, "c") == []


def test_23_query_by_time_returns_traces_in_range(
    traces: shoal.TraceStore, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``query_by_time`` returns the traces of ``[start, end)``, compared as numbers."""
    for moment in (1, 9, 10, 255, 256, 2**40):
        monkeypatch.setattr("shoal.primitives.views.traces.now_ms", lambda moment=moment: moment)
        traces.record(run, KINDS[3], id=str(moment))
    assert [trace.timestamp for trace in traces.query_by_time(run, 9, 256)] == [9, 10, 255]
    assert [trace.timestamp for trace in traces.query_by_time(run, 0, 2**64)] == [1, 9, 10, 255, 256, 2**40]
    assert traces.query_by_time(run, 10, 10) == traces.query_by_time(run, 11, 10) == []


def test_23_list_returns_all_ids(traces: shoal.TraceStore, run: str) -> None:
    """``list`` returns every id once, ordered by time and then id."""
    assert traces.list(run) == []
    recorded = [traces.record(run, kind, tags=["a", "b"]) for kind in KINDS]
    assert traces.list(run) == recorded


def test_23_count_returns_correct_count(traces: shoal.TraceStore, run: str) -> None:
    """``count`` counts each trace once, whatever tags and parents it has."""
    assert traces.count(run) == 0
    root = traces.record(run, KINDS[3], tags=["a", "b"])
    traces.record_child(run, root, KINDS[3])
    assert traces.count(run) == 2


def test_24_get_children_returns_direct_children(traces: shoal.TraceStore, run: str) -> None:
    """``get_children`` returns direct children only, in order."""
    for parent_id, trace_id in ((None, "r"), ("r", "a"), ("r", "b"), ("a", "aa")):
        traces.record(run, KINDS[3], id=trace_id, parent_id=parent_id)
    assert [trace.id for trace in traces.get_children(run, "r")] == ["a", "b"]


def test_24_get_children_returns_empty_for_leaf_trace(traces: shoal.TraceStore, run: str) -> None:
    """``get_children`` of a trace without children is empty."""
    assert traces.get_children(run, traces.record(run, KINDS[3])) == []


def test_24_get_tree_builds_correct_hierarchy(traces: shoal.TraceStore, run: str) -> None:
    """``get_tree`` returns the tree below any trace, and nothing beside it."""
    for parent_id, trace_id in ((None, "r"), ("r", "a"), ("r", "b"), ("a", "aa"), ("a", "ab"), (None, "other")):
        traces.record(run, KINDS[3], id=trace_id, parent_id=parent_id)
    tree = traces.get_tree(run, "r")
    assert tree.root == traces.get(run, "r")
    assert [child.root.id for child in tree.children] == ["a", "b"]
    assert [child.root.id for child in tree.children[0].children] == ["aa", "ab"]
    assert [trace.id for _, trace in traces.get_tree(run, "a").walk()] == ["a", "aa", "ab"]


def test_24_get_tree_handles_deep_nesting(memory_db: shoal.Database, run: str) -> None:
    """``get_tree`` returns trees that are far deeper than Python's recursion limit."""
    with memory_db.transaction(run) as txn:
        trace_id = root = txn.traces.record(KINDS[3])
        for _ in range(1100):
            trace_id = txn.traces.record_child(trace_id, KINDS[3])
    tree = shoal.TraceStore(memory_db).get_tree(run, root)
    *_, (depth, deepest) = tree.walk()
    assert (depth, deepest.id) == (1100, trace_id)


def test_25_trace_record_works_in_transaction(memory_db: shoal.Database, traces: shoal.TraceStore, run: str) -> None:
    """A trace recorded in a transaction is seen inside at once, and by others after the commit."""
    with memory_db.transaction(run) as txn:
        trace_id = txn.traces.record(KINDS[3], tags=["a"])
        assert present(txn.traces.get(trace_id)).trace_type == KINDS[3]
        assert [trace.id for trace in txn.traces.query_by_tag("a")] == [trace_id]
        assert traces.get(run, trace_id) is None
    assert present(traces.get(run, trace_id)).trace_type == KINDS[3]


def test_25_trace_record_child_works_in_transaction(
    memory_db: shoal.Database, traces: shoal.TraceStore, run: str
) -> None:
    """A trace of the same transaction can be a parent; a missing trace cannot."""
    with memory_db.transaction(run) as txn:
        root = txn.traces.record(KINDS[3])
        child = txn.traces.record_child(root, KINDS[0])
        with pytest.raises(NotFoundError):
            txn.traces.record_child("nobody", KINDS[0])
        assert txn.traces.get_tree(root).children[0].root.id == child
    assert [trace.id for trace in traces.get_children(run, root)] == [child]


def test_25_cross_primitive_atomicity_of_trace_and_kv(
    memory_db: shoal.Database, traces: shoal.TraceStore, kv: shoal.KVStore, run: str
) -> None:
    """A trace and a key of one transaction are written together or not at all."""
    with memory_db.transaction(run) as txn:
        txn.kv.put("last", txn.traces.record(KINDS[3]))
    assert traces.list(run) == [kv.get(run, "last")]
    with pytest.raises(ZeroDivisionError), memory_db.transaction(run) as txn:
        txn.kv.put("last", txn.traces.record(KINDS[3]))
        raise ZeroDivisionError
    assert traces.list(run) == [kv.get(run, "last")]
