"""Acceptance of keys, facades and views. Each test is a line of docs/acceptance.md."""

from __future__ import annotations

import inspect
from enum import IntEnum
from typing import Any

import pytest

import shoal
from shoal import Namespace, TraceType
from shoal.primitives.keys import after, number, sized
from shoal.primitives.rules.tags import Tag
from shoal.primitives.views.cells import StateView
from shoal.primitives.views.events import EventView
from shoal.primitives.views.kv import KVView
from shoal.primitives.views.runs import RunsView
from shoal.primitives.views.traces import TraceView
from tests.support.present import present

DB = shoal.Database

# A facade and what has its methods inside a transaction.
VIEWS: dict[type[Any], type[Any]] = {
    shoal.KVStore: KVView,
    shoal.EventLog: EventView,
    shoal.StateCell: StateView,
    shoal.TraceStore: TraceView,
    shoal.RunIndex: RunsView,
}
# Calls that wait for commits of others, that need no store, or that begin a transaction: not for inside one.
OF_FACADES_ALONE = {"consumer", "follow", "transaction", "verify", "view", "wait", "watch"}


def _kept(db: DB, run: str) -> list[bytes]:
    """What follows the run in the keys of a run."""
    prefix = Namespace()._run_prefix(run)
    return [key[len(prefix) :] for key, _ in db._store.auto_commit.scan(prefix, after(prefix))]


def _runs_kept(db: DB, namespace: Namespace) -> list[bytes]:
    prefix = namespace._runs_prefix()
    return [key[len(prefix) :] for key, _ in db._store.auto_commit.scan(prefix, after(prefix))]


def _public(kind: type[Any]) -> dict[str, inspect.Signature]:
    members = inspect.getmembers(kind, inspect.isfunction)
    return {name: inspect.signature(member) for name, member in members if not name.startswith("_")}


def test_01_primitives_are_there_with_their_dependencies() -> None:
    """All five facades, and the types they take and return, are importable from ``shoal``."""
    names = (
        "KVStore EventLog Event StateCell State TraceStore Trace TraceType RunIndex RunMetadata RunStatus Namespace "
        "Appended Anchor ChainVerification GENESIS_HASH TraceOptions TraceTree CreateRunOptions RunQuery RunStats"
    )
    assert [name for name in names.split() if not hasattr(shoal, name)] == []
    assert set(names.split()) <= set(shoal.__all__)


def test_01_tag_has_all_five_primitive_values() -> None:
    """Each primitive has one tag byte in keys, and its value never changes."""
    assert issubclass(Tag, IntEnum)
    assert (Tag.KV, Tag.EVENT, Tag.STATE, Tag.TRACE, Tag.RUN) == (1, 2, 3, 4, 5)


def test_01_tag_values_do_not_conflict() -> None:
    """No two primitives share a tag byte, the reserved one included, and no tag ends a key range early."""
    assert len({int(tag) for tag in Tag}) == len(Tag.__members__)
    assert all(0 < tag < 0xFF for tag in Tag)
    assert Tag.RESERVED.value == 0x10


def test_01_primitives_work(memory_db: DB, run: str) -> None:
    """Each facade can be made on a database and used."""
    shoal.KVStore(memory_db).put(run, "k", 1)
    shoal.EventLog(memory_db).append(run, "e", 1)
    shoal.StateCell(memory_db).init(run, "c", 1)
    shoal.TraceStore(memory_db).record(run, TraceType.Thought("t"))
    assert shoal.RunIndex(memory_db).create_run(run_id=run).run_id == run
    assert {key[0] for key in _kept(memory_db, run)} == {Tag.KV, Tag.EVENT, Tag.STATE, Tag.TRACE}


def test_02_kv_key_format(memory_db: DB, run: str) -> None:
    """The key of a KV entry is namespace, run, tag, and the user's key as it is."""
    shoal.KVStore(memory_db).put(run, "task/é", 1)
    assert _kept(memory_db, run) == [b"\x01" + "task/é".encode()]
    prefix = Namespace("t", "a", "g")._run_prefix("r")
    assert prefix == b"\x01t\x01a\x01g\x01r"


def test_02_event_key_encodes_sequence_as_big_endian(memory_db: DB, run: str) -> None:
    """The key of an event ends with its sequence in 8 big-endian bytes, so events sort by sequence."""
    log = shoal.EventLog(memory_db)
    for i in range(300):
        log.append(run, "e", i)
    events = [key for key in _kept(memory_db, run) if key.startswith(b"\x02\x01")]
    assert events == [b"\x02\x01" + i.to_bytes(8, "big") for i in range(300)]
    assert number(258) == b"\0\0\0\0\0\0\x01\x02"


def test_02_event_metadata_key(memory_db: DB, run: str) -> None:
    """A log's metadata has a key that no event and no event type can have."""
    shoal.EventLog(memory_db).append_many(run, [("__meta__", 1), ("\0", 2)])
    assert _kept(memory_db, run).count(b"\x02\x00") == 1
    assert shoal.EventLog(memory_db).len(run) == 2


def test_02_state_key_format(memory_db: DB, run: str) -> None:
    """The key of a cell is namespace, run, tag, and the cell's name as it is."""
    shoal.StateCell(memory_db).init(run, "workflow", 1)
    assert _kept(memory_db, run) == [b"\x03workflow"]


def test_02_trace_key_format(memory_db: DB, run: str) -> None:
    """The key of a trace is its kind byte and its id."""
    shoal.TraceStore(memory_db).record(run, TraceType.Thought("t"), id="trace-1")
    assert b"\x04\x00trace-1" in _kept(memory_db, run)


def test_02_trace_index_key_format(memory_db: DB, run: str) -> None:
    """Index keys of traces have their own kind bytes and lengths before texts: delimiters in a text never collide."""
    traces = shoal.TraceStore(memory_db)
    trace_id = traces.record(run, TraceType.Thought("t"), id="i", tags=["a__b", "a"])
    time = number(present(traces.get(run, trace_id)).timestamp)
    indices = [key for key in _kept(memory_db, run) if key[1:2] != b"\0"]
    tag = b"\x04\x02"
    assert tag + sized(b"a__b") + time + b"i" in indices
    assert tag + sized(b"a") + time + b"i" in indices
    assert traces.query_by_tag(run, "a__b")[0].id == "i"


def test_02_run_key_format(memory_db: DB, run: str) -> None:
    """A run's key belongs to the namespace and ends with its id; run indices have kind bytes of their own."""
    namespace = Namespace(tenant=run)
    shoal.RunIndex(memory_db, namespace=namespace).create_run(run_id="r", tags=["nightly"])
    keys = _runs_kept(memory_db, namespace)
    assert keys[0] == b"\x05\x00r"
    assert len(keys) > 1
    assert all(key[0] == Tag.RUN for key in keys)
    assert len({key[1] for key in keys}) == len(keys)


def test_02_keys_with_same_inputs_are_equal() -> None:
    """Equal names give one key, also through equal namespaces; any difference gives another key."""
    assert Namespace("a", "b", "c")._run_prefix("r") == Namespace("a", "b", "c")._run_prefix("r")
    paths = [tuple(letters) for letters in ("abcr", "xbcr", "axcr", "abxr", "abcx")]
    assert len({Namespace(*names)._run_prefix(run) for *names, run in paths}) == len(paths)
    shifted = [("ab", "c", "d", "r"), ("a", "bc", "d", "r"), ("a", "b", "cd", "r"), ("a", "b", "c", "dr")]
    assert len({Namespace(*names)._run_prefix(run) for *names, run in shifted}) == len(shifted)


def test_02_keys_sort_correctly(memory_db: DB, run: str) -> None:
    """Keys sort as Python sorts the strings, numbers sort as numbers, and each primitive's keys are together."""
    names = ["b", "a", "a\0", "é", "🦀", "\uffff", "aa", "Z", "10", "9"]
    for name in names:
        shoal.KVStore(memory_db).put(run, name, 1)
        shoal.StateCell(memory_db).set(run, name, 1)
    kept = _kept(memory_db, run)
    assert [key.decode() for key in kept] == [tag + name for tag in ("\x01", "\x03") for name in sorted(names)]
    numbers = [0, 1, 255, 256, 2**32, 2**63, 2**64 - 1]
    assert sorted(map(number, numbers)) == [number(value) for value in numbers]


@pytest.mark.parametrize("facade", VIEWS, ids=lambda facade: facade.__name__)
def test_03_extensions_have_the_methods_of_the_facades(facade: type[Any]) -> None:
    """A transaction offers the facades' methods with the same parameters, without ``run_id`` (``runs`` keeps it)."""
    view = _public(VIEWS[facade])
    missing = {}
    for name, signature in _public(facade).items():
        if name in OF_FACADES_ALONE:
            continue
        expected = [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in signature.parameters.values()
            if parameter.name != "run_id" or facade is shoal.RunIndex
        ]
        found = view[name].parameters.values() if name in view else ()
        if expected != [(parameter.name, parameter.kind, parameter.default) for parameter in found]:
            missing[name] = str(signature)
    assert missing == {}


def test_03_extensions_are_on_every_transaction(memory_db: DB, run: str) -> None:
    """A transaction, a snapshot, and another run of either offer all five primitives."""

    def kinds(txn: Any) -> list[type[Any]]:
        return [type(each) for each in (txn.kv, txn.events, txn.state, txn.traces, txn.runs)]

    with memory_db.transaction(run) as txn, memory_db.snapshot(run) as view:
        for each in (txn, view, txn.on("other"), view.on("other")):
            assert kinds(each) == list(VIEWS.values())
