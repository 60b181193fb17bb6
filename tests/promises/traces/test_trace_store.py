"""TraceStore, what is recorded and what is refused: section 6 of the contract, beyond the plan's lists."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

import shoal
from shoal import AlreadyExistsError, LimitExceededError, NotFoundError, TraceOptions, TraceType
from tests.support.present import present
from tests.support.primitives.traces import THOUGHT, ids_of

NASTY = ["\0", "a\0b", "__idx_", "a__b", "__", "type", "/", "\n", "é", "🦀", "\uffff", "k" * 1024, "é" * 512]


class TestRecord:
    def test_defaults_are_a_root_without_tags_or_metadata(self, traces: shoal.TraceStore, run: str) -> None:
        """What is not given is None, and no tags."""
        trace = present(traces.get(run, traces.record(run, THOUGHT)))
        assert (trace.parent_id, trace.tags, trace.metadata) == (None, [], None)

    def test_tags_keep_their_order_each_once(self, traces: shoal.TraceStore, run: str) -> None:
        """Duplicates collapse; tuples, lists, sets and generators will do."""
        traces.record(run, THOUGHT, id="t", tags=("b", "a", "b", "c", "a"))
        assert present(traces.get(run, "t")).tags == ["b", "a", "c"]
        assert ids_of(traces.query_by_tag(run, "b")) == ["t"]
        traces.record(run, THOUGHT, id="g", tags=(tag for tag in "xy"))
        assert present(traces.get(run, "g")).tags == ["x", "y"]

    def test_values_read_back_as_values_do(self, traces: shoal.TraceStore, run: str) -> None:
        """Tuples read back as lists, datetimes as the same moment; lone surrogates in what a trace says are kept."""
        moment = datetime(2026, 11, 22, tzinfo=UTC)
        kind = TraceType.ToolCall("read", {"path": "\udcff", "when": (moment, b"x")}, (1, 2), 0.5)
        traces.record(run, kind, id="t", metadata=("m", {"when": moment}))
        trace = present(traces.get(run, "t"))
        assert trace.trace_type == TraceType.ToolCall("read", {"path": "\udcff", "when": [moment, b"x"]}, [1, 2], 0.5)
        assert trace.metadata == ["m", {"when": moment}]

    def test_options_of_a_decision_may_be_a_tuple(self, traces: shoal.TraceStore, run: str) -> None:
        """A tuple of options is the list of them, before and after."""
        decision = TraceType.Decision("which?", ("a", "b"), "a")
        assert decision == TraceType.Decision("which?", ["a", "b"], "a")
        assert present(traces.get(run, traces.record(run, decision))).trace_type == decision

    def test_falsy_metadata_is_not_none(self, traces: shoal.TraceStore, run: str) -> None:
        """Empty values are values."""
        values: list[Any] = [{}, [], 0, False, ""]
        for value in values:
            read = present(traces.get(run, traces.record(run, THOUGHT, metadata=value))).metadata
            assert (read, type(read)) == (value, type(value))

    def test_an_id_used_twice_is_refused(self, traces: shoal.TraceStore, run: str) -> None:
        """AlreadyExistsError, and the first trace stays as it is, its indices too."""
        traces.record(run, THOUGHT, id="t", tags=["old"])
        with pytest.raises(AlreadyExistsError, match="trace 't' exists already"):
            traces.record(run, TraceType.Error("E", "m", True), id="t", tags=["new"])
        assert present(traces.get(run, "t")).trace_type == THOUGHT
        assert traces.query_by_tag(run, "new") == traces.query_by_type(run, "Error") == []
        assert traces.count(run) == 1

    def test_a_trace_is_not_its_own_parent(self, traces: shoal.TraceStore, run: str) -> None:
        """At the moment it is recorded it does not exist, so there are no cycles."""
        with pytest.raises(NotFoundError):
            traces.record(run, THOUGHT, id="t", parent_id="t")
        assert traces.list(run) == []

    def test_a_parent_in_another_run_or_namespace_is_none(
        self, memory_db: shoal.Database, traces: shoal.TraceStore, run: str
    ) -> None:
        """Traces of a run are its own."""
        traces.record(run, THOUGHT, id="t", tags=["a"])
        other = shoal.TraceStore(memory_db, namespace=shoal.Namespace(tenant="other"))
        for store, where in ((traces, run + "x"), (other, run)):
            assert store.get(where, "t") is None
            assert (store.query_by_tag(where, "a"), store.list(where)) == ([], [])
            with pytest.raises(NotFoundError):
                store.record_child(where, "t", THOUGHT)

    def test_one_of_many_gets_the_id(self, traces: shoal.TraceStore, run: str) -> None:
        """Threads that record one id at once: one succeeds, the others are told; records never conflict."""
        outcomes: list[str | None] = []

        def record() -> None:
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

    def test_a_clock_set_back_changes_the_order_only(
        self, memory_db: shoal.Database, traces: shoal.TraceStore, run: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A child may be older than its parent; it is found all the same."""
        for moment, parent_id, trace_id in ((100, None, "p"), (50, "p", "c"), (100, "p", "a")):
            monkeypatch.setattr("shoal.primitives.views.traces.now_ms", lambda moment=moment: moment)
            traces.record(run, THOUGHT, id=trace_id, parent_id=parent_id)
        assert traces.list(run) == ["c", "a", "p"]
        assert ids_of(traces.get_children(run, "p")) == ["c", "a"]


class TestText:
    def test_nasty_ids_tags_and_names_stay_apart(self, traces: shoal.TraceStore, run: str) -> None:
        """Any text is an id, tag, parent or type name, and finds what bears it and nothing else."""
        for i, text in enumerate(NASTY):
            traces.record(run, TraceType.Custom(text, None), id=text, tags=[text])
            traces.record_child(run, text, THOUGHT, id=f"c{i}")
        assert traces.count(run) == 2 * len(NASTY)
        for i, text in enumerate(NASTY):
            assert present(traces.get(run, text)).tags == [text]
            assert ids_of(traces.query_by_tag(run, text)) == [text]
            assert ids_of(traces.query_by_type(run, text)) == [text]
            assert ids_of(traces.get_children(run, text)) == [f"c{i}"]
            assert [trace.id for _, trace in traces.get_tree(run, text).walk()] == [text, f"c{i}"]

    @pytest.mark.parametrize(
        ("bad", "error"), [("", ValueError), ("\ud800", ValueError), ("k" * 1025, LimitExceededError), (7, TypeError)]
    )
    def test_bad_text_is_refused_everywhere(
        self, traces: shoal.TraceStore, run: str, bad: Any, error: type[Exception]
    ) -> None:
        """Empty, not UTF-8, too long, not a str: refused with a message that names it, nothing recorded."""
        calls: dict[str, Callable[[], object]] = {
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
    def test_kinds_check_their_fields(self) -> None:
        """Each field that is of a wrong type or value is refused when the kind is made."""
        kind: Any = TraceType
        calls: list[tuple[Callable[[], object], type[Exception]]] = [
            (lambda: kind.ToolCall(None, {}), TypeError),
            (lambda: kind.ToolCall("t", {}, None, "3"), TypeError),
            (lambda: kind.ToolCall("t", {}, None, True), TypeError),
            (lambda: kind.ToolCall("t", {}, None, -1), ValueError),
            (lambda: kind.ToolCall("t", {}, None, float("nan")), ValueError),
            (lambda: kind.Decision("q", "ab", "a"), TypeError),
            (lambda: kind.Decision("q", None, "a"), TypeError),
            (lambda: kind.Decision("q", [1], "a"), TypeError),
            (lambda: kind.Decision("q", [], None), TypeError),
            (lambda: kind.Decision("q", [], "a", 1), TypeError),
            (lambda: kind.Query("t", b"q", 1), TypeError),
            (lambda: kind.Query("t", "q", 1.0), TypeError),
            (lambda: kind.Query("t", "q", -1), ValueError),
            (lambda: kind.Thought(b"x"), TypeError),
            (lambda: kind.Thought("x", "high"), TypeError),
            (lambda: kind.Error("E", "m", 1), TypeError),
            (lambda: kind.Error("E", None, True), TypeError),
            (lambda: kind.Custom("", 1), ValueError),
            (lambda: kind.Custom(None, 1), TypeError),
            (lambda: kind(), TypeError),
        ]
        for call, error in calls:
            with pytest.raises(error):
                call()

    @pytest.mark.parametrize("tags", ["tag", b"tag", None, 7, {"a": 1}, [None], [["a"]]], ids=repr)
    def test_tags_are_several_texts(self, traces: shoal.TraceStore, run: str, tags: Any) -> None:
        """One str is not a list of tags; neither is anything that holds no texts."""
        with pytest.raises(TypeError, match="tag"):
            traces.record(run, THOUGHT, tags=tags)
        assert traces.count(run) == 0

    @pytest.mark.parametrize("trace_type", [None, "Thought", TraceType.Thought, {"content": "x"}, 7], ids=repr)
    def test_only_a_kind_is_recorded(self, traces: shoal.TraceStore, run: str, trace_type: Any) -> None:
        """What is no trace type is refused with the names of those there are."""
        with pytest.raises(TypeError, match=r"make one of TraceType\.ToolCall, "):
            traces.record(run, trace_type)

    def test_other_bad_arguments(self, traces: shoal.TraceStore, run: str) -> None:
        """Nones where something must be given, moments and limits that are no integers."""
        store: Any = traces
        calls: list[tuple[Callable[[], object], type[Exception]]] = [
            (lambda: store.record_child(run, None, THOUGHT), TypeError),
            (lambda: store.record_with_options(run, THOUGHT, None), TypeError),
            (lambda: store.record_with_options(run, THOUGHT, {"id": "x"}), TypeError),
            (lambda: store.get(run, None), TypeError),
            (lambda: store.query_by_type(run, None), TypeError),
            (lambda: store.query_by_type(run, THOUGHT), TypeError),
            (lambda: store.query_by_type(run, TraceType), TypeError),
            (lambda: store.query_by_type(run, int), TypeError),
            (lambda: store.query_by_tag(run, None), TypeError),
            (lambda: store.query_by_time(run, None, 1), TypeError),
            (lambda: store.query_by_time(run, 0, 1.5), TypeError),
            (lambda: store.query_by_time(run, True, 1), TypeError),
            (lambda: store.query(run, limit=-1), ValueError),
            (lambda: store.query(run, limit=True), TypeError),
            (lambda: store.query(run, limit="1"), TypeError),
            (lambda: store.get_children(run, None), TypeError),
            (lambda: store.record("", THOUGHT), ValueError),
            (lambda: store.count(7), TypeError),
        ]
        for call, error in calls:
            with pytest.raises(error):
                call()
        assert traces.count(run) == 0

    def test_what_cannot_be_stored_is_named_by_its_path(self, traces: shoal.TraceStore, run: str) -> None:
        """The message says where in the trace the offending value is."""
        with pytest.raises(TypeError, match=r"value at \$\.arguments\.fns\[1\] has type builtin"):
            traces.record(run, TraceType.ToolCall("t", {"fns": [1, print]}))
        with pytest.raises(TypeError, match=r"value at \$\.m"):
            traces.record(run, THOUGHT, metadata={"m": object()})
        with pytest.raises(TypeError, match=r"value at \$\.results_count is"):
            traces.record(run, TraceType.Query("t", "q", 2**64))
        assert traces.count(run) == 0

    def test_a_list_changed_after_it_was_checked_is_checked_again(self, traces: shoal.TraceStore, run: str) -> None:
        """What would not read back is not recorded."""
        decision = TraceType.Decision("q", ["a"], "a")
        options: Any = decision.options
        options.append(7)
        with pytest.raises(TypeError, match="an option has type int"):
            traces.record(run, decision)

    def test_too_large_is_refused_before_it_is_sent(self, traces: shoal.TraceStore, run: str) -> None:
        """A field, metadata, or all of it together beyond 16 MiB."""
        half = b"x" * (9 << 20)
        call: Callable[[], object]
        for call in (
            lambda: traces.record(run, TraceType.Custom("c", half + half)),
            lambda: traces.record(run, THOUGHT, metadata=half + half),
            lambda: traces.record(run, TraceType.Custom("c", half), metadata=half),
        ):
            with pytest.raises(LimitExceededError, match="the limit is 16,777,216"):
                call()
        assert traces.count(run) == 0


def test_options_take_what_record_takes(traces: shoal.TraceStore, run: str) -> None:
    """Every option has record's default; the same options may be used again, whatever the tags came from."""
    trace = present(traces.get(run, traces.record_with_options(run, THOUGHT, TraceOptions())))
    assert (trace.parent_id, trace.tags, trace.metadata) == (None, [], None)
    options = TraceOptions(tags=(tag for tag in "ab"))
    for _ in range(2):
        assert present(traces.get(run, traces.record_with_options(run, THOUGHT, options))).tags == ["a", "b"]
    with pytest.raises(TypeError, match="tags has type str"):
        TraceOptions(tags="ab")
