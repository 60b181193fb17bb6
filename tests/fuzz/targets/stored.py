"""What primitives find in the store, where another worker may have put anything: values, records, keys."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from shoal.primitives import keys as key_space
from shoal.primitives import run_scan
from shoal.primitives.keys import Namespace
from shoal.primitives.rules import registry as operations
from shoal.primitives.rules.tags import Tag
from shoal.primitives.run_types import RunMetadata, RunQuery, RunStatus, encode_run
from shoal.primitives.trace_types import TraceType
from shoal.primitives.views import cells as cell_views
from shoal.primitives.views import events as event_views
from shoal.primitives.views import kv as kv_views
from shoal.primitives.views import traces as trace_views
from shoal.primitives.views.cells import StateView
from shoal.primitives.views.events import EventView
from shoal.primitives.views.kv import KVView
from shoal.primitives.views.runs import RunsView
from shoal.primitives.views.traces import TraceView
from shoal.shm import codec
from shoal.shm.errors import ShoalError
from shoal.shm.key_location_cache import KeyLocationCache
from shoal.shm.operation import VersionedValue
from tests.fuzz.target import encoded, part, parts_of, script, target

NAMESPACE = Namespace()
RUN = NAMESPACE._run_prefix("r")


class DictEngine:
    """``Engine`` over a dict: every call a commit of its own."""

    read_only = False

    def __init__(self) -> None:
        self.keys: dict[bytes, VersionedValue] = {}
        self._version = 0

    def get_named(self, place: KeyLocationCache, name: str) -> bytes | None:
        found = self.find(place.prefix + name.encode())
        return None if found is None else found.value

    def find(self, key: bytes) -> VersionedValue | None:
        return self.keys.get(key)

    def scan(self, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, VersionedValue]]:
        for key in sorted(key for key in self.keys if lower <= key < upper):
            yield key, self.keys[key]

    def put(self, key: bytes, value: bytes, expires_ms: int = 0) -> None:
        self._version += 1
        self.keys[key] = VersionedValue(value, self._version, expires_ms)

    def delete(self, key: bytes) -> None:
        self.keys.pop(key, None)

    def clear(self, lower: bytes, upper: bytes) -> None:
        self.keys = {key: found for key, found in self.keys.items() if not lower <= key < upper}

    def decides(self, lower: bytes, upper: bytes) -> bool:
        return False

    defers = decides

    def perform(self, name: str, arguments: list[Any]) -> Any:
        outcome = operations.TABLE.decide(self.find, 1_700_000_000_000, name, arguments)
        for write in outcome.writes:
            if write.value is None:
                self.delete(write.key)
            else:
                self.put(write.key, write.value, write.expires_ms)
        return outcome.result


def _try(calls: list[Callable[[], Any]]) -> None:
    """Every call returns, or says by ShoalError what is wrong."""
    for call in calls:
        try:
            found = call()
            if isinstance(found, Iterator):
                list(found)
        except ShoalError as error:
            str(error)


def _value_seeds() -> list[bytes]:
    import datetime

    moment = datetime.datetime(2024, 1, 2, 3, 4, 5, 6, datetime.UTC)
    values = [None, 1, 2**64 - 1, 1.5, "text", b"raw", [1, [2]], {"k": {"d": moment}}, "\ud800", moment]
    return [codec.encode(value) for value in values]


@target(_value_seeds)
def value(data: bytes) -> None:
    """Bytes decode to a value that is stored as it was read, or are refused with ValueError."""
    try:
        found = codec.decode(data)
    except ValueError:
        return
    # What others packed may hold extensions, which decode and are no values: encode says so.
    with contextlib.suppress(TypeError, ValueError, ShoalError):
        raw = codec.encode(found)
        assert codec.encode(codec.decode(raw)) == raw


@target(_value_seeds)
def kv(data: bytes) -> None:
    """A key that holds anything is read, listed, counted up and exported, or ShoalError says what is wrong."""
    engine = DictEngine()
    engine.put(RUN + bytes((Tag.KV,)) + b"k", data)
    view = KVView(engine, NAMESPACE, "r")
    _try([lambda: view.get("k"), lambda: view.list_with_values(), lambda: kv_views.pairs(view), lambda: view.ttl("k")])
    with contextlib.suppress(TypeError):  # of a value that is no int
        _try([lambda: view.increment("k")])


def _cell_seeds() -> list[bytes]:
    return [script(1, 1000, codec.encode(5)), script(3, 0, None), script(2**64 - 1, 1000, codec.encode("x"))]


@target(_cell_seeds)
def cell(data: bytes) -> None:
    """The record of a cell is one, or ShoalError, by every way to it."""

    def view() -> StateView:
        engine = DictEngine()
        engine.put(RUN + bytes((Tag.STATE,)) + b"c", data)
        return StateView(engine, NAMESPACE, "r")

    cells = view()
    reads = [
        lambda: cells.read("c"),
        lambda: cells.list(),
        lambda: cells.exists("c"),
        lambda: cell_views.records(cells),
    ]
    changes = [lambda: view().set("c", 1), lambda: view().cas("c", 1, 2), lambda: view().init("c", 3)]
    with contextlib.suppress(ValueError, OverflowError):  # the version after the last of all
        _try([*reads, *changes, lambda: view().delete("c"), lambda: view().transition("c", lambda s: (1, 2))])


def _event_seeds() -> list[bytes]:
    engine = DictEngine()
    EventView(engine, NAMESPACE, "r").append_many([("a", {"k": 1}), ("b", None), ("a", [1.5, b"x"])])
    start = len(RUN) + 1
    return [script(*([key[start:], found.value] for key, found in engine.keys.items()))]


@target(_event_seeds)
def events(data: bytes) -> None:
    """Whatever lies where a log's metadata, events and index lie is read, or ShoalError; verification finds it."""
    engine = _filled(Tag.EVENT, data)
    view = EventView(engine, NAMESPACE, "r")
    verified = view.verify_chain()
    if verified.is_valid:
        assert len(list(view.iter())) == view.len() == verified.length
    _try(
        [
            *(lambda: view.len(), lambda: view.head(), lambda: view.read(0), lambda: view.read_range(0, 9)),
            *(
                lambda: view.iter(),
                lambda: view.read_by_type("a"),
                lambda: view.anchor(),
                lambda: event_views.page(view, 0, 99),
            ),
            lambda: view.append("b", 1),
        ]
    )


def _filled(tag: Tag, data: bytes, start: bytes = RUN) -> DictEngine:
    """An engine with the keys (rest and value) of a script, or its seed's first key with ``data``."""
    engine = DictEngine()
    for pair in parts_of(data) or []:
        if type(pair) is list and len(pair) >= 2:
            engine.put(start + bytes((tag,)) + encoded(pair[0])[:2000], encoded(pair[1]))
    return engine


def _trace_seeds() -> list[bytes]:
    engine = DictEngine()
    view = TraceView(engine, NAMESPACE, "r")
    view.record(TraceType.Thought("hm", 0.5), id="a", tags=["t"], metadata={"k": 1})
    view.record(TraceType.ToolCall("read", {"p": 1}, [None], 3), id="b", parent_id="a")
    view.record(TraceType.Custom("mine", b"x"), id="c", parent_id="b")
    start = len(RUN) + 1
    return [script(*([key[start:], found.value] for key, found in engine.keys.items()))]


@target(_trace_seeds)
def traces(data: bytes) -> None:
    """Whatever lies where traces and their indices lie is read, or ShoalError says what is wrong."""
    view = TraceView(_filled(Tag.TRACE, data), NAMESPACE, "r")
    _try(
        [
            *(
                lambda: view.get("a"),
                lambda: view.list(),
                lambda: view.query_by_tag("t"),
                lambda: trace_views.dump(view),
            ),
            *(lambda: view.get_tree("a"), lambda: view.query_by_type("Thought"), lambda: view.get_children("a")),
            lambda: view.query(start=0, limit=5),
        ]
    )


def _run_seeds() -> list[bytes]:
    engine = DictEngine()
    view = RunsView(engine, NAMESPACE)
    view.create_run(run_id="a", tags=["t"], metadata={"k": 1})
    view.create_run(run_id="b", parent_run="a")
    view.fail_run("b", "bad")
    start = len(NAMESPACE._runs_prefix()) + 1
    record = encode_run(RunMetadata("a", None, RunStatus.Active, 1, 2, None, [], None, None))
    return [script(*([key[start:], found.value] for key, found in engine.keys.items())), script([b"\0a", record])]


@target(_run_seeds)
def runs(data: bytes) -> None:
    """Whatever lies where runs and their indices lie is read, or ShoalError says what is wrong."""

    def view() -> RunsView:
        return RunsView(_filled(Tag.RUN, data, NAMESPACE._runs_prefix()), NAMESPACE)

    _try(
        [
            *(lambda: view().get_run("a"), lambda: view().list_runs(), lambda: view().get_child_runs("a")),
            *(lambda: view().query_runs(RunQuery(include_archived=True)), lambda: view().get_stats()),
            lambda: view().query_runs(RunQuery(tags=["t"])),
            lambda: view().delete_run("a", cascade_children=True),
        ]
    )
    # Metadata of an extension, say, decodes and is no value: written again, it is refused as any other would be.
    with contextlib.suppress(TypeError):
        _try([lambda: view().add_tags("a", ["x"])])
    with contextlib.suppress(TypeError):
        _try([lambda: view().archive_run("a")])


def _key_seeds() -> list[bytes]:
    return [script(RUN + b"\1key"), script(RUN + b"\2\1" + bytes(8), NAMESPACE._runs_prefix() + b"\5\0r"), RUN[:9], b""]


@target(_key_seeds)
def keys(data: bytes) -> None:
    """Any key has a text for messages; a store with any keys lists its namespaces and runs, or ShoalError."""
    parts = parts_of(data) or [data]
    engine = DictEngine()
    for i in range(len(parts)):
        key = part(parts, i, bytes, b"")
        assert type(key_space.user_text(key)) is str
        if key:
            engine.put(key, b"\xc0")
    _try([lambda: [list(run_scan.runs_held(engine, namespace)) for namespace in run_scan.namespaces(engine)]])
