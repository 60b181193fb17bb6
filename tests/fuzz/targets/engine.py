"""The commit engine under a hostile client: real writer, log, window and reclaimer over a small segment."""

from __future__ import annotations

import struct
from typing import Any, cast

import msgpack

from shoal.coordinator.commit.apply import ClientSessions
from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.host import THIS_MACHINE
from shoal.coordinator.log.writer import WalWriter
from shoal.coordinator.memory.check_report import check_segment
from shoal.coordinator.memory.reclaim import Reclaimer
from shoal.coordinator.memory.writer import Writer
from shoal.coordinator.recovery.recover import recover
from shoal.coordinator.server.checks import Checks
from shoal.coordinator.server.clients import Client
from shoal.primitives.rules import registry as operations
from shoal.primitives.rules.registry import TABLE
from shoal.shm import clock, codec, limits
from shoal.shm.memory import check_parts
from shoal.shm.memory.reader import Reader
from shoal.shm.memory.segment import Segment
from shoal.shm.memory.snapshots import SnapshotPage, map_page, new_page
from shoal.shm.operation import VersionedValue
from shoal.shm.wire import answer as wire_answer
from shoal.shm.wire import request as wire_request
from shoal.shm.wire.answer import COMMITTED, CONFLICT, REFUSED
from shoal.shm.wire.frames import LENGTH_BYTES, FrameError
from shoal.shm.wire.request import CommitSet
from tests.fuzz.target import part, parts_of, script, target
from tests.fuzz.targets.operation_seeds import (
    EVENT,
    KV,
    OPERATIONS,
    RUN,
    STATE,
    restorable,
    trace_call,
)
from tests.fuzz.targets.pipes import request_bytes
from tests.support.stores.damaged import MemoryStorage
from tests.support.stores.recording_log import RecordingLog

VICTIM, HOSTILE = 7, 8
MOST_REQUESTS = 12
_FILE = "wal-000000000001.log"
_ASKING = Client(
    1, 1, -1, -1, SnapshotPage(map_page(new_page()))
)  # who asks questions; its pipes and slots are not used
State = dict[bytes, VersionedValue]


class Store:
    """A coordinator's engine, with something of every primitive in it."""

    def __init__(self) -> None:
        self.segment = Segment.create(limits.MIN_STORE_BYTES, 1)
        self.writer = Writer(self.segment)
        self.pinned: list[int] = []
        self.reclaimer = Reclaimer(self.writer, lambda: self.pinned)
        self.log = RecordingLog()
        self.engine = CommitEngine(
            self.writer,
            self.reclaimer,
            ConflictWindow(0),
            cast(WalWriter, self.log),
            THIS_MACHINE,
            0,
            ClientSessions(),
            True,
            TABLE,
        )
        self.reader = Reader(self.segment, self.writer.epoch_words)
        self.checks = Checks(self.writer, self.reclaimer)
        self.commit_id = 0
        self.serve([KV + b"n", codec.encode(5), 0, KV + b"text", codec.encode("x" * 300), 0])
        self.serve([KV + b"later", codec.encode(None), clock.now_ms() + 10**9])
        self.serve([], operations=[[name, arguments] for name, arguments in OPERATIONS])

    def close(self) -> None:
        """Let the segment's descriptor go; the mapping goes with the object."""
        self.segment.close_descriptor()

    def serve(self, writes: list[Any], operations: list[Any] | None = None) -> None:
        """A commit of the honest client, which must be done."""
        self.commit_id += 1
        mutations = wire_request.encode_mutations(writes, None, operations)
        request = _decoded(self.commit_id, mutations)
        assert self.answered(VICTIM, request)[1] == COMMITTED

    def answered(self, client_id: int, request: wire_request.CommitSet) -> tuple[int, int, int, Any]:
        """Commit id, status, version and details of what a client is answered."""
        return self.answered_together([(client_id, request)])[0]

    def answered_together(self, requests: list[tuple[int, wire_request.CommitSet]]) -> list[tuple[int, int, int, Any]]:
        """The same of what arrived at one time, from a client each."""
        answers = self.engine.submit_together(requests)
        self.engine.finish_group()
        for raw in answers:
            assert struct.unpack_from("<I", raw)[0] == len(raw) - LENGTH_BYTES
        return [wire_answer.decode_answer(raw[LENGTH_BYTES:]) for raw in answers]

    def honest_append(self) -> wire_request.CommitSet:
        """The honest client's next append to the log that everybody appends to."""
        self.commit_id += 1
        mutations = wire_request.encode_mutations(
            [], None, [["event_append", [EVENT + b"\0", "xxh3", [["e", b"\xc0"]]]]]
        )
        return _decoded(self.commit_id, mutations)

    def state(self) -> State:
        """Every live key with value, version and expiry, each found in the hash index, too."""
        found = dict(self.reader.scan(b"", None, self.engine.published))
        for key, entry in found.items():
            assert self.reader.find(key, self.engine.published) == entry
        return found

    def problems(self) -> list[str]:
        """What a check of the segment says."""
        return check_segment(self.segment, self.engine.published, self.writer)


def _decoded(commit_id: int, mutations: bytes) -> CommitSet:
    return wire_request.decode_request(wire_request.encode_request(commit_id, 0, 0, b"", mutations), TABLE.rules)


_CLASHING = [["cell_set", [EVENT + b"\0", b"x"]], ["event_append", [EVENT + b"\0", "xxh3", [["e", b""]]]]]


def _seeds() -> list[bytes]:
    def one(mutations: list[Any], reads: Any = b"", snapshot: int = 0, valid_until_ms: int = 0) -> bytes:
        return script([1, snapshot, valid_until_ms, reads, mutations])

    writes = [KV + b"n", codec.encode(7), 0, KV + b"new", b"v" * 40, 0, KV + b"text", None, 0]
    clear = [RUN, RUN[:-1] + b"s"]
    many = [[i, 0, 0, b"", [[KV + b"n", codec.encode(i), i % 2 * 10], None, None, None]] for i in range(1, 6)]
    return [
        one([writes, None, None, None]),
        one([writes, clear, None, None], [[KV + b"n"], [[KV, EVENT]]], 2**40, 1000),
        one([[], clear, None, None]),
        script(*many),
        *(one([[], None, [[name, arguments]], None]) for name, arguments in OPERATIONS),
        one([[], None, [[name, arguments] for name, arguments in OPERATIONS], None]),
        # Operations on keys of other primitives, and deciding what the same commit writes.
        one([[], None, [["increment", [STATE + b"cell", 1]]], None]),
        one([[], None, _CLASHING, None]),
        one([writes, clear, [["cell_delete", [KV + b"n"]], ["increment", [KV + b"other", 1]]], None]),
        one([{}, None, None, None]),
        *(
            script([1, 0, 0, b"", [[], None, None, ["check", [0, check_parts.BEGIN, 0]]]], many[0], many[1], asked)
            for asked in (
                [1, 0, 0, b"", [[], None, None, ["check", [1, part, 0]]]]
                for part in ("blocks", "buckets", "branches", "waiting", "allocated", "end")
            )
        ),
    ]


@target(_seeds)
def engine(data: bytes) -> None:
    """A commit is done whole or refused whole, segment sound and log replayable after each; others are served."""
    parts = parts_of(data)
    store = Store()
    try:
        for i, message in enumerate(_messages(data, parts)[:MOST_REQUESTS]):
            _attack(store, message)
            if i % 4 == 0:
                store.serve([KV + b"honest", codec.encode(i), 0], [["increment", [KV + b"honest count", 1]]])
                assert store.problems() == []
        _settle(store)
    finally:
        store.close()


def _messages(data: bytes, parts: list[Any] | None) -> list[bytes]:
    if parts is None:
        return [data]
    return [request_bytes(message) for message in parts if type(message) is list]


def _attack(store: Store, message: bytes) -> None:
    """One request of the hostile client."""
    try:
        request = wire_request.decode_request(message, TABLE.rules)
    except FrameError:
        return
    if request.control is not None:
        _ask(store, request.control)
        return
    before, logged = store.state(), store.log.clients.count(HOSTILE)
    last = store.engine.sessions.get(HOSTILE)
    appends = any(name == operations.EVENT_APPEND for name, _ in request.operations)
    if appends and not request.writes and not request.clears:
        _attack_together(store, request)
        return
    commit_id, status, version, _ = store.answered(HOSTILE, request)
    assert commit_id == request.commit_id
    assert status in (COMMITTED, CONFLICT, REFUSED)
    is_new = store.log.clients.count(HOSTILE) - logged
    after = store.state()
    if status != COMMITTED:
        assert is_new == 0, "a refused commit is in the log"
        assert _unexpired(after) == _unexpired(before), "a refused commit changed something"
        assert store.engine.sessions.get(HOSTILE) == last
    else:
        assert version <= store.engine.published
        assert is_new <= 1
        if is_new and not request.operations:
            _check_applied(request, before, after, version)
    assert store.problems() == []


def _ask(store: Store, control: tuple[str, list[Any]]) -> None:
    """A control request, of a check: whatever its arguments are, it is answered, or it ends its client."""
    name, arguments = control
    if name == "check":
        answer = store.checks.answer(_ASKING, arguments, store.engine.published, 0.0)
        assert answer is None or wire_answer.encode_answer(1, wire_answer.ANSWERED, 0, answer)


def _attack_together(store: Store, request: wire_request.CommitSet) -> None:
    """A hostile append that arrives with an honest one to the same log: one commit, if they can be joined."""
    sessions = store.engine.sessions.get(HOSTILE)
    theirs, honest = store.answered_together([(HOSTILE, request), (VICTIM, store.honest_append())])
    assert theirs[0] == request.commit_id
    assert theirs[1] in (COMMITTED, CONFLICT, REFUSED)
    if theirs[1] != COMMITTED:
        assert store.engine.sessions.get(HOSTILE) == sessions
    # An operation may have been let change the log's metadata: it is the client's own to spoil.
    assert honest[1] in (COMMITTED, REFUSED)
    assert store.problems() == []


def _check_applied(request: wire_request.CommitSet, before: State, after: State, version: int) -> None:
    """Clears, then writes, of one commit and nothing else."""
    expected = {k: e.value for k, e in before.items() if not any(low <= k < up for low, up in request.clears)}
    now_ms = clock.now_ms()
    for key, value, expires_ms in wire_request.triples(request.writes):
        expected.pop(key, None)
        if value is not None and not 0 < expires_ms <= now_ms:
            expected[key] = value
    assert {k: e.value for k, e in after.items()} == expected
    assert all(after[key].version == version for key in request.writes[::3] if key in after)


def _unexpired(state: State) -> State:
    soon = clock.now_ms() + 1000
    return {key: entry for key, entry in state.items() if not 0 < entry.expires_ms < soon}


def _settle(store: Store) -> None:
    """After it all: reclaiming comes to an end, the honest client is served, and the log gives the same store."""
    store.checks.forget(_ASKING)
    assert not store.reclaimer.paused
    while store.engine.sweep_expired():
        pass
    store.engine.finish_group()
    for _ in range(1000):
        if not store.reclaimer.step(store.engine._clock.monotonic_s(), urgent=True):
            break
    else:
        raise AssertionError("reclaiming does not come to an end")
    store.serve([KV + b"honest", b"\xc0", 0], [["cell_set", [STATE + b"honest", b"\xc0"]]])
    assert store.problems() == []
    segment = Segment.create(limits.MIN_STORE_BYTES, 2)
    try:
        writer = Writer(segment)
        found = recover(MemoryStorage({_FILE: store.log.raw}), writer, Reclaimer(writer, list))
        assert found.version == store.engine.version
        assert found.sessions == dict(store.engine.sessions)
        assert _unexpired(dict(Reader(segment).scan(b"", None, found.version))) == _unexpired(store.state())
        assert check_segment(segment, found.version, writer) == []
    finally:
        segment.close_descriptor()


def _operation_seeds() -> list[bytes]:
    again = [
        (name, arguments) for name, arguments in OPERATIONS if name not in ("insert", "cell_init", "event_restore")
    ]
    fresh = [
        (operations.INSERT, trace_call("new", "a")),
        (operations.INSERT, [KV + b"fresh", "it is there", [], [KV + b"fresh", b"\xc0", KV + b"more", b"\xc0"]]),
        (operations.CELL_INIT, [STATE + b"fresh", "fresh", b"\xc0"]),
        (operations.CELL_CAS, [STATE + b"cell", "cell", 2, codec.encode(3)]),
        (operations.EVENT_RESTORE, [EVENT[:-2] + b"y\2\0", restorable("xxh3")]),
    ]
    return [script(name, arguments) for name, arguments in again + fresh]


@target(_operation_seeds)
def operation(data: bytes) -> None:
    """An operation's arguments, whatever they are, refuse that commit or make one that is whole."""
    parts = parts_of(data)
    if parts is None or len(parts) < 2:
        return
    names = sorted(operations.OPERATIONS)
    name = parts[0] if parts[0] in names else names[len(data) % len(names)]
    arguments = list(part(parts, 1, list, []))
    if arguments and type(arguments[0]) is not bytes:
        arguments[0] = KV + b"n"  # else the request is refused before anything looks at the rest
    mutations = msgpack.packb([[], None, [[name, arguments]], None])
    store = Store()
    try:
        _attack(store, wire_request.encode_request(1, 0, 0, b"", mutations))
        _settle(store)
    finally:
        store.close()
